"""fstab(5) for another layout: the lines of what moved change, all others stay. Pure."""

import re
from dataclasses import dataclass
from typing import Final

from agent.identity.boot.mount_options import family, kept_options
from agent.identity.boot.names import (
    best_spec,
    may_be_missing,
    means,
)
from agent.model.filesystems import fstab_type
from agent.model.layout import Layout, Swap, Volume

_GONE: Final = "# not on this disk: "
_LINE: Final = re.compile(r"^(\s*)(\S+)(\s+)(\S+)(\s+)(\S+)(?:(\s+)(\S+))?(.*)$")


@dataclass(frozen=True, slots=True)
class Changes:
    """What fstab is to follow: a layout that was, a layout that is."""

    old: Layout
    new: Layout


def rewrite_fstab(text: str, changes: Changes) -> str:
    """Return `text` with the device, type and options of what moved; comments and order stay.

    What the new layout has and no line mounts gets a line at the end; a line whose volume is not
    there any more becomes a comment.
    """
    wanted = {point: (volume, sub) for volume, point, sub in _mounted(changes.new)}
    before = {point for _volume, point, _sub in _mounted(changes.old)}
    swaps = [one for one in changes.new.volumes if isinstance(one.content, Swap)]
    seen: set[str] = set()
    lines = []
    for line in text.splitlines():
        found = _LINE.match(line)
        if line.lstrip().startswith("#") or not found:
            lines.append(line)
            continue
        point, kind = _unescaped(found[4]), found[6]
        if kind == "swap" and not _is_file(found[2]):
            kept = _which_swap(found[2], swaps, changes)
            lines.append(_rewritten(found, kept, None, changes.new) if kept else _GONE + line)
            swaps = [swap for swap in swaps if swap is not kept]
        elif point in wanted and "bind" not in (found[8] or "").split(","):
            volume, sub = wanted[point]
            seen.add(point)
            lines.append(_rewritten(found, volume, sub, changes.new))
        else:
            lines.append(_GONE + line if point in before else line)
    for point in sorted(set(wanted) - seen):
        lines.append(_fresh(point, *wanted[point], changes.new))
    for swap in swaps:
        options = "sw,nofail" if may_be_missing(changes.new, swap) else "sw"
        lines.append(f"{best_spec(changes.new, swap)} none swap {options} 0 0")
    return "\n".join(lines) + "\n" if lines else ""


def _mounted(layout: Layout) -> list[tuple[Volume, str, str | None]]:
    return [
        (volume, point, sub)
        for volume in layout.volumes
        if fstab_type(volume.content) is not None
        for point, sub in volume.mounts
    ]


def _which_swap(spec: str, swaps: list[Volume], changes: Changes) -> Volume | None:
    """Return the swap that a line means, else the first that no line before it took."""
    same = [swap for swap in swaps if means(spec, changes.new, swap)]
    return next(iter([*same, *swaps]), None)


def _is_file(spec: str) -> bool:
    return spec.startswith("/") and not spec.startswith("/dev/")


def _rewritten(found: re.Match[str], volume: Volume, sub: str | None, layout: Layout) -> str:
    kind = fstab_type(volume.content) or found[6]
    stays = means(found[2], layout, volume)
    device = found[2] if stays else best_spec(layout, volume)
    same_kind = family(kind) == family(found[6]) or found[6] == "auto"
    options = kept_options(found[8] or "", found[6], kind, moved=not stays)
    if kind == "btrfs":
        names = [word.partition("=")[2].lstrip("/") for word in options if word[:7] == "subvol="]
        if names != ([sub.lstrip("/")] if sub else []):
            options = [w for w in options if w.partition("=")[0] not in ("subvol", "subvolid")]
            options += [f"subvol={sub}"] if sub else []
        elif not stays:
            options = [word for word in options if word.partition("=")[0] != "subvolid"]
    if may_be_missing(layout, volume) and "nofail" not in options:
        options = [*options, "nofail"]
    rest = found[9] or ""
    if not same_kind:
        rest = _checked_at_boot(rest, found[4], kind)
    words = ",".join(options) or ("sw" if kind == "swap" else "defaults")
    kept = found[6] if same_kind and _fits(found[6], kind) else kind
    return f"{found[1]}{device}{found[3]}{found[4]}{found[5]}{kept}{found[7] or ' '}{words}{rest}"


def _fits(old: str, new: str) -> bool:
    """Return whether the type that the line names mounts what is there now."""
    return old in ("auto", new) or (old, new) in (("ext4", "ext3"), ("ext4", "ext2"))


def _checked_at_boot(rest: str, point: str, kind: str) -> str:
    """Return the last two fields: only fsck of ext and vfat has something to do at boot."""
    number = "0" if kind in ("xfs", "btrfs", "swap") else "1" if point == "/" else "2"
    return re.sub(r"^(\s+\S+\s+)\S+", rf"\g<1>{number}", rest)


def _fresh(point: str, volume: Volume, sub: str | None, layout: Layout) -> str:
    kind = fstab_type(volume.content) or "auto"
    options = "umask=0077" if kind == "vfat" else f"subvol={sub}" if sub else "defaults"
    options += ",nofail" if may_be_missing(layout, volume) else ""
    number = "0" if kind in ("xfs", "btrfs") else "1" if point == "/" else "2"
    escaped = re.sub(r"[\s\\]", lambda sign: f"\\{ord(sign[0]):03o}", point)
    return f"{best_spec(layout, volume)} {escaped} {kind} {options} 0 {number}"


def _unescaped(point: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point)
