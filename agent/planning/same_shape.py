"""The template's own layout on other disks: bigger where they are bigger. Pure.

Nothing moves but swap behind the partition that grows: boot code knows some partitions by their
place. What a partition gains goes up through arrays, LUKS and groups to the volume that is grown.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from msgspec.structs import replace

from agent.model.filesystems import can_grow
from agent.model.inventory import Drive
from agent.model.layout import Layout, Swap, Volume
from agent.model.md_size import usable_bytes
from agent.model.nodes import (
    Array,
    Disk,
    Gpt,
    Holder,
    LogicalVolume,
    Luks,
    LvKind,
    Mbr,
    MdMetadata,
    Node,
    Partition,
    VolumeGroup,
)
from agent.planning.tables import Room, grown, moved_hybrid
from agent.units import MiB, align_down, format_bytes

Grown = TypeVar("Grown", Array, Luks, LogicalVolume)


@dataclass(frozen=True, slots=True)
class Shaped:
    """A layout on the target's disks, and what the reader of the plan should know of it."""

    layout: Layout
    notes: tuple[str, ...] = ()


def same_shape(layout: Layout, drives: Mapping[str, Drive], grow: str | None) -> Shaped:
    """Return `layout` on `drives` (by disk of the layout), with the volume at `grow` grown.

    `grow` is a mount point; None leaves the rest of the disks free.
    """
    disks = {
        disk.id: replace(
            disk,
            size_bytes=drives[disk.id].size_bytes,
            sector_bytes=drives[disk.id].sector_bytes,
            physical_sector_bytes=drives[disk.id].physical_sector_bytes,
        )
        for disk in layout.disks
    }
    if grow is None:
        return Shaped(_with(layout, disks))
    volume = growing_volume(layout, grow)
    if volume is None:
        note = f"the template does not say what its system mounts at {grow}: nothing grows"
        return Shaped(_with(layout, disks), (note,))
    below = frozenset(node.id for on in layout.nodes_of(volume) for node in layout.carriers(on))
    rising = _Rising(layout, below, grow, dict(disks))
    for node in layout.nodes:
        rising.see(node)
    return Shaped(_hybrids_moved(layout, _with(layout, rising.changed)), tuple(rising.notes))


def growing_volume(layout: Layout, grow: str | None) -> Volume | None:
    """Return the volume that is mounted at `grow`, if its kind can grow."""
    found = (v for v in layout.volumes if grow in v.mount_points and can_grow(v.content))
    return next(found, None)


def _with(layout: Layout, changed: Mapping[str, Node]) -> Layout:
    return replace(layout, nodes=tuple(changed.get(node.id, node) for node in layout.nodes))


def _hybrids_moved(was: Layout, now: Layout) -> Layout:
    """Return `now` with hybrid MBRs that name the partitions where they are."""
    changed: dict[str, Node] = {}
    holders: tuple[Holder, ...] = (*now.disks, *now.tabled_arrays)
    for holder in holders:
        if isinstance(holder.table, Gpt) and holder.table.hybrid:
            entries = moved_hybrid(
                holder.table.hybrid,
                was.partitions(holder.id),
                was.sector_bytes(holder),
                now.partitions(holder.id),
                now.sector_bytes(holder),
            )
            changed[holder.id] = replace(holder, table=replace(holder.table, hybrid=entries))
    return _with(now, changed)


def _grown_on(
    layout: Layout, disk: Holder, sector_bytes: int, below: frozenset[str], grow: str
) -> tuple[tuple[Partition, ...], str | None]:
    """Return the partitions of `disk`, the last of `below` grown, and why it is not, if so."""
    parts = layout.partitions(disk.id)
    wanted = [part for part in parts if part.id in below]
    if not wanted:
        return parts, None
    at = wanted[-1]
    swaps = {volume.on for volume in layout.volumes if isinstance(volume.content, Swap)}
    room = Room(disk.size_bytes, sector_bytes, is_mbr=isinstance(disk.table, Mbr))
    end = max(part.extent.end for part in parts)
    behind = [p for p in parts if p.offset_bytes > at.offset_bytes and not p.is_extended]
    blocker = next((part for part in behind if part.id not in swaps), None)
    if blocker is None:
        return grown(parts, room, at.number, frozenset(swaps)), None
    rest = room.usable.end - end
    if rest < MiB:
        return parts, None
    what = next((v.mount or v.id for v in layout.volumes if v.on == blocker.id), "unknown data")
    return parts, (
        f"{grow} does not grow: partition {blocker.number} ({what}) lies behind it and cannot "
        f"move; {format_bytes(disk.size_bytes - end)} at the end of the disk stay free"
    )


@dataclass(slots=True)
class _Rising:
    """What the disks gain, on its way up: each node is seen after what it stands on."""

    layout: Layout
    below: frozenset[str]
    """What the volume that grows stands on."""
    grow: str
    changed: dict[str, Node]
    """The disks to begin with."""
    gain: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def see(self, node: Node) -> None:
        now = self.changed.get(node.id, node)
        match now:
            case Disk() | Partition():
                self.gain[node.id] = _size(now) - _size(node)
            case Array():
                now = self._larger(now, array_gain(now, self.layout, self.gain))
            case Luks(on=on):
                self._larger(now, self.gain.get(on, 0))
            case VolumeGroup():
                physical = tuple(
                    replace(pv, size_bytes=pv.size_bytes + _extents(self.gain.get(pv.on, 0), now))
                    for pv in now.physical
                )
                self.changed[node.id] = replace(now, physical=physical)
                self.gain[node.id] = sum(pv.size_bytes for pv in physical) - sum(
                    pv.size_bytes for pv in now.physical
                )
            case LogicalVolume() if node.id in self.below:
                self._larger(now, lv_gain(now, self.layout, self.gain))
            case _:
                pass
        if isinstance(now, Disk | Array) and now.table is not None:
            self._grow_on(now)

    def _larger(self, node: Grown, gain: int) -> Grown:
        larger = replace(node, size_bytes=node.size_bytes + gain)
        self.changed[node.id], self.gain[node.id] = larger, gain
        return larger

    def _grow_on(self, holder: Holder) -> None:
        sector = max(
            disk.sector_bytes
            for one in self.layout.disks_of(holder.id)
            if isinstance(disk := self.changed[one.id], Disk)
        )
        parts, blocked = _grown_on(self.layout, holder, sector, self.below, self.grow)
        self.changed |= {part.id: part for part in parts}
        self.notes += [blocked] if blocked else []


def array_gain(array: Array, layout: Layout, gain: Mapping[str, int]) -> int:
    """Return by how much an array grows, at least, when its members grow by `gain`."""
    there = [member for member in array.members if member]
    before = [size_of(layout, member) for member in there]
    after = [size + gain.get(member, 0) for member, size in zip(there, before, strict=True)]
    gained = usable_bytes(array, after) - usable_bytes(array, before)
    if array.metadata is MdMetadata.IMSM:  # here it is exact, and firmware may have made it larger
        gained = min(gained, usable_bytes(array, after) - array.size_bytes)
    return max(0, gained)


def lv_gain(lv: LogicalVolume, layout: Layout, gain: Mapping[str, int]) -> int:
    """Return by how much a logical volume grows when its group does."""
    if lv.lv is LvKind.THIN and lv.pool is not None:
        return gain.get(lv.pool, 0)
    group = layout.node(lv.on)
    assert isinstance(group, VolumeGroup)
    if lv.lv in (LvKind.LINEAR, LvKind.THIN_POOL):
        return max(0, gain.get(lv.on, 0))
    if lv.lv is LvKind.STRIPED:
        return max(0, align_down(gain.get(lv.on, 0), lv.stripes * group.extent_bytes))
    return 0


def size_of(layout: Layout, node_id: str) -> int:
    """Return how many bytes a node offers to what stands on it."""
    node = layout.node(node_id)
    if isinstance(node, VolumeGroup):
        return sum(one.size_bytes for one in node.physical)
    return node.size_bytes


def _extents(gain: int, group: VolumeGroup) -> int:
    return align_down(gain, group.extent_bytes) if gain > 0 else 0


def _size(node: Node) -> int:
    return node.size_bytes if isinstance(node, Disk | Partition) else 0
