"""Where partitions go on other disks: grown ones, movable ones, containers, other sectors."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.nodes import ESP_TYPE, MBR_PENDING_TYPE, PENDING_TYPE, Gpt, Mbr, Partition
from agent.model.table import PlannedPartition, PlannedTable
from agent.planning.tables import (
    Room,
    grown,
    is_logical,
    logical_objections,
    moved_hybrid,
    pending,
    sector_objections,
)
from agent.units import GiB, KiB, MiB, TiB
from tests.unit.make_plan import DISK_UUID, guid, make_partition

MBR_ID = "89abcdef"


def part(number: int, offset: int, size: int, kind: str = "83") -> Partition:
    return make_partition(number, offset, size, type=kind, uuid=f"{MBR_ID}-{number:02x}")


def names(*numbers: int) -> frozenset[str]:
    return frozenset(f"disk0p{number}" for number in numbers)


def places(parts: tuple[Partition, ...]) -> dict[int, tuple[int, int]]:
    """Return offset and size by number, in MiB."""
    return {p.number: (p.offset_bytes // MiB, p.size_bytes // MiB) for p in parts}


def test_a_logical_root_grows_and_its_container_with_it() -> None:
    parts: tuple[Partition, ...] = (part(1, MiB, 99 * MiB), part(2, 100 * MiB, 900 * MiB, "f"))
    parts += (part(5, 101 * MiB, 899 * MiB),)
    after = grown(parts, Room(4 * GiB, 512, is_mbr=True), 5, names())
    assert places(after) == {1: (1, 99), 2: (100, 3996), 5: (101, 3995)}


def test_swap_behind_a_logical_root_moves_to_the_end_of_the_container() -> None:
    parts: tuple[Partition, ...] = (part(1, MiB, 99 * MiB), part(2, 100 * MiB, 900 * MiB, "5"))
    parts += (part(5, 101 * MiB, 499 * MiB), part(6, 601 * MiB, 399 * MiB, "82"))
    parts += (part(3, 1000 * MiB, 24 * MiB, "82"),)
    after = grown(parts, Room(4 * GiB, 512, is_mbr=True), 5, names(6, 3))
    end = 4096 - 24
    assert places(after) == {
        1: (1, 99),
        2: (100, end - 100),
        5: (101, end - 400 - 101),
        6: (end - 399, 399),
        3: (end, 24),
    }


def test_a_container_with_nothing_but_swap_moves_whole() -> None:
    """What Debian's installer makes: root, and swap inside an extended partition behind it."""
    extended, swap = 800 * MiB - 1024, 800 * MiB
    parts: tuple[Partition, ...] = (
        part(1, MiB, 798 * MiB),
        part(2, extended, 200 * MiB + 1024, "5"),
    )
    parts += (part(5, swap, 200 * MiB, "82"),)
    after = grown(parts, Room(2 * GiB, 512, is_mbr=True), 1, names(5))
    assert places(after) == {1: (1, 1846), 2: (1847, 201), 5: (1848, 200)}


def test_an_empty_container_moves_as_it_is() -> None:
    parts: tuple[Partition, ...] = (part(1, MiB, 99 * MiB), part(2, 100 * MiB, 50 * MiB, "f"))
    after = grown(parts, Room(GiB, 512, is_mbr=True), 1, names())
    assert places(after) == {1: (1, 973), 2: (974, 50)}


def test_what_cannot_move_keeps_all_in_place() -> None:
    parts: tuple[Partition, ...] = (part(1, MiB, 99 * MiB), part(2, 100 * MiB, 50 * MiB))
    assert grown(parts, Room(GiB, 512, is_mbr=True), 1, names()) == parts


def test_an_mbr_ends_where_its_numbers_do() -> None:
    parts: tuple[Partition, ...] = (part(1, MiB, GiB),)
    for sector, reach in ((512, 2 * TiB - MiB), (4096, 16 * TiB - MiB)):
        after = grown(parts, Room(32 * TiB, sector, is_mbr=True), 1, names())
        assert after[0].extent.end == reach
        assert sector_objections(after, Room(32 * TiB, sector, is_mbr=True)) == ()
    (said,) = sector_objections((part(1, 2 * TiB, MiB),), Room(32 * TiB, 512, is_mbr=True))
    assert "partition 1 ends at 2199024304128, a table can reach to 2199023255040" in said


@st.composite
def mbr_parts(draw: st.DrawFn) -> tuple[tuple[Partition, ...], int, frozenset[str]]:
    """Primaries, a container with logicals in any order of numbers; the grown one; what moves."""
    sizes = st.integers(1, 600 * 2048).map(lambda sectors: sectors * 512)
    gaps = st.integers(1, 4096).map(lambda sectors: sectors * 512)
    at, parts = MiB, []
    kinds = draw(st.permutations(["primary", "primary", "box"]))
    logicals = draw(st.integers(1, 6))
    numbers = draw(st.permutations(range(5, 5 + logicals)))
    for number, kind in enumerate(kinds, start=1):
        if kind == "primary":
            parts.append(part(number, at, draw(sizes)))
            at = parts[-1].extent.end
            continue
        start = at
        for logical in numbers:
            at += draw(gaps)
            parts.append(part(logical, at, draw(sizes)))
            at = parts[-1].extent.end
        parts.append(part(number, start, at - start, "f"))
    ordered = sorted((p for p in parts if not p.is_extended), key=lambda p: p.offset_bytes)
    index = draw(st.integers(0, len(ordered) - 1))
    movable = frozenset(p.id for p in ordered[index + 1 :])
    return tuple(parts), ordered[index].number, movable


@given(mbr_parts(), st.integers(0, 64 * GiB // 512))
def test_grown_tables_are_sound(
    given_parts: tuple[tuple[Partition, ...], int, frozenset[str]], more: int
) -> None:
    parts, number, movable = given_parts
    size = max(p.extent.end for p in parts) + more * 512
    room = Room(size, 512, is_mbr=True)
    after = grown(parts, room, number, movable)
    assert [p.number for p in after] == [p.number for p in parts]
    assert sector_objections(after, room) == ()
    box = next(p for p in after if p.is_extended)
    for was, now in zip(parts, after, strict=True):
        if was.number == number:
            assert now.offset_bytes == was.offset_bytes
            assert now.size_bytes >= was.size_bytes
        elif not was.is_extended:
            assert now.size_bytes == was.size_bytes
            assert now.offset_bytes == was.offset_bytes or was.id in movable
        if was.number > 4:
            assert is_logical(now, box)
            assert now.extent.end <= box.extent.end
    solid = sorted((p for p in after if p.number <= 4), key=lambda p: p.offset_bytes)
    inner = sorted((p for p in after if p.number > 4), key=lambda p: p.offset_bytes)
    assert all(one.extent.end <= other.offset_bytes for one, other in pairwise(solid))
    # a sector for each logical partition's own table
    assert box.offset_bytes < inner[0].offset_bytes
    assert all(one.extent.end < other.offset_bytes for one, other in pairwise(inner))


def test_lengths_stay_when_sectors_change() -> None:
    whole = (part(1, MiB, 8 * MiB, ESP_TYPE),)
    assert sector_objections(whole, Room(GiB, 4096)) == ()
    old = (part(1, 34 * 512, MiB - 34 * 512, ESP_TYPE), part(2, 2 * MiB, 3 * KiB, ESP_TYPE))
    said = sector_objections(old, Room(GiB, 4096))
    assert len(said) == 3
    assert (
        "partition 1 (1031168 bytes from 17408 on) is not made of whole sectors of 4096" in said[0]
    )
    assert "begins at 17408, inside the partition table" in said[1]
    assert "partition 2" in said[2]
    (said_of_end,) = sector_objections((part(1, MiB, GiB - MiB - 33 * 512),), Room(GiB, 4096))[1:]
    assert "a table can reach to 1073721344" in said_of_end


def planned(*kinds: str, table: Gpt | Mbr) -> PlannedTable:
    return PlannedTable(
        table=table,
        sector_bytes=512,
        partitions=tuple(
            PlannedPartition(
                number=number,
                offset_bytes=number * MiB,
                size_bytes=MiB,
                type=kind,
                uuid=guid(number) if isinstance(table, Gpt) else f"{MBR_ID}-{number:02x}",
                name="root" if isinstance(table, Gpt) else "",
                attributes=("LegacyBIOSBootable",) if isinstance(table, Gpt) else ("bootable",),
            )
            for number, kind in enumerate(kinds, start=1)
        ),
    )


@pytest.mark.parametrize("box", ["5", "f", "85"])
def test_a_pending_mbr_boots_nothing_and_keeps_its_container(box: str) -> None:
    table = pending(planned("83", box, "ef", table=Mbr(disk_id=MBR_ID)), "j-1")
    assert [one.type for one in table.partitions] == [MBR_PENDING_TYPE, box, MBR_PENDING_TYPE]
    assert not any(one.attributes or one.name for one in table.partitions)
    assert table.table == Mbr(disk_id=MBR_ID)


def test_a_pending_gpt_boots_nothing_and_is_no_hybrid() -> None:
    table = pending(planned(ESP_TYPE, table=Gpt(uuid=DISK_UUID, hybrid="00" * 64)), "j-1")
    assert [(one.type, one.name) for one in table.partitions] == [(PENDING_TYPE, "pending:j-1")]
    assert not table.partitions[0].attributes
    assert table.table == Gpt(uuid=DISK_UUID)


def test_logical_partitions_are_a_chain_with_room_for_its_links() -> None:
    box = part(2, 100 * MiB, 100 * MiB, "f")
    ends_at = 101 * MiB + 512
    good = (box, part(6, 101 * MiB, 512), part(5, ends_at + 512, MiB))
    assert logical_objections(good, 512) == ()
    assert logical_objections((part(1, MiB, MiB), part(4, 3 * MiB, MiB)), 512) == ()
    (hole,) = logical_objections((box, part(5, 101 * MiB, MiB), part(7, 103 * MiB, MiB)), 512)
    assert "numbered 5, 7: they must follow on from 5" in hole
    touching = (box, part(5, 101 * MiB, MiB), part(6, 102 * MiB, MiB))
    assert logical_objections(touching, 512) == (
        "logical partition 6 has no room in front for its table",
    )
    first_link = (box, part(6, 100 * MiB + 512, 512), part(5, 102 * MiB, MiB))
    assert "partition 6 has no room" in logical_objections(first_link, 512)[0]
    assert "partition 5 has no room" in logical_objections((box, part(5, 100 * MiB, MiB)), 512)[0]


def entry(kind: int, start: int, sectors: int) -> bytes:
    numbers = start.to_bytes(4, "little") + sectors.to_bytes(4, "little")
    return bytes([0x80, 0, 2, 0, kind, 255, 255, 255]) + numbers


def test_a_hybrid_follows_its_partitions() -> None:
    was = (part(1, MiB, MiB), part(2, 4 * MiB, 8 * MiB))
    now = (part(1, MiB, MiB), part(2, 4 * MiB, GiB))
    blank = bytes(16)
    lone = entry(0x83, 77, 5)  # names nothing that the GPT has
    before = entry(0xEE, 1, 2047) + entry(0xEF, 2048, 2048) + entry(0x83, 8192, 16384)
    after = entry(0xEE, 1, 2047) + entry(0xEF, 2048, 2048) + entry(0x83, 8192, GiB // 512)
    assert moved_hybrid((before + blank).hex(), was, 512, was, 512) == (before + blank).hex()
    assert moved_hybrid((before + lone).hex(), was, 512, now, 512) == (after + lone).hex()
    scaled = moved_hybrid((before + blank).hex(), was, 512, now, 4096)
    assert scaled[64:96] == entry(0x83, 1024, GiB // 4096).hex()
    far = moved_hybrid((before + blank).hex(), was, 512, (part(2, 4 * TiB, GiB),), 512)
    assert far == (entry(0xEE, 1, 2047) + entry(0xEF, 2048, 2048) + blank * 2).hex()
    long = moved_hybrid((before + blank).hex(), was, 512, (part(2, 4 * MiB, 4 * TiB),), 512)
    assert long[64:96] == entry(0x83, 8192, 2**32 - 1).hex()
