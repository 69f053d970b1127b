"""The readable page of an inventory, as `agent inspect` prints it. Pure."""

from collections.abc import Iterator, Sequence

from agent.model.inventory import Drive, Found, Inventory, MdArray, Nic, SecureBoot, Transport
from agent.units import format_bytes

_INDENT = "  "


def render_inventory(inventory: Inventory) -> str:
    """Return the page: machine, disks and what is on them, RAID, network, then warnings."""
    parts = [
        _machine(inventory),
        _disks(inventory.disks),
        _controllers(inventory),
        _arrays(inventory),
        _nics(inventory.nics),
        _warnings(inventory),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _machine(inventory: Inventory) -> list[str]:
    board = inventory.board
    name = " ".join(word for word in (board.vendor, board.product) if word) or "unknown machine"
    firmware = "UEFI" if inventory.firmware == "uefi" else "BIOS"
    if inventory.firmware == "uefi":
        words = {
            SecureBoot.ON: "Secure Boot on",
            SecureBoot.OFF: "Secure Boot off",
            SecureBoot.SETUP: "Secure Boot in setup mode",
            SecureBoot.UNSUPPORTED: "no Secure Boot",
        }
        firmware += f", {words[inventory.secure_boot]}"
    if board.bios_vendor or board.bios_version:
        firmware += (
            f" ({' '.join(word for word in (board.bios_vendor, board.bios_version) if word)})"
        )
    rows = [
        ("Machine", name),
        ("Serial", board.serial or "-"),
        ("UUID", board.uuid or "-"),
        ("Firmware", firmware),
        ("Processor", f"{inventory.cpus} × {inventory.cpu_model} ({inventory.arch})"),
        ("Memory", format_bytes(inventory.memory_bytes)),
        ("Kernel", inventory.kernel),
    ]
    return _table(rows, "")


def _disks(disks: Sequence[Drive]) -> list[str]:
    if not disks:
        return ["Disks: none"]
    lines = [_count(disks, "Disk")]
    head = ("", "size", "by", "kind", "sectors", "model", "serial", "WWN")
    rows = _table([head, *map(_disk_row, disks)], _INDENT)
    lines.append(rows[0])
    for drive, row in zip(disks, rows[1:], strict=True):
        lines.append(row)
        lines += [f"{_INDENT * 2}{line}" for line in _disk_details(drive)]
    return lines


def _disk_row(drive: Drive) -> tuple[str, ...]:
    return (
        drive.path,
        format_bytes(drive.size_bytes),
        drive.transport.value,
        "disk" if drive.rotational else "flash",
        _sectors(drive),
        " ".join(word for word in (drive.vendor, drive.model) if word) or "-",
        drive.serial or "-",
        drive.wwn or "-",
    )


def _sectors(drive: Drive) -> str:
    if drive.sector_bytes == drive.physical_sector_bytes:
        return str(drive.sector_bytes)
    return f"{drive.sector_bytes}/{drive.physical_sector_bytes}"


def _disk_details(drive: Drive) -> Iterator[str]:
    if drive.by_path or drive.hctl:
        yield "at " + ", ".join(
            word for word in (drive.by_path, drive.hctl and f"SCSI {drive.hctl}") if word
        )
    if drive.paths:
        yield f"one disk on {len(drive.paths)} paths: {', '.join(drive.paths)}"
    traits = [
        word
        for word, applies in (
            ("virtual media", drive.virtual_media),
            ("removable", drive.removable),
            ("read-only", drive.read_only),
        )
        if applies
    ]
    if traits:
        yield ", ".join(traits)
    if drive.contents:
        yield from _table([_found_row(found) for found in drive.contents], "")
    else:
        yield "empty: no signature found"
    yield from (f"in use: {user}" for user in drive.users)


def _found_row(found: Found) -> tuple[str, ...]:
    label = f'"{found.label}"' if found.label else ""
    return (found.path, found.what, label, found.uuid or "")


def _controllers(inventory: Inventory) -> list[str]:
    rows = [
        (c.address, c.name or "unknown", c.vendor_device, f"driver {c.driver or 'none'}")
        for c in inventory.raid_controllers
    ]
    found = ["RAID controllers", *_table(rows, _INDENT)] if rows else []
    return [*found, "Intel's RAID is in the firmware"] if inventory.imsm else found


def _arrays(inventory: Inventory) -> list[str]:
    rows = [_array_row(array) for array in inventory.md_arrays]
    return ["Software RAID", *_table(rows, _INDENT)] if rows else []


def _array_row(array: MdArray) -> tuple[str, ...]:
    members = " ".join(array.members)
    return (array.path, array.level, array.metadata, array.state, members, array.uuid or "")


def _nics(nics: Sequence[Nic]) -> list[str]:
    if not nics:
        return ["Network interfaces: none"]
    head = ("", "MAC", "link", "driver", "at", "addresses", "")
    return [
        _count(nics, "Network interface"),
        *_table([head, *map(_nic_row, nics)], _INDENT),
    ]


def _nic_row(nic: Nic) -> tuple[str, ...]:
    link = "down"
    if nic.link:
        link = f"{nic.speed_mbps} Mb/s" if nic.speed_mbps else "up"
    remarks = ["booted from here"] if nic.boot else []
    if nic.lldp:
        remarks.append(f"switch {nic.lldp.system or nic.lldp.chassis}, port {nic.lldp.port}")
    addresses = " ".join(nic.addresses) or "-"
    return (
        nic.name,
        nic.mac,
        link,
        nic.driver or "-",
        nic.address or "-",
        addresses,
        ", ".join(remarks),
    )


def _warnings(inventory: Inventory) -> list[str]:
    found = list(find_warnings(inventory))
    return ["Warnings", *(f"{_INDENT}! {text}" for text in found)] if found else []


def find_warnings(inventory: Inventory) -> Iterator[str]:
    """Yield what a person should know before a disk of this machine is written."""
    drives = inventory.disks
    if not drives:
        yield "no disk was found: is its controller's driver in the image?"
    for drive in drives:
        if any(found.what == "unreadable" for found in drive.contents):
            yield f"{drive.path} could not be read: what is on it is unknown"
        tables = {f.what for f in drive.contents if f.path == drive.path and f.usage == "table"}
        others = [f.what for f in drive.contents if f.path == drive.path and f.usage != "table"]
        if tables and others:
            mixed = ", ".join(dict.fromkeys(others))
            yield f"{drive.path} has a partition table and also {mixed}: one of them is a leftover"
    for name in ("wwn", "serial"):
        values = [getattr(drive, name) for drive in drives if getattr(drive, name)]
        for value in dict.fromkeys(v for v in values if values.count(v) > 1):
            paths = ", ".join(drive.path for drive in drives if getattr(drive, name) == value)
            yield f"{paths} have one {name}, {value}: multipath, or clones"
    for array in inventory.md_arrays:
        if "degraded" in array.state or array.state.startswith("inactive"):
            yield f"{array.path} is {array.state}"
    volumes = any(drive.transport is Transport.RAID for drive in drives)
    for controller in inventory.raid_controllers:
        if controller.driver is None:
            yield f"no driver runs the RAID controller at {controller.address}"
        elif not volumes and controller.driver not in ("ahci", "vmd"):
            yield f"the RAID controller at {controller.address} shows no volume"
    if inventory.nics and not any(nic.link for nic in inventory.nics):
        yield "no network interface has a link"


def _count(things: Sequence[object], word: str) -> str:
    return f"{len(things)} {word.lower()}{'' if len(things) == 1 else 's'}".capitalize()


def _table(rows: Sequence[Sequence[str]], indent: str) -> list[str]:
    """Return `rows` as lines with aligned columns; a column without a word takes no room."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))] if rows else []
    kept = [n for n, width in enumerate(widths) if width]
    return [indent + "  ".join(row[n].ljust(widths[n]) for n in kept).rstrip() for row in rows]
