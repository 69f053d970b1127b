"""A layout as a picture of text: a bar for each disk, and what stands on it. Pure, 100 columns."""

from collections.abc import Iterator
from typing import Final

from agent.model.layout import BootCode, BtrfsDevice, Layout, MbrGap, Volume
from agent.model.nodes import (
    Array,
    Disk,
    LogicalVolume,
    Luks,
    Node,
    Partition,
    VolumeGroup,
)
from agent.planning.thin import promised_bytes
from agent.units import format_bytes

_WIDTH: Final = 72
_LEAST: Final = 3
"""Signs that even the smallest partition gets, its border included."""


def draw_layout(layout: Layout) -> str:
    """Return a bar for each disk, drawn to scale as far as signs allow, and a tree below it."""
    lines: list[str] = []
    for disk in layout.disks:
        sector = f", sectors of {disk.sector_bytes}" if disk.sector_bytes != 512 else ""
        lines += ["", f"{disk.id}  {format_bytes(disk.size_bytes)}{sector}"]
        lines += _bar(layout, disk)
        lines += _below(layout, disk, "")
    return "\n".join(lines[1:]) + "\n"


def _bar(layout: Layout, disk: Disk) -> Iterator[str]:
    parts = [part for part in layout.partitions(disk.id) if not part.is_extended]
    if not parts:
        yield f"[{_short(layout, disk.id)[: _WIDTH - 2]:^{_WIDTH - 2}}]"
        return
    at = 0
    cells: list[tuple[int, str]] = []
    for part in parts:
        if part.offset_bytes - at > disk.size_bytes // 50:
            cells.append((part.offset_bytes - at, "free"))
        cells.append((part.size_bytes, _short(layout, part.id) or str(part.number)))
        at = part.extent.end
    if disk.size_bytes - at > disk.size_bytes // 50:
        cells.append((disk.size_bytes - at, "free"))
    spare = _WIDTH - 1 - _LEAST * len(cells)
    total = sum(size for size, _ in cells)
    bar = "["
    for size, text in cells:
        width = _LEAST - 1 + max(0, spare) * size // total
        bar += f"{text[:width]:^{width}}|"
    yield bar[:-1] + "]"


def _below(layout: Layout, node: Node, indent: str) -> Iterator[str]:
    """Yield what stands on `node`, each line with what stands on that below it."""
    children: list[Node | Volume] = [*layout.above(node.id)]
    if isinstance(node, Disk | Array):
        children = [*layout.partitions(node.id), *(one for one in children if not _is_part(one))]
    children += [v for v in layout.volumes if v.on == node.id and _is_shown(v)]
    for number, child in enumerate(children):
        last = number == len(children) - 1
        yield f"{indent}{'└─' if last else '├─'} {_line(layout, child)}"
        if not isinstance(child, Volume) and child.below[0] == node.id:
            # what stands on several things is drawn on the first alone
            yield from _below(layout, child, indent + ("   " if last else "│  "))


def _is_part(node: Node | Volume) -> bool:
    return isinstance(node, Partition)


def _is_shown(volume: Volume) -> bool:
    return not isinstance(volume.content, BootCode | MbrGap)


def _line(layout: Layout, child: Node | Volume) -> str:
    match child:
        case Volume():
            kind = _kind(child)
            where = ", ".join(child.mount_points)
            used = f", {format_bytes(child.used_bytes)} used" if child.used_bytes else ""
            return f"{kind} {where}".rstrip() + used
        case Partition():
            kind = ", extended" if child.is_extended else ""
            return f"{child.number}  {format_bytes(child.size_bytes)}{kind}"
        case Array():
            count = len(child.members)
            return f"{child.words} {child.id} of {count}, {format_bytes(child.size_bytes)}"
        case Luks():
            return f"LUKS{child.version} {child.id}, {format_bytes(child.size_bytes)}"
        case VolumeGroup():
            return f"volume group {child.name} of {len(child.physical)}"
        case LogicalVolume():
            promised = promised_bytes(layout, child)
            more = f", {format_bytes(promised)} promised" if promised > child.size_bytes else ""
            return f"{child.name}  {child.lv}, {format_bytes(child.size_bytes)}{more}"
        case Disk():
            return child.id


def _kind(volume: Volume) -> str:
    if isinstance(volume.content, BtrfsDevice):
        return "more of a btrfs"
    return type(volume.content).__name__.lower()


def _short(layout: Layout, node_id: str) -> str:
    """Return a word or two for what ends up on a node: `/`, `swap`, `md0`."""
    for volume in layout.volumes:
        if volume.on == node_id and _is_shown(volume):
            places = volume.mount_points
            return places[0] if places else _kind(volume)
    above = [node for node in layout.above(node_id) if not isinstance(node, Partition)]
    return above[0].id if above else ""
