"""How a layout's nodes are made, where its volumes lie, and what is withheld of them. Pure."""

from collections.abc import Iterator
from typing import Final

from agent.model.inventory import Inventory
from agent.model.job import DeploySpec
from agent.model.layout import (
    BootCode,
    Btrfs,
    Ext,
    F2fs,
    Layout,
    MbrGap,
    Raw,
    Vfat,
    Volume,
    Xfs,
)
from agent.model.nodes import (
    ESP_TYPE,
    Array,
    Disk,
    Holder,
    LogicalVolume,
    Luks,
    MdLevel,
    MdMetadata,
    Partition,
    VolumeGroup,
)
from agent.model.steps import (
    CloseDevices,
    Commit,
    CommittedDisk,
    ConfigureSystem,
    DeployStep,
    EraseSignatures,
    MakeArray,
    MakeGroup,
    MakeLogical,
    MakeLuks,
    MountPoint,
    Place,
    Run,
    WithheldHead,
    WritePendingTable,
)
from agent.model.table import PlannedPartition, PlannedTable
from agent.model.template import TemplateConfig
from agent.planning.free_space import both_ends
from agent.planning.tables import pending
from agent.units import Extent, KiB, MiB

HEAD_BYTES: Final = 64 * KiB
"""What is withheld of a FAT volume until the commit: its boot sector, BPB and backup."""
EDGE_BYTES: Final = 8 * MiB
"""How much is erased at each end: LUKS2 keeps a second header at 4 MiB, nothing lies deeper."""
UnixFiles = Ext | Xfs | Btrfs | F2fs
"""What keeps owners, modes and links: a system's own files."""
_FIRMWARE_BLIND: Final = (MdMetadata.V0_90, MdMetadata.V1_0)
"""With its superblock behind the data, a mirror's leg looks like the filesystem itself."""


def table_of(layout: Layout, holder: Holder) -> PlannedTable | None:
    """Return the partition table that `layout` gives `holder`, None if it has none."""
    if holder.table is None:
        return None
    return PlannedTable(
        table=holder.table,
        sector_bytes=layout.sector_bytes(holder),
        partitions=tuple(
            PlannedPartition(
                number=part.number,
                offset_bytes=part.offset_bytes,
                size_bytes=part.size_bytes,
                type=part.type,
                uuid=part.uuid,
                name=part.name,
                attributes=part.attributes,
            )
            for part in sorted(layout.partitions(holder.id), key=lambda part: part.number)
        ),
    )


def place_of(layout: Layout, volume: Volume) -> Place:
    """Return where `volume` is written: through its disk where a partition carries it."""
    match layout.node(volume.on):
        case Partition(on=holder, offset_bytes=offset):
            return Place(node=holder, offset_bytes=offset)
        case Disk() | Array() as holder if isinstance(volume.content, MbrGap):
            return Place(node=holder.id, offset_bytes=layout.sector_bytes(holder))
        case node:
            return Place(node=node.id)


def erasing(layout: Layout, holder: Holder) -> EraseSignatures:
    """Return the step that takes old signatures away, also where new partitions will be."""
    edges = [*both_ends(Extent(0, holder.size_bytes), EDGE_BYTES)]
    for part in layout.partitions(holder.id):
        edges += both_ends(part.extent, EDGE_BYTES)
    return EraseSignatures(disk=holder.id, runs=_merged(edges))


def making(layout: Layout, job: str) -> Iterator[DeployStep]:
    """Yield the steps that make what lies between the disks' partitions and the volumes."""
    for node in layout.nodes:
        match node:
            case Array():
                yield MakeArray(array=node)
                if table := table_of(layout, node):
                    yield erasing(layout, node)
                    yield WritePendingTable(disk=node.id, table=pending(table, job))
            case Luks():
                yield MakeLuks(luks=node)
            case VolumeGroup():
                yield MakeGroup(group=node)
            case LogicalVolume(on=on, pool=pool):
                group = layout.node(on)
                below = layout.node(pool) if pool else None
                assert isinstance(group, VolumeGroup)
                assert below is None or isinstance(below, LogicalVolume)
                yield MakeLogical(group=group, lv=node, pool=below)
            case _:
                pass


def system_mounts(layout: Layout) -> tuple[MountPoint, ...]:
    """Return where the system mounts what has Unix files, `/` first."""
    found = []
    for volume in layout.volumes:
        if not isinstance(volume.content, UnixFiles):
            continue
        found += [
            MountPoint(node=volume.on, where=where, subvolume=subvolume)
            for where, subvolume in volume.mounts
        ]
    return tuple(sorted(found, key=lambda mount: mount.where))


def configuring(
    inventory: Inventory,
    template: TemplateConfig,
    spec: DeploySpec,
    mounts: tuple[MountPoint, ...],
) -> ConfigureSystem:
    """Return the step that makes the system at `mounts` the machine's own."""
    return ConfigureSystem(
        mounts=mounts,
        identity=spec.identity,
        network=spec.network,
        stack=template.os.network_stack if template.os else None,
        boot_nic=next((nic.mac for nic in inventory.nics if nic.boot), None),
    )


def closing(layout: Layout) -> Iterator[CloseDevices]:
    """Yield the step that stops what stands above the partitions, but arrays with a table."""
    open_still = _open_still(layout)
    above = [
        node.id
        for node in layout.nodes
        if isinstance(node, Array | Luks | VolumeGroup) and node.id not in open_still
    ]
    if above:
        yield CloseDevices(nodes=tuple(reversed(above)))


def committing(layout: Layout, *, renewed: bool = False) -> Iterator[DeployStep]:
    """Yield the commit of all that has a table, and the end of arrays that have one."""
    holders: tuple[Holder, ...] = (*layout.disks, *layout.tabled_arrays)
    yield Commit(disks=tuple(_committed(layout, holder, renewed=renewed) for holder in holders))
    if last := _open_still(layout):
        yield CloseDevices(nodes=tuple(reversed(last)))


def _open_still(layout: Layout) -> tuple[str, ...]:
    """Return what must run until the commit: arrays that get their final table by it."""
    needed = {
        node.id
        for array in layout.tabled_arrays
        for node in layout.carriers(array.id)
        if isinstance(node, Array | Luks | VolumeGroup)
    }
    return tuple(node.id for node in layout.nodes if node.id in needed)


def legs_of(layout: Layout, node_id: str) -> tuple[Partition, ...]:
    """Return the partitions that show the data on `node_id` as they are: itself, or a mirror's."""
    match layout.node(node_id):
        case Partition() as part:
            return (part,)
        case Array(level=MdLevel.RAID1, metadata=metadata) as array if metadata in _FIRMWARE_BLIND:
            nodes = [layout.node(member) for member in array.members if member]
            return tuple(node for node in nodes if isinstance(node, Partition))
        case _:
            return ()


def withheld(layout: Layout, volume: Volume) -> tuple[Run, ...]:
    """Return what must not be on the disk before the commit, in bytes of the volume.

    A firmware reads any FAT that it finds, whatever the type of its partition; and a filesystem
    on a bare disk has the disk's first sector for its own.
    """
    match layout.node(volume.on):
        case Disk(sector_bytes=sector) if not isinstance(volume.content, BootCode | MbrGap):
            return _boot_area(volume, sector)
        case _:
            pass
    legs = legs_of(layout, volume.on)
    fat = isinstance(volume.content, Vfat) and bool(legs)
    unknown = isinstance(volume.content, Raw) and any(leg.type in (ESP_TYPE, "ef") for leg in legs)
    if fat or unknown:
        return ((0, min(HEAD_BYTES, volume.size_bytes)),)
    return ()


def _boot_area(volume: Volume, sector_bytes: int) -> tuple[Run, ...]:
    """Return what a BIOS would run of a filesystem on a bare disk. It stays mountable without."""
    match volume.content:
        case Xfs():
            return ()  # its superblock is the first thing there
        case Ext() | F2fs():
            return ((0, KiB),) if sector_bytes <= KiB else ()
        case _:
            return ((0, min(HEAD_BYTES, volume.size_bytes)),)


def _committed(layout: Layout, disk: Holder, *, renewed: bool) -> CommittedDisk:
    """Return what is written last on one disk, or on an array that is used like one."""
    heads = []
    code = None
    for volume in layout.volumes:
        if volume.on == disk.id and isinstance(volume.content, BootCode):
            code = volume.id
        elif withheld(layout, volume):
            if volume.on == disk.id:
                heads.append(WithheldHead(volume=volume.id, offset_bytes=0))
            heads += [
                WithheldHead(volume=volume.id, offset_bytes=leg.offset_bytes)
                for leg in legs_of(layout, volume.on)
                if leg.on == disk.id
            ]
    return CommittedDisk(
        disk=disk.id,
        table=table_of(layout, disk),
        heads=tuple(heads),
        boot_code=code,
        renewed=renewed,
    )


def _merged(extents: list[Extent]) -> tuple[Run, ...]:
    """Return `extents` in order, those that touch made one."""
    merged: list[Extent] = []
    for extent in sorted(extents):
        if merged and extent.offset <= merged[-1].end:
            last = merged.pop()
            extent = Extent(last.offset, max(last.end, extent.end) - last.offset)
        merged.append(extent)
    return tuple((extent.offset, extent.size) for extent in merged)


def name_of(volume: Volume) -> str:
    return volume.mount or volume.id
