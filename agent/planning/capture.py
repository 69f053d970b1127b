"""The capture decision: what of the disks goes into a template and how, or every reason why not."""

import re
from collections.abc import Iterator, Sequence
from itertools import chain, count
from typing import Final

from msgspec.structs import replace

from agent.errors import SourceUnfit
from agent.model.found import (
    CaptureMethod,
    CapturePlan,
    CaptureVolume,
    FoundContent,
    FoundDisk,
    FoundSystem,
    Survey,
)
from agent.model.inventory import Drive, Inventory
from agent.model.job import CaptureSpec
from agent.model.layout import (
    BOOT_CODE_BYTES,
    BootCode,
    Btrfs,
    Content,
    Layout,
    MbrGap,
    Raw,
    Subvolume,
    Swap,
    Volume,
)
from agent.model.nodes import (
    BIOS_BOOT_TYPE,
    ESP_TYPE,
    MBR_PENDING_TYPE,
    PENDING_TYPE,
    Array,
    Disk,
    Holder,
    LogicalVolume,
    Luks,
    Node,
    Partition,
    VolumeGroup,
)
from agent.model.plan import Target
from agent.model.steps import MountPoint, Place
from agent.model.template import FORMAT_VERSION, Firmware, Redaction, TemplateConfig
from agent.planning.free_space import overlaps

_PIECES: Final = frozenset(
    {
        "linux_raid_member",
        "ddf_raid_member",
        "isw_raid_member",
        "LVM2_member",
        "zfs_member",
        "ceph_bluestore",
        "bcache",
    }
)
"""Parts of something larger: one part alone is worth nothing."""
_OPAQUE: Final = frozenset({"LVM2_member", "crypto_LUKS", "BitLocker"})


def plan_capture(
    inventory: Inventory,
    found: FoundSystem,
    survey: Survey,
    spec: CaptureSpec,
    drives: Sequence[Drive],
) -> CapturePlan:
    """Decide what is read from `drives` and how. The disks are never written.

    Raises SourceUnfit with every reason at once.
    """
    if reasons := tuple(unfitness(found, survey, spec, drives)):
        raise SourceUnfit(reasons)
    redacted = () if spec.keep_identity else survey.redacted
    volumes: list[Volume] = []
    reads: list[CaptureVolume] = []
    for disk in found.disks:
        for volume, read in _boot_volumes(found, disk):
            volumes.append(volume)
            reads.append(read)
    ids: dict[str, str] = {}
    taken = {volume.id for volume in volumes} | {node.id for node in found.nodes}
    for content in found.contents:
        mounts = tuple(mount for mount in survey.mounts if mount.node == content.on)
        volume = _volume(found, content, mounts, taken)
        if isinstance(volume.content, Btrfs):
            unmounted = survey.unmounted.get(content.on, ())
            volume = replace(volume, content=replace(volume.content, unmounted=unmounted))
        taken.add(volume.id)
        ids[content.on] = volume.id
        volumes.append(volume)
        reads.append(
            CaptureVolume(
                volume=volume.id,
                on=content.on,
                path=content.path,
                place=_place(found, content.on),
                size_bytes=volume.size_bytes,
                method=_method(volume.content),
                redacted=tuple(
                    run for file in redacted if file.on == content.on for run in file.runs
                ),
                covered=content.covered,
                others=content.others,
            )
        )
    return CapturePlan(
        name=spec.name,
        sources=tuple(Target.of(drive) for drive in drives),
        firmware=Firmware(inventory.firmware),
        boots=_boots(found),
        os=survey.os,
        layout=Layout(nodes=tuple(_named(found, survey)), volumes=tuple(volumes)),
        volumes=tuple(reads),
        redactions=tuple(
            Redaction(volume=ids[file.on], path=file.path, bytes=file.size_bytes)
            for file in redacted
        ),
        notes=tuple(_notes(found, survey, spec)),
    )


def _named(found: FoundSystem, survey: Survey) -> Iterator[Node]:
    """Yield the nodes, LUKS containers with the names that the system has for them."""
    for node in found.nodes:
        named = isinstance(node, Luks) and survey.mapped.get(node.id)
        yield replace(node, name=named) if isinstance(node, Luks) and named else node


def unfitness(
    found: FoundSystem, survey: Survey, spec: CaptureSpec, drives: Sequence[Drive]
) -> Iterator[str]:
    """Yield every reason why `drives` cannot be captured as they are."""
    for drive in drives:
        if drive.users:
            yield f"{drive.path} is in use by {', '.join(drive.users)}"
    yield from found.unfit
    for node in found.nodes:
        if isinstance(node, Disk | Array) and node.table is not None:
            yield from _about_partitions(found, node)
    for content in found.contents:
        yield from _about_content(found, content)
    if not spec.keep_identity:
        yield from survey.unfit
    if not _boots(found):
        names = ", ".join(drive.path for drive in drives)
        yield f"nothing on {names} boots: no boot code for BIOS, no EFI loader"


def template_config(
    plan: CapturePlan, inventory: Inventory, captured_at: str, captured_by: str
) -> TemplateConfig:
    """Return the recorded configuration of what `plan` captures.

    Used bytes are those that the filesystems claim; the stream engine puts in what it read.
    """
    return TemplateConfig(
        format=FORMAT_VERSION,
        name=plan.name,
        captured_at=captured_at,
        captured_by=captured_by,
        firmware=plan.firmware,
        boots=plan.boots,
        os=plan.os,
        source=inventory,
        layout=plan.layout,
        redactions=plan.redactions,
    )


def _about_partitions(found: FoundSystem, disk: Holder) -> Iterator[str]:
    path = found.paths[disk.id]
    parts = [node for node in found.nodes if isinstance(node, Partition) and node.on == disk.id]
    if not parts:
        yield f"{path} has no partitions"
    for one, other in overlaps(part.extent for part in parts if not part.is_extended):
        yield f"the partitions at {one.offset} and {other.offset} of {path} overlap"
    for part in parts:
        name = f"partition {part.number} of {path}"
        if part.type in (PENDING_TYPE, MBR_PENDING_TYPE):
            yield f"{name} is that of a half-done deployment"
        if part.number > 128:
            yield f"{name} has a number above 128"


def _about_content(found: FoundSystem, content: FoundContent) -> Iterator[str]:
    name = described(found, content.on)
    yield from content.unfit
    if content.what == "swsuspend":
        yield f"{name} holds a hibernated system: start it and shut it down instead"
    if content.what in _PIECES:
        yield f"{name} is one part of something larger ({content.what}), which is not captured yet"
    if content.what == "ambiguous":
        yield f"{name} has several signatures, so what it holds is in doubt: see wipefs"
    node = found.node(content.on)
    if not isinstance(node, VolumeGroup) and content.content_bytes > node.size_bytes:
        yield f"the filesystem on {name} is longer than what it lies on"


def described(found: FoundSystem, node_id: str) -> str:
    """Return what a node is called in messages: `partition 3 of /dev/sda`, `md0 (raid1)`."""
    node = found.node(node_id)
    match node:
        case Partition(on=disk, number=number):
            return f"partition {number} of {found.paths[disk]}"
        case Array(id=array, level=level):
            return f"{array} ({level})"
        case LogicalVolume(name=name, on=on):
            group = found.node(on)
            return f"{group.name if isinstance(group, VolumeGroup) else on}/{name}"
        case _:
            return found.paths.get(node_id, node_id)


def _boots(found: FoundSystem) -> tuple[Firmware, ...]:
    """Return the firmware modes that the disks' own boot code serves."""
    modes = []
    if any(disk.boot_code for disk in found.disks):
        modes.append(Firmware.BIOS)
    if found.efi_loader is not None:
        modes.append(Firmware.UEFI)
    return tuple(modes)


def _boot_volumes(found: FoundSystem, disk: FoundDisk) -> Iterator[tuple[Volume, CaptureVolume]]:
    first = disk.id == found.disks[0].id
    node = found.node(disk.id)
    assert isinstance(node, Disk | Array)
    if disk.boot_code:
        name = "boot-code" if first else f"boot-code-{disk.id}"
        yield _whole(name, found, node, BootCode(), 0, BOOT_CODE_BYTES)
    if disk.gap_bytes:
        name = "mbr-gap" if first else f"mbr-gap-{disk.id}"
        yield _whole(name, found, node, MbrGap(), disk.sector_bytes, disk.gap_bytes)


def _whole(
    name: str, found: FoundSystem, disk: Holder, content: Content, offset: int, size: int
) -> tuple[Volume, CaptureVolume]:
    volume = Volume(
        id=name,
        on=disk.id,
        content=content,
        size_bytes=size,
        used_bytes=size,
        minimum_bytes=size,
    )
    read = CaptureVolume(
        volume=name,
        on=disk.id,
        path=found.paths[disk.id],
        place=Place(node=disk.id, offset_bytes=offset),
        size_bytes=size,
        method=_method(content),
    )
    return volume, read


def _place(found: FoundSystem, node_id: str) -> Place:
    node = found.node(node_id)
    if isinstance(node, Partition) and isinstance(found.node(node.on), Disk):
        return Place(node=node.on, offset_bytes=node.offset_bytes)
    return Place(node=node_id)


def _volume(
    found: FoundSystem, one: FoundContent, mounts: tuple[MountPoint, ...], taken: set[str]
) -> Volume:
    content = one.content or Raw()
    if isinstance(content, Btrfs):
        subvolumes = tuple(
            Subvolume(path=mount.subvolume, mount=mount.where)
            for mount in mounts
            if mount.subvolume is not None
        )
        content = replace(content, subvolumes=subvolumes)
    swap = isinstance(content, Swap)
    plain = next((mount.where for mount in mounts if mount.subvolume is None), None)
    return Volume(
        id=_volume_id(found, one, tuple(mount.where for mount in mounts), taken),
        on=one.on,
        content=content,
        size_bytes=one.content_bytes,
        used_bytes=0 if swap else one.used_bytes,
        minimum_bytes=one.minimum_bytes,
        mount=None if swap else plain,
    )


def _method(content: Content) -> CaptureMethod:
    match content:
        case Swap():
            return CaptureMethod.HEADER
        case BootCode():
            return CaptureMethod.BOOT_CODE
        case Raw() | MbrGap():
            return CaptureMethod.WHOLE
        case _:
            return CaptureMethod.USED_BLOCKS


def _volume_id(
    found: FoundSystem, one: FoundContent, mounts: tuple[str, ...], taken: set[str]
) -> str:
    """Return a name for a person: `root`, `boot`, `esp`, `swap`; with the node if it is taken."""
    node = found.node(one.on)
    kind = node.type if isinstance(node, Partition) else None
    plain = f"part{node.number}" if isinstance(node, Partition) else f"on-{one.on}"
    if "/" in mounts:
        name = "root"
    elif kind in (ESP_TYPE, "ef"):
        name = "esp"
    elif mounts:
        name = re.sub(r"[^a-z0-9]+", "-", mounts[0].lower()).strip("-")
    elif one.what == "swap":
        name = "swap"
    elif kind == BIOS_BOOT_TYPE:
        name = "bios-boot"
    else:
        name = plain
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,60}", name):
        name = plain
    choices = chain((name, f"{name[:30]}-{one.on[:30]}"), (f"{plain}-{n}" for n in count()))
    return next(choice for choice in choices if choice not in taken)


def _notes(found: FoundSystem, survey: Survey, spec: CaptureSpec) -> Iterator[str]:
    yield from survey.notes
    yield from found.notes
    for content in found.contents:
        if content.what in _OPAQUE and content.what != "crypto_LUKS":
            yield (
                f"{described(found, content.on)} ({content.what}) is kept whole: nothing in it can "
                "grow or become a machine's own"
            )
    if found.has_fallback_loader is False and found.efi_loader is not None:
        yield (
            "the EFI system partition has no fallback loader: a machine boots this template only "
            "with a boot entry in its firmware, which a deployment makes"
        )
    if spec.damaged:
        yield "what cannot be read on the disk is stored as zeros, and recorded in the template"
    if spec.keep_identity:
        yield "SSH host keys, machine id and other private files stay in the template"
