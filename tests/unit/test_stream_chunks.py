"""Geometry: which bytes a chunk has, which chunks a request fetches, what a sample is."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import AgentError
from agent.model.extents import Extents
from agent.model.layout import Raw, Volume
from agent.model.template import CHUNK_BYTES, PACK_TYPE, Descriptor, IndexEntry
from agent.store.template import VolumeBlobs
from agent.stream.blocks import overlap, without
from agent.stream.chunks import Chunk, VolumeSource, chunks_of, count_chunks
from agent.stream.fetch import RUN_BYTES, in_runs
from agent.stream.verify import sample
from agent.units import Extent, MiB

HEX = "ab" * 32


def make_source(
    *used: Extent, blank: tuple[Extent, ...] = (), size_bytes: int = 100 * MiB
) -> VolumeSource:
    volume = Volume(
        id="root",
        on="disk0",
        content=Raw(),
        size_bytes=size_bytes,
        used_bytes=0,
        minimum_bytes=100 * MiB,
    )
    return VolumeSource(volume, Path("/dev/null"), 0, used, blank)


def test_extents_are_cut_at_chunks_and_join_where_they_touch() -> None:
    used = (Extent(0, 512), Extent(512, 512), Extent(4096, 2 * CHUNK_BYTES - 4096))
    assert list(chunks_of(make_source(*used))) == [
        Chunk(0, (Extent(0, 1024), Extent(4096, CHUNK_BYTES - 4096))),
        Chunk(1, (Extent(CHUNK_BYTES, CHUNK_BYTES),)),
    ]


def test_where_little_is_used_a_chunk_reaches_further() -> None:
    """Spans of a power of two windows: what changes in one leaves the others as they were."""
    far = [Extent(number * CHUNK_BYTES, 1 * MiB) for number in (1, 2, 3, 7, 8, 9, 10, 12, 20)]
    assert [
        (chunk.number, [run.offset // CHUNK_BYTES for run in chunk.extents])
        for chunk in chunks_of(make_source(*far))
    ] == [(1, [1, 2, 3, 7]), (8, [8, 9, 10, 12]), (20, [20])]
    full = [Extent(5 * CHUNK_BYTES, CHUNK_BYTES)]
    assert [
        (chunk.number, [run.offset // CHUNK_BYTES for run in chunk.extents])
        for chunk in chunks_of(make_source(*sorted(far + full)))
    ] == [(1, [1, 2, 3]), (5, [5]), (7, [7]), (8, [8, 9, 10, 12]), (20, [20])]


windows = st.lists(
    st.tuples(
        st.integers(0, 24) | st.integers(2**14 - 4, 2**14 + 4),
        st.integers(1, 8),
        st.integers(0, 8),
    ),
    max_size=24,
    unique_by=lambda window: window[0],
).map(sorted)


@given(windows)
def test_chunks_are_those_of_the_largest_spans_that_hold_little(
    content: list[tuple[int, int, int]],
) -> None:
    """The same by its definition: halve an aligned span until what is in it is little enough."""
    eighth = CHUNK_BYTES // 8
    used: list[Extent] = []
    zeros: list[Extent] = []
    for number, data, blank in content:
        blank = min(blank, 8 - data)
        used.append(Extent(number * CHUNK_BYTES, (data + blank) * eighth))
        if blank:
            zeros.append(Extent(number * CHUNK_BYTES + data * eighth, blank * eighth))

    def spans(first: int, level: int) -> list[list[tuple[int, int, int]]]:
        inside = [one for one in content if first <= one[0] < first + 2**level]
        if level == 0 or sum(data for _, data, _ in inside) <= 8:
            return [inside] if inside else []
        half = 2 ** (level - 1)
        return spans(first, level - 1) + spans(first + half, level - 1)

    expected = []
    for span in (*spans(0, 14), *spans(2**14, 14)):
        size = sum(data for _, data, _ in span)
        blanks = sum(min(blank, 8 - data) for _, data, blank in span)
        expected.append((span[0][0], False, size * eighth))
        if blanks:
            expected.append((span[0][0], True, blanks * eighth))
    source = replace(make_source(*used, size_bytes=2**15 * CHUNK_BYTES), zeros=zeros)
    found = [(chunk.number, chunk.is_zeros, chunk.size) for chunk in chunks_of(source)]
    assert found == expected
    assert count_chunks(source) == len(found)
    runs = sorted(run for chunk in chunks_of(source) for run in chunk.extents)
    assert Extents(runs) == Extents(used)


def test_a_chunk_of_several_windows_has_not_too_many_runs_and_not_too_many_zeros() -> None:
    runs = [Extent(at * 65536, 4096) for at in range(1000)]
    sizes = [len(chunk.extents) for chunk in chunks_of(make_source(*runs))]
    assert sizes == [256, 256, 256, 232]
    whole = (Extent(0, 400 * MiB),)
    source = replace(make_source(*whole, size_bytes=400 * MiB), zeros=whole)
    sizes = [chunk.size for chunk in chunks_of(source)]
    assert sizes == [256 * MiB, 144 * MiB]


def test_a_chunk_knows_what_is_blank_in_it() -> None:
    blank = (Extent(CHUNK_BYTES - 10, 20),)
    chunks = list(chunks_of(make_source(Extent(0, 3 * CHUNK_BYTES), blank=blank)))
    assert [chunk.blank for chunk in chunks] == [blank, blank, ()]


@pytest.mark.parametrize(
    "used",
    [
        (Extent(512, 512), Extent(0, 512)),
        (Extent(0, 1024), Extent(512, 1024)),
        (Extent(100 * MiB - 512, 1024),),
    ],
)
def test_extents_that_cannot_be_are_refused(used: tuple[Extent, ...]) -> None:
    with pytest.raises(AgentError, match="used extents of root are not in order, or not inside"):
        list(chunks_of(make_source(*used)))


def positions(extents: tuple[Extent, ...]) -> set[int]:
    return {at for run in extents for at in range(run.offset, run.end)}


runs = st.lists(st.tuples(st.integers(0, 200), st.integers(1, 30)), max_size=6).map(
    lambda pairs: tuple(Extent(offset, size) for offset, size in sorted(pairs))
)


@given(runs, runs)
def test_without_takes_out_just_the_holes(
    extents: tuple[Extent, ...], holes: tuple[Extent, ...]
) -> None:
    left = without(extents, holes)
    assert positions(left) == positions(extents) - positions(holes)


@given(st.integers(0, 50), st.integers(1, 50), st.integers(0, 50), st.integers(1, 50))
def test_overlap_is_what_both_have(a: int, b: int, c: int, d: int) -> None:
    one, other = Extent(a, b), Extent(c, d)
    common = overlap(one, other)
    assert positions((common,) if common else ()) == positions((one,)) & positions((other,))


def entry(number: int, pack: int, offset: int, stored: int) -> IndexEntry:
    extents = ((number * CHUNK_BYTES, CHUNK_BYTES),)
    return IndexEntry(number, extents, pack, offset, stored, HEX if stored else None, HEX)


def blob(name: str) -> Descriptor:
    return Descriptor(media_type=PACK_TYPE, digest=f"sha256:{name * 64}", size=64 * MiB)


def test_a_run_stays_in_one_pack_and_within_its_size() -> None:
    entries = [entry(number, 0, number * 3 * MiB, 3 * MiB) for number in range(23)]
    entries += [entry(23, -1, 0, 0), entry(24, 1, 0, 100), entry(25, 1, 100, 100)]
    blobs = VolumeBlobs(blob("c"), {0: blob("a"), 1: blob("b")})
    found = list(in_runs(entries, blobs, count=1000, lanes=4))
    assert [[item.number for item in run.entries] for run in found] == [
        [*range(21)],
        [21, 22],
        [24, 25],
        [23],
    ]
    assert [run.pack and run.pack.digest[7] for run in found] == ["a", "a", "b", None]
    assert all(sum(item.stored_bytes for item in run.entries) <= RUN_BYTES for run in found)


@pytest.mark.parametrize("pack", [0, -1])
def test_runs_get_shorter_towards_the_end(pack: int) -> None:
    entries = [entry(number, pack, number * 100, 100) for number in range(400)]
    blobs = VolumeBlobs(blob("c"), {0: blob("a")})
    sizes = [len(run.entries) for run in in_runs(entries, blobs, count=400, lanes=2)]
    assert sizes == [64, 64, 54, 43, 35, 28, 22, 18, 14, 11, 9, 7, 6, 5, 4, 4, 4, 4, 4]


@given(st.integers(1, 500), st.integers(0, 2**32))
def test_a_sample_has_both_ends_and_at_least_five_percent(count: int, seed: int) -> None:
    entries = [entry(number, 0, number, 1) for number in range(count)]
    chosen = [item.number for item in sample(entries, count, seed)]
    assert chosen[0] == 0
    assert chosen[-1] == count - 1
    assert chosen == sorted(set(chosen))
    assert len(chosen) * 20 >= count
    assert chosen == [item.number for item in sample(entries, count, seed)]


def test_chunks_of_known_zeros_are_marked_and_no_others() -> None:
    used = (Extent(0, 3 * CHUNK_BYTES), Extent(4 * CHUNK_BYTES, 8192))
    zeros = (Extent(CHUNK_BYTES - 4096, CHUNK_BYTES + 4096), Extent(4 * CHUNK_BYTES, 4096))
    source = replace(make_source(*used), zeros=zeros)
    assert [chunk.is_zeros for chunk in chunks_of(source)] == [False, True, False, False, True]


def test_known_zeros_are_whole_pages() -> None:
    """Beside what is read and written in its own way, no page is in two chunks."""
    used = (Extent(1024, 20 * 1024), Extent(65536, 4096))
    source = replace(make_source(*used), zeros=(Extent(3072, 1024), Extent(6144, 59392)))
    data, zeros = chunks_of(source)
    assert zeros.extents == (Extent(8192, 12 * 1024),)
    assert data.extents == (Extent(1024, 7 * 1024), Extent(20 * 1024, 1024), Extent(65536, 4096))
