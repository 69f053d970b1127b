"""Geometry of a disk: properties that hold for every size and every set of partitions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.planning.free_space import (
    ALIGNMENT,
    both_ends,
    entry_array_bytes,
    free_extents,
    grown_end,
    overlaps,
    usable,
)
from agent.units import Extent, GiB, MiB, TiB

SECTORS = st.sampled_from([512, 1024, 2048, 4096])
DISKS = st.integers(64 * MiB, 64 * TiB)


@st.composite
def used_extents(draw: st.DrawFn) -> list[Extent]:
    """Runs that do not overlap, not aligned, in any order."""
    cuts = sorted(draw(st.lists(st.integers(MiB, 8 * GiB), max_size=16, unique=True)))
    pairs = zip(cuts[::2], cuts[1::2], strict=False)
    return draw(st.permutations([Extent(a, b - a) for a, b in pairs]))


@given(DISKS, SECTORS, used_extents())
def test_free_runs_are_free_aligned_and_inside(size: int, sector: int, used: list[Extent]) -> None:
    free = free_extents(size, sector, used)
    room = usable(size, sector)
    assert overlaps([*free, *used]) == overlaps(used) == []
    for run in free:
        assert run.offset % ALIGNMENT == 0 == run.size % ALIGNMENT
        assert run.offset >= ALIGNMENT
        assert run.end <= room.end


@given(DISKS, SECTORS, used_extents())
def test_no_aligned_mebibyte_is_forgotten(size: int, sector: int, used: list[Extent]) -> None:
    free = free_extents(size, sector, used)
    room = usable(size, sector)
    taken = sorted([*free, *used])
    for before, after in zip([Extent(0, MiB), *taken], [*taken, Extent(room.end, 1)], strict=True):
        start = max(-(-before.end // MiB) * MiB, MiB)
        end = min(after.offset, room.end) // MiB * MiB
        assert end - start <= 0


@given(DISKS, SECTORS, st.integers(0, 16 * MiB))
def test_what_lies_behind_a_grown_partition_fits(size: int, sector: int, behind: int) -> None:
    end = grown_end(size, sector, behind)
    assert end % ALIGNMENT == 0
    assert end + behind <= usable(size, sector).end
    assert usable(size, sector).end - end - behind < 2 * ALIGNMENT


@pytest.mark.parametrize(
    ("sector", "head", "tail"), [(512, 34 * 512, 33 * 512), (4096, 6 * 4096, 5 * 4096)]
)
def test_both_copies_of_the_table_are_kept_free(sector: int, head: int, tail: int) -> None:
    assert usable(GiB, sector) == Extent(head, GiB - head - tail)
    assert entry_array_bytes(sector) == 16384


@given(st.integers(0, TiB), st.integers(1, GiB), st.integers(1, 16 * MiB))
def test_both_ends_of_a_run_lie_in_it(offset: int, size: int, edge: int) -> None:
    run = Extent(offset, size)
    ends = both_ends(run, edge)
    assert ends[0].offset == run.offset
    assert ends[-1].end == run.end
    assert overlaps(ends) == []
    assert sum(end.size for end in ends) == min(size, 2 * edge)


def test_no_disk_that_small_has_room() -> None:
    with pytest.raises(ValueError, match="not a run"):
        usable(16 * 1024, 512)
