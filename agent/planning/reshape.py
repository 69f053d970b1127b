"""The steps that put a template's files on another layout than its own. Pure.

Filesystems are made new and files copied from a read-only view of the template, so the target may
be smaller, of other sectors, of another kind. Boot code, fstab and initramfs follow by the
system's own programs, last before the commit.
"""

from collections.abc import Iterator

from agent.model.inventory import Inventory
from agent.model.job import DeploySpec, Verify
from agent.model.layout import (
    MOST_UNMOUNTED,
    BootCode,
    Btrfs,
    BtrfsDevice,
    Layout,
    MbrGap,
    Raw,
    Swap,
    Vfat,
    Volume,
)
from agent.model.nodes import BIOS_BOOT_TYPE, NodeId, Partition
from agent.model.steps import (
    Checked,
    CheckFilesystems,
    CopiedVolume,
    CopyFiles,
    DeployStep,
    EfiEntry,
    MakeFilesystem,
    MakeSwap,
    MountPoint,
    RenewBoot,
    VerifyFiles,
)
from agent.model.template import Firmware, TemplateConfig
from agent.planning.stack import (
    UnixFiles,
    closing,
    committing,
    configuring,
    making,
    name_of,
    system_mounts,
)

_ROOM = 1.1
"""A new filesystem needs room for its own structures beside the files."""


def reshape_objections(template: TemplateConfig, layout: Layout) -> Iterator[str]:
    """Yield why the files of `template` cannot be put on `layout`."""
    copied = list(copied_volumes(template.layout))
    root = next((one for one in copied if "/" in one.mount_points), None)
    if root is None:
        yield f"{template.name} has no root filesystem whose files could be copied"
        return
    for volume in template.layout.volumes:
        if isinstance(volume.content, Raw) and volume.mount:
            yield (
                f"{template.name} holds {volume.mount} as raw data: its files cannot be copied to "
                "another layout"
            )
    needed = sum(volume.used_bytes for volume in copied)  # one copy at least of what is mirrored
    room = sum(
        volume.size_bytes for volume in layout.volumes if isinstance(volume.content, UnixFiles)
    )
    if needed * _ROOM > room:
        yield (
            f"the files of {template.name} need {int(needed * _ROOM)} bytes, the layout has {room}"
        )


def copied_volumes(layout: Layout) -> Iterator[Volume]:
    """Yield the volumes of a template whose files are copied, by mount point."""
    found = [
        volume
        for volume in layout.volumes
        if volume.mount_points and isinstance(volume.content, UnixFiles)
    ]
    yield from sorted(found, key=lambda volume: min(volume.mount_points))


def _copies(layout: Layout) -> Iterator[CopiedVolume]:
    """Yield what is copied in order: `/` first. Of a btrfs, each subvolume that is mounted."""
    for volume in copied_volumes(layout):
        for where, subvolume in volume.mounts:
            yield CopiedVolume(
                volume=volume.id,
                content=volume.content,
                where=where,
                subvolume=subvolume,
                used_bytes=_used(layout, volume) if where == volume.mount_points[0] else 0,
                what=where,
                further=tuple(one.id for one in layout.further(volume)),
            )


def _used(layout: Layout, volume: Volume) -> int:
    """Return what is read of a volume at most, all of its devices together."""
    return sum(one.used_bytes for one in (volume, *layout.further(volume)))


def left_behind(template: Layout, layout: Layout) -> Iterator[str]:
    """Yield what the template has that a copy of its files to `layout` does not take along."""
    has_vfat = any(isinstance(volume.content, Vfat) for volume in layout.volumes)
    for volume in template.volumes:
        carrier = template.node(volume.on)
        if isinstance(carrier, Partition) and carrier.type == BIOS_BOOT_TYPE:
            continue
        kept = isinstance(volume.content, Swap | BootCode | MbrGap | BtrfsDevice | UnixFiles)
        if isinstance(volume.content, Vfat):
            if has_vfat:
                yield f"{name_of(volume)} is made new: files of other loaders on it are left behind"
            else:
                yield f"{name_of(volume)} is not made and left behind"
        elif not kept or (isinstance(volume.content, UnixFiles) and not volume.mount_points):
            yield f"{name_of(volume)} ({volume.on}) is not mounted by the system and left behind"
        elif isinstance(volume.content, Btrfs):
            yield from _unmounted(volume, volume.content)


def _unmounted(volume: Volume, content: Btrfs) -> Iterator[str]:
    for path in content.unmounted:
        yield f"the subvolume {path} of {name_of(volume)} is not mounted by fstab and left behind"
    if len(content.unmounted) == MOST_UNMOUNTED:
        yield f"{name_of(volume)} may have more subvolumes than these {MOST_UNMOUNTED}: left behind"


def reshape_steps(
    inventory: Inventory,
    template: TemplateConfig,
    spec: DeploySpec,
    layout: Layout,
    job: str,
) -> Iterator[DeployStep]:
    """Yield the steps after the pending tables of the disks."""
    yield from making(layout, job)
    for volume in layout.volumes:
        if isinstance(volume.content, Swap):
            yield MakeSwap(
                node=volume.on,
                uuid=volume.content.uuid,
                label=volume.content.label,
                page_bytes=volume.content.page_bytes,
                size_bytes=volume.size_bytes,
            )
        else:
            yield MakeFilesystem(
                node=volume.on,
                content=volume.content,
                size_bytes=volume.size_bytes,
                what=name_of(volume),
            )
    mounts = system_mounts(layout)
    copied = tuple(_copies(template.layout))
    yield CopyFiles(copied=copied, mounts=mounts)
    if spec.verify is not Verify.NONE:
        yield VerifyFiles(copied=copied, mounts=mounts, mode=spec.verify)
    yield configuring(inventory, template, spec, mounts)
    esps = [volume for volume in layout.volumes if isinstance(volume.content, Vfat)]
    yield RenewBoot(
        mounts=tuple(
            sorted(
                (
                    *mounts,
                    *(
                        MountPoint(node=volume.on, where=volume.mount)
                        for volume in esps
                        if volume.mount
                    ),
                ),
                key=lambda mount: mount.where,
            )
        ),
        boot_disks=boot_disks(layout),
        was=template.layout,
        bootloader_id=template.os.id if template.os else "linux",
    )
    yield CheckFilesystems(
        checked=tuple(
            Checked(node=volume.on, content=volume.content)
            for volume in layout.volumes
            if isinstance(volume.content, UnixFiles)
        )
    )
    if inventory.firmware == Firmware.UEFI:
        label = template.os.id if template.os else template.name[:64]
        for number, volume in enumerate(esps):
            name = label if number == 0 else f"{label} ({volume.on})"
            yield EfiEntry(volume=volume.id, partition=volume.on, label=name)
    yield from closing(layout)
    yield from committing(layout, renewed=True)


def boot_disks(layout: Layout) -> tuple[NodeId, ...]:
    """Return the disks that the firmware may boot: those that `/boot`, or else `/`, lies on."""
    mounts = {mount.where: mount.node for mount in system_mounts(layout)}
    node = mounts.get("/boot", mounts["/"])
    return tuple(disk.id for disk in layout.disks_of(node))
