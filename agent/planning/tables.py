"""Where partitions go on a disk, GPT or MBR. Pure; bytes in, bytes out."""

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from agent.model.nodes import MBR_PENDING_TYPE, PENDING_TYPE, Gpt, Partition
from agent.model.table import PlannedPartition, PlannedTable
from agent.planning.free_space import ALIGNMENT, usable
from agent.units import Extent, align_down, align_up

_MBR_SECTORS = 2**32


@dataclass(frozen=True, slots=True)
class Room:
    """How much of a disk partitions may take."""

    disk_bytes: int
    sector_bytes: int
    is_mbr: bool = False

    @property
    def usable(self) -> Extent:
        """What lies between the two GPT copies; behind an MBR, as far as it can count."""
        if not self.is_mbr:
            return usable(self.disk_bytes, self.sector_bytes)
        end = min(self.disk_bytes, _MBR_SECTORS * self.sector_bytes)
        return Extent(self.sector_bytes, align_down(end, self.sector_bytes) - self.sector_bytes)


def grown(
    parts: Sequence[Partition], room: Room, number: int, movable: frozenset[str]
) -> tuple[Partition, ...]:
    """Return `parts` with partition `number` grown to the end of the disk.

    What lies behind it must be `movable` (by id) and keeps its size at the end. An extended
    partition grows with what is in it; in front of each logical one stays room for its table.
    """
    ordered = sorted((p for p in parts if not p.is_extended), key=lambda p: p.offset_bytes)
    at = next(index for index, part in enumerate(ordered) if part.number == number)
    behind = ordered[at + 1 :]
    assert all(part.id in movable for part in behind)
    gaps = [ALIGNMENT if part.number > 4 and room.is_mbr else 0 for part in behind]
    moved_bytes = sum(
        align_up(part.size_bytes, ALIGNMENT) + gap for part, gap in zip(behind, gaps, strict=True)
    )
    end = align_down(room.usable.end - moved_bytes, ALIGNMENT)
    target = ordered[at]
    if end <= target.extent.end:
        return tuple(parts)
    placed = {target.id: replace(target, size_bytes=end - target.offset_bytes)}
    for part, gap in zip(behind, gaps, strict=True):
        placed[part.id] = replace(part, offset_bytes=end + gap)
        end = end + gap + align_up(part.size_bytes, ALIGNMENT)
    result = [placed.get(part.id, part) for part in parts]
    return tuple(_around(part, result) if part.is_extended else part for part in result)


def _around(box: Partition, parts: Sequence[Partition]) -> Partition:
    last = max((part.extent.end for part in parts if part.number > 4), default=box.extent.end)
    end = max(last, box.extent.end)
    return replace(box, size_bytes=end - box.offset_bytes)


def pending(table: PlannedTable, job: str) -> PlannedTable:
    """Return `table` with every partition of the pending type, without a word that boots."""
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
                type=part.type if part.is_extended else kind,
                uuid=part.uuid,
                name=f"pending:{job}" if is_gpt else "",
            )
            for part in table.partitions
        ),
    )
