"""The deploy decision: which steps put a template on disks, or every reason why not. Pure."""

from collections.abc import Iterator, Mapping
from typing import Final

from agent.errors import PlanRefused
from agent.model.inventory import Drive, Inventory
from agent.model.job import DeploySpec, Verify
from agent.model.layout import (
    BootCode,
    Btrfs,
    Ext,
    F2fs,
    Layout,
    MbrGap,
    Raw,
    Swap,
    Vfat,
    Volume,
    Xfs,
)
from agent.model.nodes import (
    ESP_TYPE,
    Array,
    Disk,
    LogicalVolume,
    Luks,
    MdLevel,
    MdMetadata,
    Partition,
    VolumeGroup,
)
from agent.model.plan import Plan, PlannedDisk, Target
from agent.model.steps import (
    Checked,
    CheckFilesystems,
    CloseDevices,
    Commit,
    CommittedDisk,
    ConfigureSystem,
    DeployStep,
    EfiEntry,
    EraseSignatures,
    GrowVolume,
    MakeArray,
    MakeGroup,
    MakeLogical,
    MakeLuks,
    MakeSwap,
    MountPoint,
    Place,
    RestoreVolume,
    Run,
    VerifyVolume,
    WithheldHead,
    WritePendingTable,
)
from agent.model.table import PlannedPartition, PlannedTable
from agent.model.template import Firmware, TemplateConfig
from agent.planning.damage import damage_lines
from agent.planning.free_space import both_ends
from agent.planning.refusals import duplicates, objections, valuables
from agent.planning.same_shape import can_grow, growing_volume, nodes_below, same_shape
from agent.planning.tables import pending
from agent.units import Extent, KiB, MiB

HEAD_BYTES: Final = 64 * KiB
"""What is withheld of a FAT volume until the commit: its boot sector, BPB and backup."""
EDGE_BYTES: Final = 8 * MiB
"""How much is erased at each end: LUKS2 keeps a second header at 4 MiB, nothing lies deeper."""
_FIRMWARE_BLIND: Final = (MdMetadata.V0_90, MdMetadata.V1_0)
"""With its superblock behind the data, a mirror's leg looks like the filesystem itself."""


def plan_deploy(
    inventory: Inventory,
    template: TemplateConfig,
    spec: DeploySpec,
    drives: Mapping[str, Drive],
    job: str = "j-000000000000",
) -> Plan:
    """Decide each step that puts `template` on `drives`, by disk of its layout; touch nothing.

    What makes the disks boot is written last: a deployment cut short leaves none that can.
    Raises PlanRefused with every objection at once, so one visit settles them all.
    """
    if reasons := tuple(objections(inventory, template, spec, drives)):
        raise PlanRefused(reasons)
    shape = same_shape(template.layout, drives, spec.grow)
    disks = tuple(
        PlannedDisk(
            id=disk.id, target=Target.of(drives[disk.id]), table=table_of(shape.layout, disk)
        )
        for disk in shape.layout.disks
    )
    return Plan(
        template=spec.template,
        job=job,
        firmware=Firmware(inventory.firmware),
        layout=shape.layout,
        disks=disks,
        steps=tuple(_steps(inventory, template, spec, shape.layout, disks, job)),
        consented=tuple(
            f"{found.what} on {found.path}"
            for drive in drives.values()
            for found in valuables(drive)
        )
        + duplicates(inventory, template, drives),
        notes=(*_damage(template), *shape.notes, *_degraded(shape.layout)),
    )


def table_of(layout: Layout, disk: Disk) -> PlannedTable | None:
    """Return the partition table that `layout` gives `disk`, None if it has none."""
    if disk.table is None:
        return None
    return PlannedTable(
        table=disk.table,
        sector_bytes=disk.sector_bytes,
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
            for part in sorted(layout.partitions(disk.id), key=lambda part: part.number)
        ),
    )


def place_of(layout: Layout, volume: Volume) -> Place:
    """Return where `volume` is written: through its disk where a partition carries it."""
    match layout.node(volume.on):
        case Partition(on=disk, offset_bytes=offset):
            return Place(node=disk, offset_bytes=offset)
        case Disk(id=disk, sector_bytes=sector) if isinstance(volume.content, MbrGap):
            return Place(node=disk, offset_bytes=sector)
        case node:
            return Place(node=node.id)


def size_of(layout: Layout, node_id: str) -> int:
    """Return how many bytes a node offers to what stands on it."""
    node = layout.node(node_id)
    if isinstance(node, VolumeGroup):
        return sum(one.size_bytes for one in node.physical)
    return node.size_bytes


def _steps(
    inventory: Inventory,
    template: TemplateConfig,
    spec: DeploySpec,
    layout: Layout,
    disks: tuple[PlannedDisk, ...],
    job: str,
) -> Iterator[DeployStep]:
    for disk in disks:
        yield EraseSignatures(disk=disk.id, runs=_edges(layout, disk))
    for disk in disks:
        if disk.table:
            yield WritePendingTable(disk=disk.id, table=pending(disk.table, job))
    yield from making(layout)

    data = [v for v in layout.volumes if not isinstance(v.content, Swap | BootCode)]
    for volume in data:
        yield RestoreVolume(
            volume=volume.id,
            place=place_of(layout, volume),
            size_bytes=volume.size_bytes,
            used_bytes=volume.used_bytes,
            what=name_of(volume),
            withhold=withheld(layout, volume),
        )
    for volume in layout.volumes:
        if isinstance(volume.content, Swap):
            yield MakeSwap(
                node=volume.on,
                uuid=volume.content.uuid,
                label=volume.content.label,
                page_bytes=volume.content.page_bytes,
                size_bytes=size_of(layout, volume.on),
            )
    if spec.verify is not Verify.NONE:
        for volume in data:
            yield VerifyVolume(
                volume=volume.id,
                place=place_of(layout, volume),
                mode=spec.verify,
                what=name_of(volume),
                withheld=withheld(layout, volume),
            )
    yield from _growing(template.layout, layout, spec.grow)
    yield from finishing(inventory, template, spec, layout)
    yield Commit(disks=tuple(committed(layout, disk) for disk in disks))


def _edges(layout: Layout, disk: PlannedDisk) -> tuple[Run, ...]:
    edges = [*both_ends(Extent(0, disk.target.size_bytes), EDGE_BYTES)]
    for part in layout.partitions(disk.id):
        edges += both_ends(part.extent, EDGE_BYTES)
    return _merged(edges)


def making(layout: Layout) -> Iterator[DeployStep]:
    """Yield the steps that make what lies between the partitions and the volumes."""
    for node in layout.nodes:
        match node:
            case Array():
                yield MakeArray(array=node)
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


def _growing(was: Layout, layout: Layout, grow: str | None) -> Iterator[GrowVolume]:
    volume = growing_volume(layout, grow)
    if volume is None:
        return
    before, after = size_of(was, volume.on), size_of(layout, volume.on)
    on_path = nodes_below(layout, volume.on)
    if after > before or any(isinstance(layout.node(on), Array) for on in on_path):
        yield GrowVolume(
            node=volume.on,
            content=volume.content,
            what=name_of(volume),
            from_bytes=volume.size_bytes,
            to_bytes=after,
        )


def finishing(
    inventory: Inventory, template: TemplateConfig, spec: DeploySpec, layout: Layout
) -> Iterator[DeployStep]:
    """Yield what comes between the data and the commit: identity, checks, boot entries."""
    mounts = system_mounts(layout)
    if mounts and mounts[0].where == "/":
        yield ConfigureSystem(
            mounts=mounts,
            identity=spec.identity,
            network=spec.network,
            stack=template.os.network_stack if template.os else None,
            boot_nic=next((nic.mac for nic in inventory.nics if nic.boot), None),
        )
    checked = tuple(
        Checked(node=volume.on, content=volume.content)
        for volume in layout.volumes
        if can_grow(volume.content) and not withheld(layout, volume)
    )
    if checked:
        yield CheckFilesystems(checked=checked)
    if inventory.firmware == Firmware.UEFI:
        yield from _entries(template, layout)
    above = [n.id for n in layout.nodes if isinstance(n, Array | Luks | VolumeGroup)]
    if above:
        yield CloseDevices(nodes=tuple(reversed(above)))


def system_mounts(layout: Layout) -> tuple[MountPoint, ...]:
    """Return where the system mounts what has Unix files, `/` first."""
    found = []
    for volume in layout.volumes:
        if not isinstance(volume.content, Ext | Xfs | Btrfs | F2fs):
            continue
        if volume.mount:
            found.append(MountPoint(node=volume.on, where=volume.mount))
        if isinstance(volume.content, Btrfs):
            found += [
                MountPoint(node=volume.on, where=one.mount, subvolume=one.path)
                for one in volume.content.subvolumes
            ]
    return tuple(sorted(found, key=lambda mount: mount.where))


def _entries(template: TemplateConfig, layout: Layout) -> Iterator[EfiEntry]:
    label = template.os.id if template.os else template.name[:64]
    legs = [
        (volume.id, leg)
        for volume in layout.volumes
        if isinstance(volume.content, Vfat)
        for leg in legs_of(layout, volume.on)
        if leg.type in (ESP_TYPE, "ef")
    ]
    for number, (volume_id, leg) in enumerate(legs):
        name = label if number == 0 else f"{label} ({leg.on})"
        yield EfiEntry(volume=volume_id, partition=leg.id, label=name)


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
            return ((0, min(max(sector, 4 * KiB), volume.size_bytes)),)
        case _:
            pass
    legs = legs_of(layout, volume.on)
    fat = isinstance(volume.content, Vfat) and bool(legs)
    unknown = isinstance(volume.content, Raw) and any(leg.type in (ESP_TYPE, "ef") for leg in legs)
    if fat or unknown:
        return ((0, min(HEAD_BYTES, volume.size_bytes)),)
    return ()


def committed(layout: Layout, disk: PlannedDisk) -> CommittedDisk:
    """Return what is written last on one disk."""
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
    return CommittedDisk(disk=disk.id, table=disk.table, heads=tuple(heads), boot_code=code)


def _damage(template: TemplateConfig) -> Iterator[str]:
    for line in damage_lines(template.holes):
        yield f"the template is damaged, by consent: {line}"


def _degraded(layout: Layout) -> Iterator[str]:
    for node in layout.nodes:
        if isinstance(node, Array) and None in node.members:
            yield (
                f"{node.id} ({node.level}) was degraded when it was captured and is made so "
                f"again: add a disk with mdadm --add"
            )


def name_of(volume: Volume) -> str:
    return volume.mount or volume.id


def _merged(extents: list[Extent]) -> tuple[Run, ...]:
    """Return `extents` in order, those that touch made one."""
    merged: list[Extent] = []
    for extent in sorted(extents):
        if merged and extent.offset <= merged[-1].end:
            last = merged.pop()
            extent = Extent(last.offset, max(last.end, extent.end) - last.offset)
        merged.append(extent)
    return tuple((extent.offset, extent.size) for extent in merged)
