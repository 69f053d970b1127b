"""A plan as a page for a person: shown before the first write. Pure text, 100 columns."""

from collections.abc import Iterable, Iterator, Sequence

from agent.model.found import CapturePlan
from agent.model.inventory import Found
from agent.model.layout import (
    BootCode,
    Btrfs,
    BtrfsDevice,
    Content,
    Exfat,
    Ext,
    F2fs,
    MbrGap,
    Ntfs,
    Raw,
    Swap,
    Vfat,
    Xfs,
)
from agent.model.nodes import (
    BIOS_BOOT_TYPE,
    ESP_TYPE,
    LINUX_TYPE,
    LUKS_TYPE,
    LVM_TYPE,
    MD_TYPE,
    SWAP_TYPE,
    Array,
    LogicalVolume,
    Luks,
    Node,
    Partition,
    VolumeGroup,
)
from agent.model.plan import Plan, PlannedDisk, Target
from agent.model.steps import GrowVolume, MakeSwap
from agent.planning.stack import name_of
from agent.units import format_bytes

_TYPES = {
    ESP_TYPE: "EFI system",
    BIOS_BOOT_TYPE: "BIOS boot",
    LINUX_TYPE: "Linux",
    SWAP_TYPE: "Linux swap",
    MD_TYPE: "Linux RAID",
    LVM_TYPE: "Linux LVM",
    LUKS_TYPE: "Linux LUKS",
    "83": "Linux",
    "82": "Linux swap",
    "8e": "Linux LVM",
    "fd": "Linux RAID",
    "5": "extended",
    "f": "extended",
    "ef": "EFI system",
}


def render_plan(plan: Plan) -> str:
    """Return the page of a deployment: the disks, what they lose, what they get, each step."""
    lines = [f"Deploy {plan.template} ({plan.firmware})", ""]
    one = len(plan.disks) == 1
    for disk in plan.disks:
        lines += _disk("Target disk" if one else f"Target disk {disk.id}", disk.target)
        lines += ["", "On it now, and destroyed:"]
        lines += [f"  {line}" for line in _contents(disk.target.contents)] or ["  nothing known"]
        lines += [""]
    if plan.consented:
        lines += [*(f"With consent: {what}" for what in plan.consented), ""]
    for disk in plan.disks:
        lines += _afterwards(plan, disk, "" if one else f" on {disk.id}")
    lines += _above(plan)
    lines += ["", "Steps (until the last one is done nothing here boots):"]
    lines += [
        f"  {number:2}. {step.summary()}{'' if step.destructive else '  (disk unchanged)'}"
        for number, step in enumerate(plan.steps, start=1)
    ]
    if plan.notes:
        lines += ["", "Notes:", *(f"  - {note}" for note in plan.notes)]
    lines += ["", f"Plan {plan.digest}"]
    return "\n".join(_shown(lines)) + "\n"


def _afterwards(plan: Plan, disk: PlannedDisk, where: str) -> Iterator[str]:
    if disk.table is None:
        yield f"No table{where} afterwards: it holds {_holds(plan, disk.id)}"
        return
    yield from _partitions(plan, disk.id, where)
    parts = plan.layout.partitions(disk.id)
    rest = disk.target.size_bytes - max((part.extent.end for part in parts), default=0)
    if rest >= 4 * 1024 * 1024:
        yield f"  {format_bytes(rest)} at the end of the disk stay free"


def _partitions(plan: Plan, node_id: str, where: str) -> Iterator[str]:
    yield f"Partitions{where} afterwards:"
    yield from _table(
        ("no", "start", "size", "type", "holds"),
        [
            (
                str(part.number),
                format_bytes(part.offset_bytes),
                format_bytes(part.size_bytes),
                _TYPES.get(part.type, part.type),
                "logical partitions" if part.is_extended else _holds(plan, part.id),
            )
            for part in plan.layout.partitions(node_id)
        ],
    )


def _above(plan: Plan) -> Iterator[str]:
    rows = []
    for node in plan.layout.nodes:
        match node:
            case Array():
                kind = f"{node.words} of {', '.join(one or 'missing' for one in node.members)}"
            case Luks():
                kind = f"LUKS{node.version} on {node.on}"
            case VolumeGroup():
                kind = f"volume group {node.name} on {', '.join(node.below)}"
            case LogicalVolume():
                kind = f"logical volume {node.name}, {node.lv}, in {node.on}"
            case _:
                continue
        size = "" if isinstance(node, VolumeGroup) else format_bytes(node.size_bytes)
        tabled = isinstance(node, Array) and node.table is not None
        rows.append((node.id, size, kind, "a table" if tabled else _holds(plan, node.id)))
    if rows:
        yield ""
        yield "Arrays, encryption and volumes afterwards:"
        yield from _table(("node", "size", "what", "holds"), rows)
    for array in plan.layout.tabled_arrays:
        yield ""
        yield from _partitions(plan, array.id, f" on {array.id}")


def render_capture(plan: CapturePlan) -> str:
    """Return the page of a capture: the disk, what is read and how, what is left out."""
    boots = " and ".join(plan.boots)
    lines = [f"Capture as {plan.name} (started by {plan.firmware}, boots on {boots})", ""]
    for source in plan.sources:
        lines += _disk("Source disk, only read", source)
    if plan.os:
        system = plan.os
        stack = system.network_stack or "unknown"
        lines += [f"  system    {system.pretty_name}, kernel {system.kernel or 'unknown'}"]
        lines += [f"  network   {stack}"]
    rows = []
    for read in plan.volumes:
        volume = plan.layout.volume(read.volume)
        node = plan.layout.node(volume.on)
        whole = isinstance(volume.content, BootCode | MbrGap)
        rows.append(
            (
                "-" if whole else node.id,
                volume.id,
                format_bytes(volume.size_bytes),
                format_bytes(volume.used_bytes),
                format_bytes(volume.minimum_bytes),
                _kind(plan, node, whole=whole),
                read.method if whole else f"{_content(volume.content)}, {read.method}",
            )
        )
    lines += ["", "Volumes:"]
    lines += _table(("on", "volume", "size", "used", "least", "type", "how"), rows)
    lines += ["", "Left out, because they belong to this machine only:"]
    lines += [f"  {gone.path} ({gone.bytes} bytes)" for gone in plan.redactions] or ["  nothing"]
    if plan.notes:
        lines += ["", "Notes:", *(f"  - {note}" for note in plan.notes)]
    lines += ["", f"Plan {plan.digest}"]
    return "\n".join(_shown(lines)) + "\n"


def _disk(title: str, disk: Target) -> Iterator[str]:
    yield f"{title}:"
    yield f"  path      {disk.path} (today)"
    if disk.paths:
        yield f"  paths     {', '.join(disk.paths)} (all lead to this one disk)"
    for name, value in (("model", disk.model), ("serial", disk.serial), ("wwn", disk.wwn)):
        if value:
            yield f"  {name:<9} {value}"
    size = f"{format_bytes(disk.size_bytes)} ({disk.size_bytes} bytes)"
    yield f"  size      {size}, sectors of {disk.sector_bytes} bytes"


def _contents(contents: Iterable[Found]) -> Iterator[str]:
    for found in contents:
        name = f" {found.label!r}" if found.label else ""
        uuid = f" {found.uuid}" if found.uuid else ""
        yield f"{found.path}: {found.what}{name}{uuid}"


def _holds(plan: Plan, node_id: str) -> str:
    words = [
        f"{name_of(volume)}, {format_bytes(volume.used_bytes)} of data"
        for volume in plan.layout.volumes
        if volume.on == node_id and not isinstance(volume.content, Swap | BootCode | MbrGap)
    ]
    for step in plan.steps:
        match step:
            case MakeSwap() if step.node == node_id:
                words.append("swap, made anew")
            case GrowVolume() if step.node == node_id and step.to_bytes > step.from_bytes:
                words.append(f"grown from {format_bytes(step.from_bytes)}")
            case _:
                pass
    words += [f"part of {node.id}" for node in plan.layout.above(node_id) if _is_made_of(node)]
    return ", ".join(words) or "nothing"


def _is_made_of(node: Node) -> bool:
    return isinstance(node, Array | Luks | VolumeGroup)


def _kind(plan: CapturePlan, node: Node, *, whole: bool) -> str:
    if whole:
        return "first sectors"
    match node:
        case Partition():
            return _TYPES.get(node.type, node.type)
        case Array():
            return node.level
        case Luks():
            return "LUKS"
        case LogicalVolume(name=name, on=on):
            group = plan.layout.node(on)
            return f"{group.name if isinstance(group, VolumeGroup) else on}/{name}"
        case _:
            return "whole disk"


_CONTENTS = {
    Ext: "ext",
    Xfs: "XFS",
    Btrfs: "btrfs",
    BtrfsDevice: "btrfs, a further device",
    F2fs: "F2FS",
    Ntfs: "NTFS",
    Exfat: "exFAT",
    Vfat: "FAT",
    Swap: "swap",
    Raw: "unknown",
    BootCode: "boot code",
    MbrGap: "boot code behind the MBR",
}


def _content(content: Content) -> str:
    return _CONTENTS[type(content)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield lines of left-aligned columns, two blanks apart."""
    widths = [max(len(row[n]) for row in [head, *rows]) for n in range(len(head))]
    for row in [head, *rows]:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield ("  " + "  ".join(cells)).rstrip()


def _shown(lines: Iterable[str]) -> Iterator[str]:
    """Yield `lines` without signs that would steer a terminal: labels come from disks."""
    for line in lines:
        yield "".join(sign if sign.isprintable() else "?" for sign in line)
