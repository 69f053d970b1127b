"""Whole disks: identity, size, how they are attached, what they hold and what uses them."""

import re
from collections.abc import Mapping
from typing import Final

from agent.model.inventory import Drive, Transport
from agent.probe.contents import probe_contents, probe_hidden
from agent.probe.multipath import merge_paths, multipath_key
from agent.probe.raid import RAID_DRIVERS
from agent.probe.tree import Tree
from agent.probe.udev import UdevDb
from agent.probe.usage import Usage, find_users, probe_usage
from agent.system.command import Runner
from agent.units import Extent

SYSFS_SECTOR_BYTES: Final = 512
"""sysfs counts in this unit whatever the disk's own sectors are."""

_NOT_DISKS = re.compile(
    r"(loop|ram|zram|sr|fd|dm-|md|nbd|rbd|drbd|bcache|zd|mtdblock|ubiblock)\d.*|mmcblk\d+(boot\d+|rpmb)"
)
_VIRTUAL_MEDIA = re.compile(
    r"(?i)\b(virtual|idrac|ilo|aten|ami|lcdrive|oemdrv|secupd|composite device|remote media)\b"
)
"""Vendors and models of the USB drives that a management controller plugs in."""
_HCTL = re.compile(r"\d+:\d+:\d+:\d+")
_VOLUME_CHANNEL: Final = 2
"""megaraid_sas shows its volumes from this SCSI channel on, plain disks below."""
_ALWAYS_VOLUMES: Final = frozenset(
    {"3w-9xxx", "3w-sas", "3w-xxxx", "aacraid", "arcmsr", "dac960", "ips", "megaraid_mbox", "stex"}
)


def probe_disks(run: Runner, tree: Tree, udev: UdevDb) -> tuple[Drive, ...]:
    """Return every whole disk with a medium in it, ordered by path. Several paths are one disk."""
    usage = probe_usage(tree)
    drives = []
    keys = {}
    for name in tree.names("/sys/block"):
        at = f"/sys/block/{name}"
        if _NOT_DISKS.fullmatch(name) or tree.flag(f"{at}/hidden"):
            continue
        if tree.number(f"{at}/size"):
            drive = _drive(run, tree, udev.get(name, {}), usage, name)
            drives.append(drive)
            keys[drive.path] = multipath_key(drive, tree.text(f"{at}/device/wwid"))
    drives.sort(key=lambda drive: (len(drive.path), drive.path))
    return merge_paths(drives, keys)


def _drive(
    run: Runner, tree: Tree, properties: Mapping[str, str], usage: Usage, name: str
) -> Drive:
    at = f"/sys/block/{name}"
    path = _device_path(name)
    partitions = [part for part in tree.names(at) if tree.exists(f"{at}/{part}/partition")]
    partitions.sort(key=lambda part: tree.number(f"{at}/{part}/partition") or 0)
    extents = {_device_path(part): _extent(tree, f"{at}/{part}") for part in partitions}
    whole = Extent(0, (tree.number(f"{at}/size") or 0) * SYSFS_SECTOR_BYTES)
    sector_bytes = tree.number(f"{at}/queue/logical_block_size") or SYSFS_SECTOR_BYTES
    hctl = tree.target_name(f"{at}/device")
    transport = find_transport(tree, properties, name)
    vendor = tree.text(f"{at}/device/vendor") if transport is not Transport.VIRTIO else None
    model = _model(tree, properties, at)
    users = [
        user
        for part in ("", *partitions)
        for user in find_users(tree, usage, f"{at}/{part}", _device_path(part or name))
    ]
    return Drive(
        path=path,
        size_bytes=whole.size,
        sector_bytes=sector_bytes,
        physical_sector_bytes=tree.number(f"{at}/queue/physical_block_size") or SYSFS_SECTOR_BYTES,
        model=model,
        vendor=None if vendor == "ATA" else vendor,
        serial=_serial(tree, properties, at),
        wwn=_wwn(tree, properties, at),
        hctl=hctl if hctl and _HCTL.fullmatch(hctl) else None,
        by_path=_by_path(properties),
        transport=transport,
        rotational=tree.flag(f"{at}/queue/rotational"),
        removable=tree.flag(f"{at}/removable"),
        read_only=tree.flag(f"{at}/ro"),
        virtual_media=transport is Transport.USB
        and bool(_VIRTUAL_MEDIA.search(f"{vendor} {model}")),
        users=tuple(dict.fromkeys(users)),
        contents=probe_contents(run, [path, *extents])
        + probe_hidden(tree.at(path), path, whole, sector_bytes, extents),
    )


def _extent(tree: Tree, at: str) -> Extent:
    """Return where a partition lies. The kernel shows an extended one as two sectors long."""
    start, size = (tree.number(f"{at}/{name}") or 0 for name in ("start", "size"))
    return Extent(start * SYSFS_SECTOR_BYTES, max(size, 1) * SYSFS_SECTOR_BYTES)


def find_transport(tree: Tree, properties: Mapping[str, str], name: str) -> Transport:
    """Return how the disk is attached, from the chain of devices above it.

    `raid` is a volume that a controller made; a plain disk behind one is `sas` or `sata`.
    """
    where = str(tree.target(f"/sys/block/{name}") or "")
    if name.startswith("nvme"):
        return Transport.NVME
    if name.startswith("mmcblk"):
        return Transport.MMC
    if "/usb" in where:
        return Transport.USB
    if _is_raid_volume(tree, where, name):
        return Transport.RAID
    if "/ata" in where or properties.get("ID_BUS") == "ata":  # the latter behind a SAS controller
        return Transport.IDE if name.startswith("hd") else Transport.SATA
    for mark, transport in (
        ("/session", Transport.ISCSI),
        ("/rport-", Transport.FC),
        ("/end_device-", Transport.SAS),
    ):
        if mark in where:
            return transport
    if re.search(r"/virtio\d+/block/", where):
        return Transport.VIRTIO
    if name.startswith("hd"):
        return Transport.IDE
    return Transport.SCSI if "/host" in where else Transport.UNKNOWN


def _is_raid_volume(tree: Tree, where: str, name: str) -> bool:
    driver = _pci_driver(tree, where)
    if driver not in RAID_DRIVERS or driver == "vmd":
        return False
    level = tree.text(f"/sys/block/{name}/device/raid_level")
    if level is not None:
        return level.upper() != "N/A"
    if driver in _ALWAYS_VOLUMES:
        return True
    if driver == "megaraid_sas":
        hctl = _HCTL.fullmatch(tree.target_name(f"/sys/block/{name}/device") or "")
        return hctl is not None and int(hctl[0].split(":")[1]) >= _VOLUME_CHANNEL
    return "logical volume" in (tree.text(f"/sys/block/{name}/device/model") or "").lower()


def _pci_driver(tree: Tree, where: str) -> str | None:
    """Return the driver of the last PCI device on the way to the disk."""
    addresses = re.findall(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", where)
    return tree.target_name(f"/sys/bus/pci/devices/{addresses[-1]}/driver") if addresses else None


def _device_path(name: str) -> str:
    """Return the device node of a kernel name; the kernel writes `!` for a slash."""
    return "/dev/" + name.replace("!", "/")


def _model(tree: Tree, properties: Mapping[str, str], at: str) -> str | None:
    """Return the model. SCSI cuts it to 16 letters; udev asks an ATA disk for all of it."""
    encoded = properties.get("ID_MODEL_ENC", "")
    decoded = re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), encoded)
    words = " ".join(decoded.split())
    shown = tree.text(f"{at}/device/model") or tree.text(f"{at}/device/name")
    return words or (" ".join(shown.split()) if shown else None)


def _serial(tree: Tree, properties: Mapping[str, str], at: str) -> str | None:
    """Return the serial number that lsblk(8) shows, which people copy from there."""
    for name in ("SCSI_IDENT_SERIAL", "ID_SCSI_SERIAL", "ID_SERIAL_SHORT"):
        if text := properties.get(name, "").strip():
            return text
    page = tree.data(f"{at}/device/vpd_pg80")
    if page and len(page) > 4:
        length = int.from_bytes(page[2:4], "big")
        if text := page[4 : 4 + length].decode("ascii", "replace").strip(" \0"):
            return text
    return tree.text(f"{at}/serial") or tree.text(f"{at}/device/serial")


def _wwn(tree: Tree, properties: Mapping[str, str], at: str) -> str | None:
    """Return the world-wide name: `0x5000c500a1b2c3d4`, `eui.…`, `nvme.…`.

    With its extension: the volumes of one RAID controller differ only there.
    """
    for name in ("ID_WWN_WITH_EXTENSION", "ID_WWN"):
        if text := properties.get(name, "").strip():
            return text
    text = tree.text(f"{at}/wwid") or tree.text(f"{at}/device/wwid") or ""
    if text.startswith("naa."):
        return "0x" + text[4:]
    return text if text.startswith(("eui.", "nvme.", "uuid.")) else None


def _by_path(properties: Mapping[str, str]) -> str | None:
    """Return the name below /dev/disk/by-path/, which stays with the slot, not with the disk."""
    text = properties.get("ID_PATH")
    return f"/dev/disk/by-path/{text}" if text else None
