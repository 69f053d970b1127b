"""Which disk is meant: every hint must match, and exactly one disk must be left. Pure.

The first disk is never taken for the right one: with several that match, or none, a table of
all of them says why each was passed over and which argument would choose it.
"""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from agent.errors import PlanRefused
from agent.model.inventory import Drive, Transport
from agent.model.job import DiskHints
from agent.planning.hint_words import is_exact, size_test, text_test
from agent.units import format_bytes

_CHOOSING: Final = ("wwn", "serial", "by_path", "hctl", "name")
"""The hints that may single out one disk, the most lasting first."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One disk, and why it is not the one; no reason means that it matches."""

    drive: Drive
    reasons: tuple[str, ...]


def pick_disk(hints: DiskHints, drives: Sequence[Drive]) -> Drive:
    """Return the one drive that `hints` mean.

    USB drives, virtual media, removable and read-only drives are passed over unless serial, wwn
    or by_path names them. Raises PlanRefused, with every drive in a table, unless exactly one
    matches; UsageError if the size hint cannot be read.
    """
    verdicts = judge(hints, drives)
    matching = [verdict.drive for verdict in verdicts if not verdict.reasons]
    if len(matching) == 1:
        return matching[0]
    asked = describe_hints(hints)
    if not drives:
        headline = "this machine shows no disk at all; is the controller's driver in the image?"
    elif not matching:
        headline = f"none of {len(drives)} disks is the one meant ({asked})"
    else:
        names = ", ".join(drive.path for drive in matching)
        headline = f"{len(matching)} disks match ({asked}), one is wanted: {names}"
    rows = render_candidates(verdicts)
    choices = [choosing_hint(drive, drives) for drive in drives]
    hint = None
    if choices:
        spelled = " or ".join(kernel_argument(*choice) for choice in choices[:4])
        hint = f"name the disk: {spelled}"
    raise PlanRefused((headline, *rows), hint=hint)


def judge(hints: DiskHints, drives: Sequence[Drive]) -> tuple[Verdict, ...]:
    """Return of each drive whether `hints` mean it. Raises UsageError for an unreadable hint."""
    return tuple(Verdict(drive, tuple(_reasons(hints, drive))) for drive in drives)


def describe_hints(hints: DiskHints) -> str:
    """Return the hints that were given, as a person wrote them."""
    given = [f"{name}={value}" for name, value in _given(hints)]
    return ", ".join(given) or "no hint given, fixed disks only"


def choosing_hint(drive: Drive, drives: Sequence[Drive]) -> tuple[str, str]:
    """Return the most lasting hint, name and value, that means `drive` and no other of `drives`."""
    for name in _CHOOSING:
        value = _value(drive, name)
        if value and sum(_value(other, name) == value for other in drives) == 1:
            return name, value
    return "name", drive.path


def kernel_argument(name: str, value: str) -> str:
    """Return a hint as it is written on a kernel command line."""
    text = f"metalcast.disk.{name}={value}"
    return f'"{text}"' if " " in value else text


def command_argument(name: str, value: str, role: str | None = None) -> str:
    """Return a hint for a shell to `agent`, or with a `role` also to `metalcast job`."""
    if role:
        return f"--disk {shlex.quote(f'{role}:{name}={value}')}"
    return f"--disk-{name.replace('_', '-')} {shlex.quote(value)}"


def render_candidates(verdicts: Sequence[Verdict], role: str | None = None) -> tuple[str, ...]:
    """Return a line for each drive, columns aligned: what it is, and why it was passed over."""
    drives = [verdict.drive for verdict in verdicts]
    table = [
        (
            drive.path,
            format_bytes(drive.size_bytes),
            drive.transport.value,
            drive.model or "-",
            command_argument(*choosing_hint(drive, drives), role),
            summarize_contents(drive),
            "; ".join(verdict.reasons) or "matches",
        )
        for verdict, drive in zip(verdicts, drives, strict=True)
    ]
    widths = [max((len(row[n]) for row in table), default=0) for n in range(6)]
    return tuple(
        "  ".join([*(cell.ljust(w) for cell, w in zip(row[:6], widths, strict=True)), row[6]])
        for row in table
    )


def summarize_contents(drive: Drive) -> str:
    """Return in a few words what is on the drive: `gpt: vfat, ext4, swap`."""
    tables = [found.what for found in drive.contents if found.usage == "table"]
    others = [found.what for found in drive.contents if found.usage != "table"]
    named = ", ".join(dict.fromkeys(others))
    if tables:
        return "+".join(dict.fromkeys(tables)) + (f": {named}" if named else "")
    return named or "empty"


def _reasons(hints: DiskHints, drive: Drive) -> Iterator[str]:
    if not any(is_exact(hint) for hint in (hints.serial, hints.wwn, hints.by_path)):
        yield from _by_default(drive)
    for name, wanted in _given(hints):
        if not _matches(name, wanted, drive):
            shown = _value(drive, name) or "none"
            yield f"{name} is {shown}"


def _by_default(drive: Drive) -> Iterator[str]:
    if drive.virtual_media:
        yield "is virtual media of the management controller"
    elif drive.transport is Transport.USB:
        yield "is a USB drive"
    elif drive.removable:
        yield "is removable"
    if drive.read_only:
        yield "is read-only"


def _given(hints: DiskHints) -> Iterator[tuple[str, str | bool]]:
    for name in hints.__struct_fields__:
        value = getattr(hints, name)
        if value is not None:
            yield name, value


def _value(drive: Drive, name: str) -> str | None:
    """Return the drive's own value of the hint `name`, for people."""
    if name == "size":
        return format_bytes(drive.size_bytes)
    if name == "name":
        return drive.path
    if name == "rotational":
        return "yes" if drive.rotational else "no"
    value = getattr(drive, name)
    return str(value) if value else None


def _matches(name: str, wanted: str | bool, drive: Drive) -> bool:
    if isinstance(wanted, bool):
        return drive.rotational is wanted
    if name == "size":
        return size_test(wanted)(drive.size_bytes)
    if name == "name":
        return any(map(text_test(name, wanted), drive.paths or (drive.path,)))
    has = _value(drive, name)
    return has is not None and text_test(name, wanted)(has)
