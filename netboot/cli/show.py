"""Printing for people: tables, sizes, and text of strangers made harmless."""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from agent.model.event import Failure
from agent.model.wire import pretty
from agent.units import format_bytes


def clean(text: object) -> str:
    """Return `text` on one line, without anything that a terminal would obey."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in str(text))


def clean_page(text: str) -> str:
    """Like `clean`, for text of several lines."""
    return "\n".join(clean(line.expandtabs()) for line in text.split("\n"))


def say(text: str = "") -> None:
    """Write text that is clean already."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def lost_line(lost_bytes: int) -> str:
    """Return what is to be known of a template whose source could not be read whole."""
    return f"{format_bytes(lost_bytes)} could not be read on the source and are zeros"


def say_json(value: Any) -> None:
    """Write a value as JSON, which escapes control characters by itself."""
    say(pretty(value))


def say_table(head: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Write a table with the columns as wide as needed; `empty` says that there are no rows."""
    cells = [tuple(head), *(tuple(clean("–" if c is None else c) for c in row) for row in rows)]
    if len(cells) == 1:
        say(empty)
        return
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        say(line.rstrip())


def say_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Write `name  value` lines; facts that are None are left out."""
    shown = [(name, clean(value)) for name, value in facts if value is not None]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        say(f"{name.ljust(width)}  {value}")


def failure_lines(failure: Failure) -> tuple[str, ...]:
    """Return a failure as an operator reads it: what, why, the disk, the next step."""
    lines = [f"error: {clean(failure.summary)}"]
    lines += [f"  because  {clean(reason)}" for reason in failure.because]
    lines.append(f"  disk     {clean(failure.disk)}")
    if failure.hint:
        lines.append(f"  try      {clean(failure.hint)}")
    return tuple(lines)


def format_age(at: str | None, now: datetime | None = None) -> str | None:
    """Return how long ago a time of ours was: `12 s`, `5 min`, `3 h`, `2 d`."""
    if at is None:
        return None
    try:
        then = datetime.fromisoformat(at)
        seconds = max(0, int(((now or datetime.now(UTC)) - then).total_seconds()))
    except (ValueError, TypeError):  # no time, or one without its zone
        return clean(at)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def format_seconds(seconds: int) -> str:
    """Return a duration: `42 s`, `3:05`, `1:02:03`."""
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
