"""Where partitions go on a disk, GPT or MBR. Pure; bytes in, bytes out."""

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from agent.model.nodes import (
    BIOS_BOOT_TYPE,
    MBR_PENDING_TYPE,
    PENDING_TYPE,
    Gpt,
    Partition,
    Table,
)
from agent.model.table import PlannedPartition, PlannedTable
from agent.planning.free_space import ALIGNMENT, entry_array_bytes, usable
from agent.units import Extent, align_down, align_up

_MBR_SECTORS = 2**32 - 1
"""An MBR counts in 32 bits, and sfdisk leaves the last sector that they could name alone."""


@dataclass(frozen=True, slots=True)
class Room:
    """How much of a disk partitions may take."""

    disk_bytes: int
    sector_bytes: int
    is_mbr: bool = False

    @property
    def usable(self) -> Extent:
        """What lies between the two GPT copies; behind an MBR, as far as it can count.

        Raises ValueError where `is_enough` is not.
        """
        if not self.is_mbr:
            return usable(self.disk_bytes, self.sector_bytes)
        end = min(self.disk_bytes, _MBR_SECTORS * self.sector_bytes)
        return Extent(self.sector_bytes, align_down(end, self.sector_bytes) - self.sector_bytes)

    @property
    def is_enough(self) -> bool:
        """Whether there is room for a table and anything beside it."""
        return self.disk_bytes >= 2 * (2 * self.sector_bytes + _backup_bytes(self.sector_bytes))


def needs_bytes(parts: Sequence[Partition], table: Table | None, sector_bytes: int) -> int:
    """Return the smallest disk that holds `parts` where they are, and the backup of a GPT."""
    end = align_up(max((part.extent.end for part in parts), default=0), sector_bytes)
    return end + _backup_bytes(sector_bytes) if isinstance(table, Gpt) else end


def _backup_bytes(sector_bytes: int) -> int:
    return sector_bytes + entry_array_bytes(sector_bytes)


def grown(
    parts: Sequence[Partition], room: Room, number: int, movable: frozenset[str]
) -> tuple[Partition, ...]:
    """Return `parts` with partition `number` grown to the end of the disk.

    What lies behind it must be `movable` (by id) and keeps its size at the end. An extended
    partition grows with the logical one in it, or moves whole when all in it moves. If there is
    nothing to gain, or something behind is not movable, `parts` stay as they are.
    """
    target = next(part for part in parts if part.number == number)
    box = next((part for part in parts if part.is_extended and _inside(part, parts)), None)
    behind = [
        part
        for part in sorted(parts, key=lambda part: part.offset_bytes)
        if part.offset_bytes > target.offset_bytes and part is not box
    ]
    if any(part.id not in movable and not part.is_extended for part in behind):
        return tuple(parts)
    outer, inner = _by_container(behind, box)
    end = align_down(room.usable.end - sum(map(_room_for, outer)), ALIGNMENT)
    placed: dict[str, Partition] = {}
    if box is not None and is_logical(target, box):
        placed[box.id] = replace(box, size_bytes=end - box.offset_bytes)
        limit = end - sum(map(_room_for_logical, inner))
        _place_logical(placed, inner, limit)
    else:
        limit = end if box is None or not inner else end - _room_for_container(inner)
        if box is not None and inner:
            placed[box.id] = replace(box, offset_bytes=limit, size_bytes=end - limit)
            _place_logical(placed, inner, limit)
    if limit <= target.extent.end:
        return tuple(parts)
    placed[target.id] = replace(target, size_bytes=limit - target.offset_bytes)
    for part in outer:
        placed[part.id] = replace(part, offset_bytes=end)
        end += _room_for(part)
    return tuple(placed.get(part.id, part) for part in parts)


def is_logical(part: Partition, box: Partition) -> bool:
    """Return whether `part` lies inside the extended partition `box`."""
    return part.id != box.id and box.offset_bytes <= part.offset_bytes < box.extent.end


def _by_container(
    parts: Sequence[Partition], box: Partition | None
) -> tuple[list[Partition], list[Partition]]:
    """Return those beside `box` and those in it."""
    inner = _inside(box, parts) if box is not None else []
    return [part for part in parts if part not in inner], inner


def _inside(box: Partition, parts: Sequence[Partition]) -> list[Partition]:
    return [part for part in parts if is_logical(part, box)]


def _room_for(part: Partition) -> int:
    return align_up(part.size_bytes, ALIGNMENT)


def _room_for_logical(part: Partition) -> int:
    """With what lies in front of it: one sector of it holds the logical partition's own table."""
    return ALIGNMENT + _room_for(part)


def _room_for_container(inner: Sequence[Partition]) -> int:
    return sum(map(_room_for_logical, inner))


def _place_logical(placed: dict[str, Partition], inner: Sequence[Partition], at: int) -> None:
    for part in inner:
        placed[part.id] = replace(part, offset_bytes=at + ALIGNMENT)
        at += _room_for_logical(part)


def sector_objections(parts: Sequence[Partition], room: Room) -> tuple[str, ...]:
    """Return why `parts` cannot lie at the same bytes of a disk with the sectors of `room`.

    Lengths are bytes, so nothing changes for a partition that is made of whole sectors there too.
    """
    sector, usable_run = room.sector_bytes, room.usable
    said = []
    for part in parts:
        where = f"partition {part.number}"
        if part.offset_bytes % sector or part.size_bytes % sector:
            said.append(
                f"{where} ({part.size_bytes} bytes from {part.offset_bytes} on) is not made of "
                f"whole sectors of {sector} bytes"
            )
        if part.offset_bytes < usable_run.offset:
            said.append(f"{where} begins at {part.offset_bytes}, inside the partition table")
        if part.extent.end > usable_run.end:
            said.append(f"{where} ends at {part.extent.end}, a table can reach to {usable_run.end}")
    return tuple(said)


def logical_objections(parts: Sequence[Partition], sector_bytes: int) -> tuple[str, ...]:
    """Return why the logical partitions of an MBR cannot be as `parts` say.

    They are a chain, numbered in its order. The table of each lies in the sector in front of it;
    that of the first at the start of the extended partition.
    """
    box = next((part for part in parts if part.is_extended), None)
    if box is None:
        return ()
    chain = sorted(_inside(box, parts), key=lambda part: part.number)
    said = []
    if [part.number for part in chain] != list(range(5, 5 + len(chain))):
        numbers = ", ".join(str(part.number) for part in chain)
        said.append(f"the logical partitions are numbered {numbers}: they must follow on from 5")
    for part in chain:
        front = part.offset_bytes - sector_bytes
        taken = [other for other in chain if other.offset_bytes <= front < other.extent.end]
        first = part is not chain[0] and front == box.offset_bytes
        if taken or first or front < box.offset_bytes:
            said.append(f"logical partition {part.number} has no room in front for its table")
    return tuple(said)


def moved_hybrid(
    entries: str,
    was: Sequence[Partition],
    was_sector_bytes: int,
    now: Sequence[Partition],
    now_sector_bytes: int,
) -> str:
    """Return the entries of a hybrid MBR (64 bytes, hexadecimal) for partitions that were changed.

    An entry with the place of one of `was` gets that of the same number in `now`; it ends where an
    MBR's numbers do, and goes if it would begin behind that. The protective ones stay.
    """
    places = {part.offset_bytes: part.number for part in was}
    after = {part.number: part.extent for part in now}
    data = bytearray.fromhex(entries)
    for at in range(0, len(data), 16):
        start = int.from_bytes(data[at + 8 : at + 12], "little") * was_sector_bytes
        number = places.get(start)
        if data[at + 4] in (0, 0xEE) or number is None or number not in after:
            continue
        extent = after[number]
        first, size = (length // now_sector_bytes for length in (extent.offset, extent.size))
        if first >= _MBR_SECTORS:
            data[at : at + 16] = bytes(16)
            continue
        size = min(size, _MBR_SECTORS)
        data[at + 8 : at + 16] = first.to_bytes(4, "little") + size.to_bytes(4, "little")
    return data.hex()


def pending(table: PlannedTable, job: str) -> PlannedTable:
    """Return `table` with every partition of the pending type, without a word that boots.

    Those for GRUB's core image stay what they are: nothing boots them without the first sector,
    and grub-install finds them by their type.
    """
    is_gpt = isinstance(table.table, Gpt)
    kind = PENDING_TYPE if is_gpt else MBR_PENDING_TYPE
    return PlannedTable(
        table=replace(table.table, hybrid=None) if isinstance(table.table, Gpt) else table.table,
        sector_bytes=table.sector_bytes,
        partitions=tuple(
            PlannedPartition(
                number=part.number,
                offset_bytes=part.offset_bytes,
                size_bytes=part.size_bytes,
                type=part.type if part.is_extended or part.type == BIOS_BOOT_TYPE else kind,
                uuid=part.uuid,
                name=f"pending:{job}" if is_gpt else "",
            )
            for part in table.partitions
        ),
    )
