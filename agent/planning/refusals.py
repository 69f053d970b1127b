"""Why a template may not go onto a disk: every reason, each as one sentence for a person. Pure."""

from collections.abc import Iterator, Mapping
from typing import Final

from agent.errors import AgentError, Refused
from agent.model.filesystems import can_grow, fits_sectors
from agent.model.inventory import Drive, Found, Inventory
from agent.model.job import DeploySpec
from agent.model.layout import BootCode, MbrGap, Raw, Vfat
from agent.model.nodes import Array, Disk, Holder, Luks, Mbr, MdMetadata
from agent.model.template import FORMAT_VERSION, TemplateConfig
from agent.network import intended_network, missing_cards, render_network
from agent.planning.damage import DAMAGE_CONSENT, damage_lines
from agent.planning.soundness import about_layout
from agent.planning.stack import UnixFiles
from agent.planning.tables import Room, needs_bytes, sector_objections
from agent.units import format_bytes

VALUABLE_USAGES: Final = frozenset({"raid", "crypto"})
"""libblkid's usage of what is one part of something larger, or cannot be read without a key."""
VALUABLE: Final = frozenset(
    {
        "LVM2_member",
        "LVM1_member",
        "linux_raid_member",
        "zfs_member",
        "crypto_LUKS",
        "BitLocker",
        "ceph_bluestore",
        "VMFS",
        "VMFS_volume_member",
        "drbd",
        "bcache",
        "stratis",
        "vdo",
        "unreadable",
    }
)
"""What stands on a disk without showing its files. Ordinary filesystems need no consent."""
DUPLICATE_CONSENT: Final = "duplicate-uuid"
_ARCHITECTURES: Final = {"amd64": "x86_64", "x86-64": "x86_64", "arm64": "aarch64"}
_KIND_WORDS: Final = {"bios": "BIOS", "uefi": "UEFI"}


def objections(
    inventory: Inventory,
    template: TemplateConfig,
    spec: DeploySpec,
    drives: Mapping[str, Drive],
    *,
    same: bool = True,
) -> Iterator[str]:
    """Yield every reason not to begin, so that one visit settles them all.

    `same`: in the template's own layout, each disk of which has one of `drives`.
    """
    yield from _about_template(template, spec)
    yield from about_layout(template.name, template.layout)
    yield from _about_machine(inventory, template, same=same)
    if same:
        yield from _about_drives(template, drives)
    for drive in drives.values():
        yield from _about_disk(drive)
        yield from _about_contents(spec, drive)
    yield from _about_twins(inventory, template, spec, drives)
    yield from _about_network(inventory, template, spec)


def valuables(drive: Drive) -> tuple[Found, ...]:
    """Return what is on `drive` that must not be destroyed without consent."""
    return tuple(
        found
        for found in drive.contents
        if found.usage in VALUABLE_USAGES or found.what in VALUABLE
    )


def duplicates(
    inventory: Inventory, template: TemplateConfig, drives: Mapping[str, Drive]
) -> tuple[str, ...]:
    """Return what other disks of the machine hold under a UUID that the template brings too."""
    ours = {drive.path for drive in drives.values()}
    uuids = {
        volume.content.uuid.lower()
        for volume in template.layout.volumes
        if not isinstance(volume.content, Raw | BootCode | MbrGap | Vfat) and volume.content.uuid
    } | {node.uuid.lower() for node in template.layout.nodes if isinstance(node, Array | Luks)}
    return tuple(
        f"{found.what} {found.uuid} on {found.path}"
        for other in inventory.disks
        if other.path not in ours
        for found in other.contents
        if found.uuid and found.uuid.lower() in uuids
    )


def _about_template(template: TemplateConfig, spec: DeploySpec) -> Iterator[str]:
    layout = template.layout
    name = template.name
    if not 1 <= template.format <= FORMAT_VERSION:
        yield (
            f"{name} has template format {template.format}, this agent reads "
            f"1 to {FORMAT_VERSION}: boot a newer image"
        )
    if DAMAGE_CONSENT not in spec.consent:
        for line in damage_lines(template.holes):
            yield f"{name} is damaged: {line} (consent {DAMAGE_CONSENT})"
    wanted = [spec.identity.hostname, spec.identity.authorized_keys, spec.network]
    if any(wanted) and not any(
        "/" in volume.mount_points and isinstance(volume.content, UnixFiles)
        for volume in layout.volumes
    ):
        yield (
            f"{name} has no root filesystem that we can write, "
            "so hostname, keys and network cannot be set"
        )
    if spec.grow is not None and spec.grow != "/":
        found = [volume for volume in layout.volumes if spec.grow in volume.mount_points]
        if not found:
            yield f"{spec.grow} cannot grow: {name} mounts nothing there"
        elif not can_grow(found[0].content):
            yield f"{spec.grow} cannot grow: its filesystem is of a kind that does not"


def _about_machine(inventory: Inventory, template: TemplateConfig, *, same: bool) -> Iterator[str]:
    if same and inventory.firmware not in [mode.value for mode in template.boots]:
        modes = " and ".join(_KIND_WORDS[mode] for mode in template.boots) or "no firmware"
        started = _KIND_WORDS.get(inventory.firmware, "an unknown firmware")
        yield f"this machine was started by {started}, {template.name} boots on {modes}"
    volumes = [
        node.id
        for node in template.layout.nodes
        if isinstance(node, Array) and node.metadata is MdMetadata.IMSM
    ]
    if same and volumes and not inventory.imsm:
        yield (
            f"{', '.join(volumes)} of {template.name} is a volume of Intel's RAID, which is not in "
            "this machine's firmware, or turned off there (another layout copies the files: "
            "layout auto)"
        )
    here, there = _architecture(inventory.arch), _architecture(template.source.arch)
    if here != there:
        yield f"this machine is {here}, {template.name} was captured on {there}"


def _architecture(name: str) -> str:
    return _ARCHITECTURES.get(name, name)


def _about_disk(drive: Drive) -> Iterator[str]:
    if drive.read_only:
        yield f"{drive.path} is read-only"
    if drive.users:
        yield f"{drive.path} is in use by {', '.join(drive.users)}"


def _about_contents(spec: DeploySpec, drive: Drive) -> Iterator[str]:
    for found in valuables(drive):
        if found.what not in spec.consent:
            label = f" {found.label!r}" if found.label else ""
            yield (
                f"{found.path} holds {found.what}{label}: it is destroyed only with the "
                f"consent {found.what}"
            )


def _about_twins(
    inventory: Inventory,
    template: TemplateConfig,
    spec: DeploySpec,
    drives: Mapping[str, Drive],
) -> Iterator[str]:
    if DUPLICATE_CONSENT not in spec.consent:
        for twin in duplicates(inventory, template, drives):
            yield (
                f"another disk already holds {twin}, which {template.name} brings too: which of "
                f"them boots would be chance (wipe that disk, or consent {DUPLICATE_CONSENT})"
            )


def _about_drives(template: TemplateConfig, drives: Mapping[str, Drive]) -> Iterator[str]:
    for disk in template.layout.disks:
        drive = drives.get(disk.id)
        if drive is None:
            yield f"no disk was chosen for {disk.id} of {template.name}"
        else:
            yield from _about_fit(template, disk, drive)


def _about_fit(template: TemplateConfig, disk: Disk, drive: Drive) -> Iterator[str]:
    if disk.sector_bytes != drive.sector_bytes:
        yield from _about_sectors(template, disk, drive)
    parts = template.layout.partitions(disk.id)
    if not parts:
        if drive.size_bytes < disk.size_bytes:
            yield (
                f"{disk.id} of {template.name} is used whole, without a table, and has "
                f"{_exact(disk.size_bytes)}; {drive.path} has {_exact(drive.size_bytes)}"
            )
        return
    last = max(parts, key=lambda part: part.extent.end)
    needs = needs_bytes(parts, disk.table, disk.sector_bytes)
    if needs > drive.size_bytes:
        least = sum(volume.minimum_bytes for volume in template.layout.volumes)
        yield (
            f"{template.name} needs {_exact(needs)} (partition {last.number} ends at "
            f"{_exact(last.extent.end)}), {drive.path} has {_exact(drive.size_bytes)}; "
            f"its volumes could shrink to {format_bytes(least)}, but not in the same layout"
        )


def _about_network(
    inventory: Inventory, template: TemplateConfig, spec: DeploySpec
) -> Iterator[str]:
    """What is asked is rendered here and thrown away: what cannot be is known before a write."""
    stack = template.os.network_stack if template.os else None
    if stack is None:
        if spec.network is not None:
            yield f"a network is asked for, but {template.name} has no network stack that we know"
        return
    try:
        config = intended_network(spec.network, inventory.nics)
        yield from missing_cards(config, inventory.nics)
        render_network(config, stack, inventory.nics)
    except Refused as error:
        yield from error.objections
    except AgentError as error:
        yield str(error)


def _about_sectors(template: TemplateConfig, disk: Disk, drive: Drive) -> Iterator[str]:
    """A GPT lies elsewhere with other sectors, and some filesystems count in the disk's own."""
    differ = (
        f"{template.name} was captured from sectors of {disk.sector_bytes} bytes, "
        f"{drive.path} has sectors of {drive.sector_bytes}"
    )
    reasons: list[str] = []
    holders: tuple[Holder, ...] = (disk, *template.layout.tabled_arrays)
    for holder in holders:
        if disk in template.layout.disks_of(holder.id):
            size = drive.size_bytes if holder is disk else holder.size_bytes
            room = Room(size, drive.sector_bytes, is_mbr=isinstance(holder.table, Mbr))
            if room.is_enough:
                reasons += sector_objections(template.layout.partitions(holder.id), room)
            else:
                reasons.append(f"{holder.id} is too small for a table in such sectors")
    reasons += [
        f"{volume.mount or volume.id} counts in smaller sectors"
        for volume in template.layout.volumes
        if disk in template.layout.disks_of(volume.on)
        and not fits_sectors(volume.content, drive.sector_bytes)
    ]
    if any(isinstance(volume.content, BootCode) for volume in template.layout.volumes):
        reasons.append("its BIOS boot code counts in sectors of the source")
    if reasons:
        yield f"{differ}: {'; '.join(reasons)} (another layout copies the files: layout auto)"


def _exact(size_bytes: int) -> str:
    return f"{format_bytes(size_bytes)} ({size_bytes} bytes)"
