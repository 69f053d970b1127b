"""The deploy decision: which steps put a template on a disk, or every reason why not. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from agent.errors import PlanRefused
from agent.model.inventory import Drive, Inventory
from agent.model.job import DeploySpec, Verify
from agent.model.layout import (
    BootCode,
    Ext,
    Raw,
    Swap,
    Vfat,
    Volume,
)
from agent.model.nodes import (
    ESP_TYPE,
    PENDING_TYPE,
    Disk,
    Partition,
)
from agent.model.plan import (
    CheckFilesystems,
    Commit,
    ConfigureSystem,
    DeployStep,
    EfiEntry,
    EraseSignatures,
    GrowVolume,
    MakeSwap,
    MountPoint,
    Plan,
    PlannedPartition,
    PlannedTable,
    RestoreVolume,
    Run,
    Target,
    VerifyVolume,
    WithheldHead,
    WritePendingTable,
)
from agent.model.template import Firmware, TemplateConfig
from agent.planning.damage import damage_lines
from agent.planning.free_space import ALIGNMENT, both_ends, grown_end
from agent.planning.refusals import duplicates, objections, valuables
from agent.units import Extent, KiB, MiB, align_up, format_bytes

HEAD_BYTES: Final = 64 * KiB
"""What is withheld of a FAT volume until the commit: its boot sector, BPB and backup."""
EDGE_BYTES: Final = 8 * MiB
"""How much is erased at each end: LUKS2 keeps a second header at 4 MiB, nothing lies deeper."""


def plan_deploy(
    inventory: Inventory,
    template: TemplateConfig,
    spec: DeploySpec,
    drive: Drive,
    job: str = "j-000000000000",
) -> Plan:
    """Decide each step that puts `template` on `drive`; touch nothing.

    What makes the disk boot is written last: a deployment cut short leaves one that cannot.
    Raises PlanRefused with every objection at once, so one visit settles them all.
    """
    if reasons := tuple(objections(inventory, template, spec, drive)):
        raise PlanRefused(reasons)
    source = template.layout.disks[0]
    parts = _arranged(template, source, drive, spec.grow)
    table = _table(source, [placed.part for placed in parts])
    return Plan(
        template=spec.template,
        job=job,
        firmware=Firmware(inventory.firmware),
        target=Target.of(drive),
        table=table,
        steps=tuple(_steps(inventory, template, spec, parts, table, job, drive)),
        consented=tuple(f"{f.what} on {f.path}" for f in valuables(drive))
        + duplicates(inventory, template, drive),
        notes=(*_damage(template), *_notes(parts, spec.grow, drive)),
    )


@dataclass(frozen=True, slots=True)
class _Placed:
    """A partition at its place on the target, with what it holds."""

    part: Partition
    was: Extent
    volume: Volume | None


def _arranged(
    template: TemplateConfig, source: Disk, drive: Drive, grow: str | None
) -> list[_Placed]:
    """Return the partitions in disk order, moved and grown as `grow` asks.

    Swap behind the grown partition moves to the end of the disk: it holds no data, and its UUID
    stays. Nothing else moves: boot code knows some partitions by their place.
    """
    by_node = {volume.on: volume for volume in template.layout.volumes}
    placed = [
        _Placed(part, part.extent, by_node.get(part.id))
        for part in template.layout.partitions(source.id)
    ]
    at = _grown_index(placed, grow)
    if at is None or _blocker(placed, at):
        return placed
    behind = sum(align_up(p.part.size_bytes, ALIGNMENT) for p in placed[at + 1 :])
    end = grown_end(drive.size_bytes, drive.sector_bytes, behind)
    if end <= placed[at].part.extent.end:
        return placed
    grown = _resized(placed[at], placed[at].part.offset_bytes, end - placed[at].part.offset_bytes)
    moved = []
    for other in placed[at + 1 :]:
        moved.append(_resized(other, end, other.part.size_bytes))
        end += align_up(other.part.size_bytes, ALIGNMENT)
    return [*placed[:at], grown, *moved]


def _grown_index(placed: list[_Placed], grow: str | None) -> int | None:
    if grow is None:
        return None
    for index, one in enumerate(placed):
        if one.volume and one.volume.mount == grow and isinstance(one.volume.content, Ext):
            return index
    return None


def _blocker(placed: list[_Placed], at: int) -> _Placed | None:
    """Return the first partition behind `at` that cannot make room."""
    for other in placed[at + 1 :]:
        if other.volume is None or not isinstance(other.volume.content, Swap):
            return other
    return None


def _resized(placed: _Placed, offset: int, size: int) -> _Placed:
    old = placed.part
    part = Partition(
        id=old.id,
        on=old.on,
        number=old.number,
        offset_bytes=offset,
        size_bytes=size,
        type=old.type,
        uuid=old.uuid,
        name=old.name,
        attributes=old.attributes,
    )
    return _Placed(part, placed.was, placed.volume)


def _table(source: Disk, parts: list[Partition]) -> PlannedTable:
    assert source.table is not None  # else refused
    return PlannedTable(
        uuid=source.table.uuid,
        sector_bytes=source.sector_bytes,
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
            for part in sorted(parts, key=lambda part: part.number)
        ),
    )


def pending(table: PlannedTable, job: str) -> PlannedTable:
    """Return `table` with every partition of the pending type, without a word that boots."""
    return PlannedTable(
        uuid=table.uuid,
        sector_bytes=table.sector_bytes,
        partitions=tuple(
            PlannedPartition(
                number=part.number,
                offset_bytes=part.offset_bytes,
                size_bytes=part.size_bytes,
                type=PENDING_TYPE,
                uuid=part.uuid,
                name=f"pending:{job}",
            )
            for part in table.partitions
        ),
    )


def _steps(
    inventory: Inventory,
    template: TemplateConfig,
    spec: DeploySpec,
    placed: list[_Placed],
    table: PlannedTable,
    job: str,
    drive: Drive,
) -> Iterator[DeployStep]:
    whole = Extent(0, drive.size_bytes)
    edges = [*both_ends(whole, EDGE_BYTES)]
    for one in placed:
        edges += both_ends(one.part.extent, EDGE_BYTES)
    yield EraseSignatures(runs=_merged(edges))
    yield WritePendingTable(table=pending(table, job))

    data = [(p, p.volume) for p in placed if p.volume and not isinstance(p.volume.content, Swap)]
    for one, volume in data:
        yield RestoreVolume(
            volume=volume.id,
            offset_bytes=one.part.offset_bytes,
            size_bytes=volume.size_bytes,
            used_bytes=volume.used_bytes,
            what=_name(volume),
            withhold=_withheld(one),
        )
    for one in placed:
        if one.volume and isinstance(one.volume.content, Swap):
            swap = one.volume.content
            yield MakeSwap(
                number=one.part.number,
                uuid=swap.uuid,
                label=swap.label,
                page_bytes=swap.page_bytes,
                size_bytes=one.part.size_bytes,
            )
    if spec.verify is not Verify.NONE:
        for one, volume in data:
            yield VerifyVolume(
                volume=volume.id,
                offset_bytes=one.part.offset_bytes,
                mode=spec.verify,
                what=_name(volume),
                withheld=_withheld(one),
            )
    for one, volume in data:
        if one.part.size_bytes != one.was.size:
            yield GrowVolume(
                number=one.part.number,
                what=_name(volume),
                from_bytes=one.was.size,
                to_bytes=one.part.size_bytes,
            )
    ext = [(one, volume) for one, volume in data if isinstance(volume.content, Ext)]
    mounts = sorted((v.mount, one.part.number) for one, v in ext if v.mount)
    if mounts and mounts[0][0] == "/":
        yield ConfigureSystem(
            mounts=tuple(MountPoint(number=number, where=where) for where, number in mounts),
            identity=spec.identity,
            network=spec.network,
            stack=template.os.network_stack if template.os else None,
            boot_nic=next((nic.mac for nic in inventory.nics if nic.boot), None),
        )
    if ext:
        yield CheckFilesystems(numbers=tuple(one.part.number for one, _ in ext))
    esp = [(one, volume) for one, volume in data if one.part.type == ESP_TYPE]
    if esp and inventory.firmware == Firmware.UEFI:
        yield EfiEntry(
            volume=esp[0][1].id,
            number=esp[0][0].part.number,
            partition_uuid=esp[0][0].part.uuid,
            label=template.os.id if template.os else template.name[:64],
        )
    code = [v for v in template.layout.volumes if isinstance(v.content, BootCode)]
    yield Commit(
        table=table,
        heads=tuple(
            WithheldHead(volume=volume.id, offset_bytes=one.part.offset_bytes)
            for one, volume in data
            if _withheld(one)
        ),
        boot_code=code[0].id if code else None,
    )


def _withheld(placed: _Placed) -> tuple[Run, ...]:
    """Return what must not be on the disk before the commit.

    A firmware reads any FAT that it finds, whatever the type of its partition.
    """
    assert placed.volume is not None
    fat = isinstance(placed.volume.content, Vfat)
    unknown = isinstance(placed.volume.content, Raw) and placed.part.type == ESP_TYPE
    if fat or unknown:
        return ((0, min(HEAD_BYTES, placed.volume.size_bytes)),)
    return ()


def _damage(template: TemplateConfig) -> Iterator[str]:
    for line in damage_lines(template.holes):
        yield f"the template is damaged, by consent: {line}"


def _notes(placed: list[_Placed], grow: str | None, drive: Drive) -> Iterator[str]:
    if grow is None:
        return
    at = _grown_index(placed, grow)
    if at is None:
        yield f"the template does not say what its system mounts at {grow}: nothing grows"
    elif (blocker := _blocker(placed, at)) and (
        grown_end(drive.size_bytes, drive.sector_bytes) > placed[-1].part.extent.end
    ):
        rest = drive.size_bytes - placed[-1].part.extent.end
        what = _name(blocker.volume) if blocker.volume else "unknown data"
        yield (
            f"{grow} does not grow: partition {blocker.part.number} ({what}) lies behind it and "
            f"cannot move; {format_bytes(rest)} at the end of the disk stay free"
        )


def _name(volume: Volume) -> str:
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
