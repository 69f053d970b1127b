"""Whether a layout makes sense in itself: a template comes from outside and may say anything. Pure.

Each reason is one sentence for a person.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import chain

from agent.model.layout import BootCode, Layout, MbrGap, Volume
from agent.model.md_size import copies, why_not
from agent.model.nodes import (
    MBR_PENDING_TYPE,
    PENDING_TYPE,
    Array,
    Disk,
    Gpt,
    Holder,
    LogicalVolume,
    Luks,
    LvKind,
    Mbr,
    MdLevel,
    MdMetadata,
    Node,
    Partition,
    Table,
    VolumeGroup,
)
from agent.planning.free_space import overlaps
from agent.planning.tables import logical_objections, needs_bytes

_MBR_MOST_BYTES_IN_SECTORS = 2**32 - 1
_LEAST_MEMBERS = {
    MdLevel.LINEAR: 1,
    MdLevel.RAID0: 1,
    MdLevel.RAID1: 1,
    MdLevel.RAID4: 2,
    MdLevel.RAID5: 2,
    MdLevel.RAID6: 4,
    MdLevel.RAID10: 2,
}


def about_layout(name: str, layout: Layout) -> Iterator[str]:
    """Yield every reason why the layout of template `name` cannot be made."""
    if not layout.disks:
        yield f"{name} has no disk"
    for disk in layout.disks:
        yield from _about_table(name, layout, disk)
    for array in layout.tabled_arrays:
        yield from _about_table(name, layout, array)
        parts, sector = layout.partitions(array.id), layout.sector_bytes(array)
        if needs_bytes(parts, array.table, sector) > array.size_bytes:
            yield f"{name}: {array.id} is too small for its partitions and its table"
    yield from _about_carriers(name, layout)
    for node in layout.nodes:
        yield from _about_node(name, layout, node)
    for volume in layout.volumes:
        yield from _about_volume(name, layout, volume)
    mounts = list(chain.from_iterable(volume.mount_points for volume in layout.volumes))
    for mount in mounts:
        if not _is_mount_point(mount):
            yield f"{name} has a mount point that is none: {mount!r}"
    if len(set(mounts)) != len(mounts):
        yield f"{name} has two volumes for one mount point"


def _is_mount_point(text: str) -> bool:
    words = text.split("/")[1:]
    lawful = all(word not in ("", ".", "..") for word in words) or text == "/"
    return text.startswith("/") and text.isprintable() and lawful


def _about_table(name: str, layout: Layout, disk: Holder) -> Iterator[str]:
    parts = layout.partitions(disk.id)
    where = f"{name}: {disk.id}"
    if disk.table is None:
        if parts:
            yield f"{where} has partitions but no table"
        return
    if not parts:
        yield f"{where} has no partitions"
    for what, values in (
        ("number", [part.number for part in parts]),
        ("UUID", [part.uuid for part in parts]),
    ):
        if len(set(values)) != len(values):
            yield f"{where} has two partitions of one {what}"
    for one, other in overlaps(part.extent for part in parts if not part.is_extended):
        yield f"{where}: the partitions at {one.offset} and {other.offset} overlap"
    for part in parts:
        about = f"{where}: partition {part.number}"
        yield from _about_partition(about, disk.table, layout.sector_bytes(disk), part)
    if isinstance(disk.table, Mbr):
        yield from _about_logical(where, parts)
        for said in logical_objections(parts, layout.sector_bytes(disk)):
            yield f"{where}: {said}"


def _about_partition(where: str, table: Table, sector: int, part: Partition) -> Iterator[str]:
    if part.offset_bytes % sector or part.size_bytes % sector:
        yield f"{where} is not made of whole sectors"
    if not part.name.isprintable():
        yield f"{where} has control characters in its name"
    if part.type in (PENDING_TYPE, MBR_PENDING_TYPE):
        yield f"{where} is that of a half-done deployment"
    if isinstance(table, Gpt):
        if part.offset_bytes < 2 * sector + 128 * 128:
            yield f"{where} begins inside the partition table"
        if len(part.type) != 36 or len(part.uuid) != 36:
            yield f"{where} has a type or UUID that is none of a GPT"
    else:
        if part.offset_bytes < sector:
            yield f"{where} begins inside the partition table"
        if len(part.type) > 2 or len(part.uuid) == 36:
            yield f"{where} has a type or UUID that is none of an MBR"
        if part.extent.end > _MBR_MOST_BYTES_IN_SECTORS * sector:
            yield f"{where} ends where an MBR cannot reach"
        if part.is_extended and part.number > 4:
            yield f"{where} is an extended partition inside another"


def _about_logical(where: str, parts: tuple[Partition, ...]) -> Iterator[str]:
    containers = [part for part in parts if part.is_extended]
    if len(containers) > 1:
        yield f"{where} has {len(containers)} extended partitions, one can be"
    for part in parts:
        inside = any(
            box.offset_bytes < part.offset_bytes and part.extent.end <= box.extent.end
            for box in containers
        )
        if part.number > 4 and not inside:
            yield f"{where}: partition {part.number} is not inside the extended one"
        if part.number <= 4 and inside and not part.is_extended:
            yield f"{where}: partition {part.number} lies inside the extended one"


def _about_carriers(name: str, layout: Layout) -> Iterator[str]:
    """Each node carries one thing: a volume, or a part of one array, group or LUKS."""
    uses: Counter[str] = Counter()
    for node in layout.nodes:
        if isinstance(node, Array | Luks | VolumeGroup):
            uses.update(node.below)
    for volume in layout.volumes:
        if not isinstance(volume.content, BootCode | MbrGap):
            uses[volume.on] += 1
    for node in layout.nodes:
        if isinstance(node, Disk | Array) and node.table is not None and uses[node.id]:
            yield f"{name}: {node.id} has a table and is used as a whole"
    for node_id, count in uses.items():
        node = layout.node(node_id)
        if count > 1:
            yield f"{name} uses {node_id} for {count} things at once"
        if isinstance(node, Partition) and node.is_extended:
            yield f"{name} puts something on the extended partition {node_id}"
        if isinstance(node, VolumeGroup):
            yield f"{name} puts something on the group {node_id} instead of a volume in it"
        if isinstance(node, LogicalVolume) and node.lv is LvKind.THIN_POOL:
            yield f"{name} puts something on the thin pool {node_id}"


def _about_node(name: str, layout: Layout, node: Node) -> Iterator[str]:
    match node:
        case Partition(on=on) if not isinstance(layout.node(on), Disk | Array):
            yield f"{name}: {node.id} is a partition of {on}, which is neither disk nor array"
        case Array():
            yield from _about_array(f"{name}: {node.id}", layout, node)
        case Luks():
            if node.size_bytes >= _offered(layout, node.on):
                yield f"{name}: {node.id} is not smaller than {node.on}, which holds it"
        case VolumeGroup():
            for one in node.physical:
                if one.size_bytes >= _offered(layout, one.on):
                    yield f"{name}: the volume of {node.id} on {one.on} is larger than that"
        case LogicalVolume():
            yield from _about_lv(f"{name}: {node.id}", layout, node)
        case _:
            pass


def _about_array(where: str, layout: Layout, array: Array) -> Iterator[str]:
    count = len(array.members)
    if count < _LEAST_MEMBERS[array.level]:
        yield f"{where} is a {array.level} of {count}"
        return
    if why := why_not(array):
        yield f"{where} is {array.words}: {why}"
    if array.metadata is MdMetadata.IMSM and any(
        not isinstance(layout.node(member), Disk) for member in array.below
    ):
        yield f"{where} is of Intel's RAID, which has whole disks, not parts of them"
    present = [_offered(layout, member) for member in array.members if member]
    lost = {MdLevel.RAID1: count - 1, MdLevel.RAID6: 2, MdLevel.RAID10: count // 2}
    bearable = lost.get(array.level, 1 if array.level in (MdLevel.RAID4, MdLevel.RAID5) else 0)
    if not present or count - len(present) > bearable:
        yield f"{where} ({array.level}) lacks {count - len(present)} of {count} members"
        return
    if array.size_bytes > _most(array, present):
        yield f"{where} is larger than its members"


def _most(array: Array, present: list[int]) -> int:
    count, least = len(array.members), min(present)
    match array.level:
        case MdLevel.LINEAR | MdLevel.RAID0:
            return sum(present)
        case MdLevel.RAID1:
            return least
        case MdLevel.RAID4 | MdLevel.RAID5:
            return (count - 1) * least
        case MdLevel.RAID6:
            return (count - 2) * least
        case MdLevel.RAID10:
            near, far = copies(array.layout)
            return count * least // (near * far)


def _about_lv(where: str, layout: Layout, lv: LogicalVolume) -> Iterator[str]:
    group = layout.node(lv.on)
    if not isinstance(group, VolumeGroup):
        yield f"{where} is not in a volume group"
        return
    if lv.lv is LvKind.THIN:
        pool = layout.node(lv.pool) if lv.pool else None
        if not (isinstance(pool, LogicalVolume) and pool.lv is LvKind.THIN_POOL):
            yield f"{where} is a thin volume without a pool"
        return
    if lv.size_bytes % group.extent_bytes or not lv.size_bytes:
        yield f"{where} is not made of whole extents"
    if lv.size_bytes > sum(one.size_bytes for one in group.physical):
        yield f"{where} is larger than its group"


def _about_volume(name: str, layout: Layout, volume: Volume) -> Iterator[str]:
    node = layout.node(volume.on)
    if isinstance(volume.content, BootCode | MbrGap):
        if not isinstance(node, Disk | Array):
            yield f"{name}: {volume.id} is not on a disk itself"
        elif isinstance(volume.content, MbrGap):
            parts = layout.partitions(node.id)
            first = parts[0].offset_bytes if parts else 0
            sector = layout.sector_bytes(node)
            if not isinstance(node.table, Mbr) or sector + volume.size_bytes > first:
                yield f"{name}: {volume.id} does not fit between the table and the partitions"
        return
    if not isinstance(node, VolumeGroup) and volume.size_bytes > node.size_bytes:
        yield (
            f"{name}: volume {volume.id} has {volume.size_bytes} bytes, "
            f"{volume.on} has {node.size_bytes}"
        )


def _offered(layout: Layout, node_id: str) -> int:
    node = layout.node(node_id)
    return 0 if isinstance(node, VolumeGroup) else node.size_bytes
