"""Why a template may not go onto a disk: every reason, each as one sentence for a person. Pure."""

from collections.abc import Iterator
from typing import Final

from agent.errors import AgentError, Refused
from agent.model.inventory import Drive, Found, Inventory
from agent.model.job import DeploySpec
from agent.model.layout import (
    BootCode,
    Ext,
    Swap,
    Volume,
    Xfs,
)
from agent.model.nodes import PENDING_TYPE, Disk, Partition
from agent.model.template import FORMAT_VERSION, TemplateConfig
from agent.network import intended_network, missing_cards, render_network
from agent.planning.damage import DAMAGE_CONSENT, damage_lines
from agent.planning.free_space import overlaps, usable
from agent.units import align_up, format_bytes

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
    inventory: Inventory, template: TemplateConfig, spec: DeploySpec, drive: Drive
) -> Iterator[str]:
    """Yield every reason not to begin, so that one visit settles them all."""
    yield from _about_template(template, spec)
    yield from _about_machine(inventory, template)
    yield from _about_disk(drive)
    yield from _about_contents(inventory, template, spec, drive)
    yield from _about_fit(template, drive)
    yield from _about_network(inventory, template, spec)


def valuables(drive: Drive) -> tuple[Found, ...]:
    """Return what is on `drive` that must not be destroyed without consent."""
    return tuple(
        found
        for found in drive.contents
        if found.usage in VALUABLE_USAGES or found.what in VALUABLE
    )


def duplicates(inventory: Inventory, template: TemplateConfig, drive: Drive) -> tuple[str, ...]:
    """Return what other disks of the machine hold under a UUID that the template brings too."""
    uuids = {
        volume.content.uuid.lower()
        for volume in template.layout.volumes
        if isinstance(volume.content, Ext | Xfs | Swap) and volume.content.uuid
    }
    return tuple(
        f"{found.what} {found.uuid} on {found.path}"
        for other in inventory.disks
        if other.path != drive.path
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
    if len(layout.disks) != 1:
        yield f"{name} has {len(layout.disks)} disks, one can be deployed"
        return
    disk = layout.disks[0]
    if disk.table is None:
        yield f"{name} has no partition table, a GPT is needed"
    parts = layout.partitions(disk.id)
    if not parts:
        yield f"{name} has no partitions"
    yield from _about_partitions(name, disk, parts)
    for volume in layout.volumes:
        yield from _about_volume(name, layout.node(volume.on), volume)
    carriers = [volume.on for volume in layout.volumes]
    if len(set(carriers)) != len(carriers):
        yield f"{name} has two volumes on one partition"
    mounts = [volume.mount for volume in layout.volumes if volume.mount]
    for mount in mounts:
        if not _is_mount_point(mount):
            yield f"{name} has a mount point that is none: {mount!r}"
    if len(set(mounts)) != len(mounts):
        yield f"{name} has two volumes for one mount point"
    if DAMAGE_CONSENT not in spec.consent:
        for line in damage_lines(template.holes):
            yield f"{name} is damaged: {line} (consent {DAMAGE_CONSENT})"
    wanted = [spec.identity.hostname, spec.identity.authorized_keys, spec.network]
    if any(wanted) and not any(
        volume.mount == "/" and isinstance(volume.content, Ext) for volume in layout.volumes
    ):
        yield (
            f"{name} has no root filesystem that we can write, "
            "so hostname, keys and network cannot be set"
        )
    if spec.grow is not None and spec.grow != "/":
        found = [volume for volume in layout.volumes if volume.mount == spec.grow]
        if not found:
            yield f"{spec.grow} cannot grow: {name} mounts nothing there"
        elif not isinstance(found[0].content, Ext):
            yield f"{spec.grow} cannot grow: it is not an ext filesystem"


def _is_mount_point(text: str) -> bool:
    words = text.split("/")[1:]
    lawful = all(word not in ("", ".", "..") for word in words) or text == "/"
    return text.startswith("/") and text.isprintable() and lawful


def _about_partitions(name: str, disk: Disk, parts: tuple[Partition, ...]) -> Iterator[str]:
    numbers = [part.number for part in parts]
    if len(set(numbers)) != len(numbers):
        yield f"{name} has two partitions of one number"
    uuids = [part.uuid for part in parts]
    if len(set(uuids)) != len(uuids):
        yield f"{name} has two partitions of one UUID"
    for one, other in overlaps(part.extent for part in parts):
        yield f"{name}: the partitions at {one.offset} and {other.offset} overlap"
    for part in parts:
        if part.offset_bytes % disk.sector_bytes or part.size_bytes % disk.sector_bytes:
            yield f"{name}: partition {part.number} is not made of whole sectors"
        if part.offset_bytes < 2 * disk.sector_bytes + 128 * 128:
            yield f"{name}: partition {part.number} begins inside the partition table"
        if part.type == PENDING_TYPE:
            yield f"{name}: partition {part.number} is that of a half-done deployment"
        if not part.name.isprintable():
            yield f"{name}: the name of partition {part.number} has control characters"


def _about_volume(name: str, node: Disk | Partition, volume: Volume) -> Iterator[str]:
    if isinstance(volume.content, BootCode):
        if not isinstance(node, Disk):
            yield f"{name}: boot code {volume.id} is not on the disk itself"
    elif not isinstance(node, Partition):
        yield f"{name}: volume {volume.id} is not on a partition"
    elif volume.size_bytes > node.size_bytes:
        yield (
            f"{name}: volume {volume.id} has {volume.size_bytes} bytes, "
            f"its partition {node.size_bytes}"
        )


def _about_machine(inventory: Inventory, template: TemplateConfig) -> Iterator[str]:
    if inventory.firmware not in [mode.value for mode in template.boots]:
        modes = " and ".join(_KIND_WORDS[mode] for mode in template.boots) or "no firmware"
        started = _KIND_WORDS.get(inventory.firmware, "an unknown firmware")
        yield f"this machine was started by {started}, {template.name} boots on {modes}"
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


def _about_contents(
    inventory: Inventory, template: TemplateConfig, spec: DeploySpec, drive: Drive
) -> Iterator[str]:
    for found in valuables(drive):
        if found.what not in spec.consent:
            label = f" {found.label!r}" if found.label else ""
            yield (
                f"{found.path} holds {found.what}{label}: it is destroyed only with the "
                f"consent {found.what}"
            )
    if DUPLICATE_CONSENT not in spec.consent:
        for twin in duplicates(inventory, template, drive):
            yield (
                f"another disk already holds {twin}, which {template.name} brings too: which of "
                f"them boots would be chance (wipe that disk, or consent {DUPLICATE_CONSENT})"
            )


def _about_fit(template: TemplateConfig, drive: Drive) -> Iterator[str]:
    if len(template.layout.disks) != 1:
        return
    disk = template.layout.disks[0]
    if disk.sector_bytes != drive.sector_bytes:
        yield (
            f"{template.name} was captured from sectors of {disk.sector_bytes} bytes, "
            f"{drive.path} has sectors of {drive.sector_bytes}"
        )
    parts = template.layout.partitions(disk.id)
    if not parts:
        return
    last = max(parts, key=lambda part: part.extent.end)
    needs = needs_bytes(last.extent.end, disk.sector_bytes)
    if needs > drive.size_bytes:
        least = sum(volume.minimum_bytes for volume in template.layout.volumes)
        yield (
            f"{template.name} needs {_exact(needs)} (partition {last.number} ends at "
            f"{_exact(last.extent.end)}), {drive.path} has {_exact(drive.size_bytes)}; "
            f"its volumes could shrink to {format_bytes(least)}, but this release does not shrink"
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


def needs_bytes(last_end: int, sector_bytes: int) -> int:
    """Return the smallest disk that holds partitions up to `last_end` and the backup GPT."""
    tail = usable(2**40, sector_bytes)
    return align_up(last_end, sector_bytes) + (2**40 - tail.end)


def _exact(size_bytes: int) -> str:
    return f"{format_bytes(size_bytes)} ({size_bytes} bytes)"
