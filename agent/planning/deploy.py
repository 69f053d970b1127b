"""The deploy decision: which steps put a template on disks, or every reason why not. Pure."""

from collections.abc import Iterator, Mapping

from agent.errors import PlanRefused
from agent.model.inventory import Drive, Inventory
from agent.model.job import DeploySpec, Verify
from agent.model.keys import keys_for
from agent.model.layout import (
    BootCode,
    BtrfsDevice,
    Layout,
    MbrGap,
    Raw,
    Swap,
    Vfat,
)
from agent.model.nodes import (
    ESP_TYPE,
    Array,
    Luks,
    MdMetadata,
)
from agent.model.plan import Plan, PlannedDisk, Target
from agent.model.steps import (
    Checked,
    CheckFilesystems,
    DeployStep,
    EfiEntry,
    GrowVolume,
    MakeSwap,
    RestoreVolume,
    VerifyVolume,
    WritePendingTable,
)
from agent.model.storage import Shape, Storage
from agent.model.template import Firmware, TemplateConfig
from agent.planning.damage import damage_lines
from agent.planning.new_shape import new_shape
from agent.planning.presets import nearest_shape, storage_for
from agent.planning.programs import missing_programs
from agent.planning.refusals import duplicates, objections, valuables
from agent.planning.reshape import left_behind, reshape_objections, reshape_steps
from agent.planning.same_shape import Shaped, growing_volume, same_shape, size_of
from agent.planning.soundness import about_layout
from agent.planning.stack import (
    UnixFiles,
    closing,
    committing,
    configuring,
    erasing,
    legs_of,
    making,
    name_of,
    place_of,
    system_mounts,
    table_of,
    withheld,
)
from agent.planning.tables import pending
from agent.planning.thin import overcommitted


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
    wanted = wanted_storage(inventory, template, spec, drives)
    reasons = list(objections(inventory, template, spec, drives, same=wanted is None))
    if wanted is None:
        reasons += locked(template.layout, spec)
        if reasons:
            raise PlanRefused(tuple(reasons))
        shape = same_shape(template.layout, drives, spec.grow)
    else:
        shape = Shaped(new_shape(wanted, template, drives, job))
        reasons += about_layout("the layout that is asked for", shape.layout)
        reasons += reshape_objections(template, shape.layout)
        reasons += locked(shape.layout, spec)
        if template.os:
            reasons += missing_programs(template.os, shape.layout, (Firmware(inventory.firmware),))
        if reasons:
            raise PlanRefused(tuple(reasons))
    layout = shape.layout
    disks = tuple(
        PlannedDisk(id=disk.id, target=Target.of(drives[disk.id]), table=table_of(layout, disk))
        for disk in layout.disks
    )
    after = (
        _same_steps(inventory, template, spec, layout, job)
        if wanted is None
        else reshape_steps(inventory, template, spec, layout, job)
    )
    return Plan(
        template=spec.template,
        job=job,
        firmware=Firmware(inventory.firmware),
        layout=layout,
        disks=disks,
        steps=(*_erasing(layout, disks, job), *after),
        consented=tuple(
            f"{found.what} on {found.path}"
            for drive in drives.values()
            for found in valuables(drive)
        )
        + duplicates(inventory, template, drives),
        notes=(
            *_damage(template),
            *shape.notes,
            *_degraded(layout),
            *_renamed(layout),
            *overcommitted(layout),
            *(() if wanted is None else left_behind(template.layout, layout)),
        ),
    )


def locked(layout: Layout, spec: DeploySpec) -> Iterator[str]:
    """Yield the containers that nothing in the job opens from now on."""
    for node in layout.nodes:
        if isinstance(node, Luks) and not keys_for(spec.keys, uuid=node.uuid, node=node.id):
            yield (
                f"{node.id} is encrypted anew and the job brings no key for it: "
                "--luks-passphrase FILE, or --luks-key FILE"
            )


def wanted_storage(
    inventory: Inventory,
    template: TemplateConfig,
    spec: DeploySpec,
    drives: Mapping[str, Drive],
) -> Storage | None:
    """Return the storage that the job asks for; None for the template's own layout."""
    if isinstance(spec.layout, Storage):
        return spec.layout
    shape = spec.layout
    if shape is Shape.AUTO:
        same = tuple(objections(inventory, template, spec, drives, same=True))
        other = tuple(objections(inventory, template, spec, drives, same=False))
        if len(same) <= len(other):
            return None
        shape = nearest_shape(template.layout, len(drives))
    if shape is Shape.SAME:
        return None
    firmware = Firmware(inventory.firmware)
    return storage_for(shape, template.layout, tuple(drives), firmware)


def _erasing(layout: Layout, disks: tuple[PlannedDisk, ...], job: str) -> Iterator[DeployStep]:
    for node in layout.disks:
        yield erasing(layout, node)
    for disk in disks:
        if disk.table:
            yield WritePendingTable(disk=disk.id, table=pending(disk.table, job))


def _same_steps(
    inventory: Inventory,
    template: TemplateConfig,
    spec: DeploySpec,
    layout: Layout,
    job: str,
) -> Iterator[DeployStep]:
    yield from making(layout, job)
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
    yield from committing(layout)


def _growing(was: Layout, layout: Layout, grow: str | None) -> Iterator[GrowVolume]:
    volume = growing_volume(layout, grow)
    if volume is None:
        return
    nodes = layout.nodes_of(volume)
    before, after = (sum(size_of(one, node) for node in nodes) for one in (was, layout))
    carriers = [carrier for node in nodes for carrier in layout.carriers(node)]
    if after > before or any(isinstance(carrier, Array) for carrier in carriers):
        yield GrowVolume(
            node=volume.on,
            content=volume.content,
            what=name_of(volume),
            from_bytes=sum(one.size_bytes for one in (volume, *layout.further(volume))),
            to_bytes=after,
            further=nodes[1:],
        )


def finishing(
    inventory: Inventory, template: TemplateConfig, spec: DeploySpec, layout: Layout
) -> Iterator[DeployStep]:
    """Yield what comes between the data and the commit: identity, checks, boot entries."""
    mounts = system_mounts(layout)
    if mounts and mounts[0].where == "/":
        yield configuring(inventory, template, spec, mounts)
    checked = tuple(
        Checked(node=volume.on, content=volume.content)
        for volume in layout.volumes
        if not isinstance(volume.content, Swap | BtrfsDevice | Raw | BootCode | MbrGap)
        and (isinstance(volume.content, UnixFiles) or not withheld(layout, volume))
    )
    if checked:
        yield CheckFilesystems(checked=checked)
    if inventory.firmware == Firmware.UEFI:
        yield from _entries(template, layout)
    yield from closing(layout)


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


def _damage(template: TemplateConfig) -> Iterator[str]:
    for line in damage_lines(template.holes):
        yield f"the template is damaged, by consent: {line}"


def _renamed(layout: Layout) -> Iterator[str]:
    for node in layout.nodes:
        if isinstance(node, Array) and node.metadata is MdMetadata.IMSM:
            yield (
                f"{node.id} gets another UUID, as each of Intel's RAID does: mdadm.conf and the "
                f"kernel's arguments below /etc and /boot follow, what names {node.uuid} elsewhere "
                "(on the EFI partition) does not"
            )


def _degraded(layout: Layout) -> Iterator[str]:
    for node in layout.nodes:
        if isinstance(node, Array) and None in node.members:
            yield (
                f"{node.id} ({node.level}) was degraded when it was captured and is made so "
                f"again: add a disk with mdadm --add"
            )
