"""The capture decision: what of a disk goes into a template and how, or every reason why not."""

import re
from collections.abc import Iterator
from itertools import chain, count
from typing import Final

from agent.errors import SourceUnfit
from agent.model.inventory import Drive, Inventory
from agent.model.job import CaptureSpec
from agent.model.layout import (
    BOOT_CODE_BYTES,
    BootCode,
    Content,
    Ext,
    Layout,
    Raw,
    Swap,
    Vfat,
    Volume,
    Xfs,
)
from agent.model.nodes import (
    BIOS_BOOT_TYPE,
    ESP_TYPE,
    PENDING_TYPE,
    Disk,
    Gpt,
    Partition,
)
from agent.model.plan import (
    CaptureMethod,
    CapturePlan,
    CaptureVolume,
    FoundLayout,
    FoundPartition,
    Survey,
    Target,
)
from agent.model.template import FORMAT_VERSION, Firmware, Redaction, TemplateConfig
from agent.planning.free_space import overlaps
from agent.units import Extent

_EXT: Final = ("ext2", "ext3", "ext4")
_PIECES: Final = frozenset(
    {"linux_raid_member", "ddf_raid_member", "isw_raid_member", "zfs_member", "ceph_bluestore"}
)
"""Parts of something that spans disks: one part alone is worth nothing."""
_OPAQUE: Final = frozenset({"LVM2_member", "crypto_LUKS", "btrfs", "ntfs", "BitLocker"})
_DISK: Final = "disk0"


def plan_capture(
    inventory: Inventory, found: FoundLayout, survey: Survey, spec: CaptureSpec, drive: Drive
) -> CapturePlan:
    """Decide what is read from `drive` and how. The disk is never written.

    Raises SourceUnfit with every reason at once.
    """
    if reasons := tuple(unfitness(found, survey, spec, drive)):
        raise SourceUnfit(reasons)
    assert found.uuid is not None  # else refused
    mounts = {mount.number: mount.where for mount in survey.mounts}
    redacted = () if spec.keep_identity else survey.redacted
    nodes: list[Disk | Partition] = [
        Disk(
            id=_DISK,
            size_bytes=drive.size_bytes,
            sector_bytes=drive.sector_bytes,
            physical_sector_bytes=drive.physical_sector_bytes,
            table=Gpt(uuid=found.uuid),
        )
    ]
    volumes: list[Volume] = []
    reads: list[CaptureVolume] = []
    if found.boot_code:
        volumes.append(_boot_code())
        reads.append(
            CaptureVolume(
                volume="boot-code",
                number=None,
                offset_bytes=0,
                size_bytes=BOOT_CODE_BYTES,
                method=CaptureMethod.BOOT_CODE,
            )
        )
    ids: dict[int, str] = {}
    for part in sorted(found.partitions, key=lambda part: part.offset_bytes):
        nodes.append(_partition(part))
        volume = _volume(part, mounts.get(part.number), {"boot-code", *ids.values()})
        ids[part.number] = volume.id
        volumes.append(volume)
        runs = tuple(run for file in redacted if file.number == part.number for run in file.runs)
        reads.append(
            CaptureVolume(
                volume=volume.id,
                number=part.number,
                offset_bytes=part.offset_bytes,
                size_bytes=volume.size_bytes,
                method=_method(volume.content),
                redacted=runs,
            )
        )
    return CapturePlan(
        name=spec.name,
        source=Target.of(drive),
        firmware=Firmware(inventory.firmware),
        boots=_boots(found),
        os=survey.os,
        layout=Layout(nodes=tuple(nodes), volumes=tuple(volumes)),
        volumes=tuple(reads),
        redactions=tuple(
            Redaction(volume=ids[file.number], path=file.path, bytes=file.size_bytes)
            for file in redacted
        ),
        notes=tuple(_notes(found, survey, spec)),
    )


def unfitness(found: FoundLayout, survey: Survey, spec: CaptureSpec, drive: Drive) -> Iterator[str]:
    """Yield every reason why `drive` cannot be captured as it is."""
    if drive.users:
        yield f"{drive.path} is in use by {', '.join(drive.users)}"
    if found.table is None:
        yield f"{drive.path} has no partition table; a GPT is needed"
        return
    if found.table != "gpt":
        yield f"{drive.path} has a table of the kind {found.table}; this release reads GPT"
        return
    if not found.partitions:
        yield f"{drive.path} has no partitions"
    if found.is_hybrid:
        yield f"{drive.path} has a hybrid MBR, which a template cannot hold"
    for one, other in overlaps(
        Extent(part.offset_bytes, part.size_bytes) for part in found.partitions
    ):
        yield f"the partitions at {one.offset} and {other.offset} of {drive.path} overlap"
    for part in found.partitions:
        name = f"partition {part.number} of {drive.path}"
        yield from part.unfit
        if part.type == PENDING_TYPE:
            yield f"{name} is that of a half-done deployment"
        if part.what == "swsuspend":
            yield f"{name} holds a hibernated system: start it and shut it down instead"
        if part.what in _PIECES:
            yield f"{name} is one part of something larger ({part.what}), which is not captured yet"
        if part.what == "ambiguous":
            yield f"{name} has several signatures, so what it holds is in doubt: see wipefs"
        if part.content_bytes > part.size_bytes:
            yield f"the filesystem on {name} is longer than its partition"
        if part.number > 128:
            yield f"{name} has a number above 128"
    if not spec.keep_identity:
        yield from survey.unfit
    if not _boots(found):
        yield f"nothing on {drive.path} boots: no boot code for BIOS, no EFI loader"


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


def _boots(found: FoundLayout) -> tuple[Firmware, ...]:
    """Return the firmware modes that the disk's own boot code serves."""
    modes = []
    if found.boot_code:
        modes.append(Firmware.BIOS)
    if found.efi_loader is not None:
        modes.append(Firmware.UEFI)
    return tuple(modes)


def _boot_code() -> Volume:
    return Volume(
        id="boot-code",
        on=_DISK,
        content=BootCode(),
        size_bytes=BOOT_CODE_BYTES,
        used_bytes=BOOT_CODE_BYTES,
        minimum_bytes=BOOT_CODE_BYTES,
    )


def _partition(part: FoundPartition) -> Partition:
    return Partition(
        id=f"{_DISK}p{part.number}",
        on=_DISK,
        number=part.number,
        offset_bytes=part.offset_bytes,
        size_bytes=part.size_bytes,
        type=part.type,
        uuid=part.uuid,
        name=part.name,
        attributes=part.attributes,
    )


def _volume(part: FoundPartition, mount: str | None, taken: set[str]) -> Volume:
    content = _content(part)
    swap = isinstance(content, Swap)
    return Volume(
        id=_volume_id(part, mount, taken),
        on=f"{_DISK}p{part.number}",
        content=content,
        size_bytes=part.content_bytes,
        used_bytes=0 if swap else part.used_bytes,
        minimum_bytes=part.minimum_bytes,
        mount=None if swap else mount,
    )


def _content(part: FoundPartition) -> Content:
    if part.what in _EXT and part.content_uuid:
        return Ext(
            uuid=part.content_uuid,
            label=part.label,
            block_bytes=part.block_bytes,
            features=part.features,
        )
    if part.what == "xfs" and part.content_uuid:
        return Xfs(uuid=part.content_uuid, label=part.label, block_bytes=part.block_bytes)
    if part.what == "vfat":
        return Vfat(uuid=part.content_uuid or "", label=part.label)
    if part.what == "swap":
        return Swap(uuid=part.content_uuid, label=part.label, page_bytes=part.block_bytes)
    return Raw()


def _method(content: Content) -> CaptureMethod:
    match content:
        case Ext() | Xfs() | Vfat():
            return CaptureMethod.USED_BLOCKS
        case Swap():
            return CaptureMethod.HEADER
        case _:
            return CaptureMethod.WHOLE


def _volume_id(part: FoundPartition, mount: str | None, taken: set[str]) -> str:
    """Return a name for a person: `root`, `boot`, `esp`, `swap`; with the number if it is taken."""
    if mount == "/":
        name = "root"
    elif part.type == ESP_TYPE:
        name = "esp"
    elif mount:
        name = re.sub(r"[^a-z0-9]+", "-", mount.lower()).strip("-")
    elif part.what == "swap":
        name = "swap"
    elif part.type == BIOS_BOOT_TYPE:
        name = "bios-boot"
    else:
        name = f"part{part.number}"
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,60}", name):
        name = f"part{part.number}"
    choices = chain(
        (name, f"{name[:50]}-{part.number}"), (f"part{part.number}-{n}" for n in count())
    )
    return next(
        choice for choice in choices if choice not in taken and not choice.startswith(_DISK)
    )


def _notes(found: FoundLayout, survey: Survey, spec: CaptureSpec) -> Iterator[str]:
    yield from survey.notes
    for part in found.partitions:
        if part.what in _OPAQUE:
            yield (
                f"partition {part.number} ({part.what}) is kept whole: nothing in it can grow or "
                "become a machine's own"
            )
        if part.what == "xfs":
            yield (
                f"partition {part.number} (xfs) is restored at its size: nothing in it can grow or "
                "become a machine's own"
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
