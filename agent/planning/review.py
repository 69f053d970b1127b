"""A plan as a page for a person: shown before the first write. Pure text, 100 columns."""

from collections.abc import Iterable, Iterator, Sequence

from agent.model.inventory import Found
from agent.model.layout import (
    BootCode,
    Ext,
    Raw,
    Swap,
    Vfat,
    Xfs,
)
from agent.model.nodes import (
    BIOS_BOOT_TYPE,
    ESP_TYPE,
    LINUX_TYPE,
    SWAP_TYPE,
    Partition,
)
from agent.model.plan import CapturePlan, GrowVolume, MakeSwap, Plan, RestoreVolume, Target
from agent.units import format_bytes

_TYPES = {
    ESP_TYPE: "EFI system",
    BIOS_BOOT_TYPE: "BIOS boot",
    LINUX_TYPE: "Linux",
    SWAP_TYPE: "Linux swap",
}


def render_plan(plan: Plan) -> str:
    """Return the page of a deployment: the disk, what it loses, what it gets, each step."""
    lines = [f"Deploy {plan.template} ({plan.firmware})", ""]
    lines += _disk("Target disk", plan.target)
    lines += ["", "On it now, and destroyed:"]
    lines += [f"  {line}" for line in _contents(plan.target.contents)] or ["  nothing known"]
    lines += [f"  with consent: {what}" for what in plan.consented]
    lines += ["", "Partitions afterwards:"]
    lines += _table(
        ("no", "start", "size", "type", "holds"),
        [
            (
                str(part.number),
                format_bytes(part.offset_bytes),
                format_bytes(part.size_bytes),
                _TYPES.get(part.type, part.type),
                _holds(plan, part.number, part.offset_bytes),
            )
            for part in sorted(plan.table.partitions, key=lambda part: part.offset_bytes)
        ],
    )
    lines += _free(plan)
    lines += ["", "Steps (until the last one is done the disk does not boot):"]
    lines += [
        f"  {number:2}. {step.summary()}{'' if step.destructive else '  (disk unchanged)'}"
        for number, step in enumerate(plan.steps, start=1)
    ]
    if plan.notes:
        lines += ["", "Notes:", *(f"  - {note}" for note in plan.notes)]
    lines += ["", f"Plan {plan.digest}"]
    return "\n".join(_shown(lines)) + "\n"


def render_capture(plan: CapturePlan) -> str:
    """Return the page of a capture: the disk, what is read and how, what is left out."""
    boots = " and ".join(plan.boots)
    lines = [f"Capture as {plan.name} (started by {plan.firmware}, boots on {boots})", ""]
    lines += _disk("Source disk, only read", plan.source)
    if plan.os:
        system = plan.os
        stack = system.network_stack or "unknown"
        lines += [f"  system    {system.pretty_name}, kernel {system.kernel or 'unknown'}"]
        lines += [f"  network   {stack}"]
    rows = []
    for read in plan.volumes:
        volume = plan.layout.volume(read.volume)
        node = plan.layout.node(volume.on)
        kind = _TYPES.get(node.type, node.type) if isinstance(node, Partition) else "first sector"
        rows.append(
            (
                str(read.number or "-"),
                volume.id,
                format_bytes(volume.size_bytes),
                format_bytes(volume.used_bytes),
                format_bytes(volume.minimum_bytes),
                kind,
                f"{_content(volume.content)}, {read.method}" if read.number else read.method,
            )
        )
    lines += ["", "Volumes:"]
    lines += _table(("no", "volume", "size", "used", "least", "type", "how"), rows)
    lines += ["", "Left out, because they belong to this machine only:"]
    lines += [f"  {gone.path} ({gone.bytes} bytes)" for gone in plan.redactions] or ["  nothing"]
    if plan.notes:
        lines += ["", "Notes:", *(f"  - {note}" for note in plan.notes)]
    lines += ["", f"Plan {plan.digest}"]
    return "\n".join(_shown(lines)) + "\n"


def _disk(title: str, disk: Target) -> Iterator[str]:
    yield f"{title}:"
    yield f"  path      {disk.path} (today)"
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


def _holds(plan: Plan, number: int, offset: int) -> str:
    words = []
    for step in plan.steps:
        match step:
            case RestoreVolume() if step.offset_bytes == offset:
                words.append(f"{step.what}, {format_bytes(step.used_bytes)} of data")
            case MakeSwap() if step.number == number:
                words.append("swap, made anew")
            case GrowVolume() if step.number == number:
                words.append(f"grown from {format_bytes(step.from_bytes)}")
            case _:
                pass
    return ", ".join(words) or "nothing"


def _free(plan: Plan) -> Iterator[str]:
    last = max((part.extent.end for part in plan.table.partitions), default=0)
    rest = plan.target.size_bytes - last
    if rest >= 4 * 1024 * 1024:
        yield f"  {format_bytes(rest)} at the end of the disk stay free"


def _content(content: object) -> str:
    match content:
        case Ext():
            return "ext"
        case Xfs():
            return "XFS"
        case Vfat():
            return "FAT"
        case Swap():
            return "swap"
        case BootCode():
            return "boot code"
        case Raw():
            return "unknown"
        case _:
            return "?"


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
