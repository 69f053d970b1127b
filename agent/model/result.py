"""The result of a job in one line, for those who watched it."""

from collections.abc import Mapping
from typing import Any

from agent.units import format_bytes

_AMOUNTS = (
    ("used_bytes", "used"),
    ("stored_bytes", "stored"),
    ("uploaded_bytes", "uploaded"),
    ("fetched_bytes", "fetched"),
    ("kept_bytes", "there already"),
    ("lost_bytes", "unreadable"),
)


def result_line(result: Mapping[str, Any]) -> str | None:
    """Return `1.9 GiB used, 0.5 GiB stored, 40 s; slowest: compress`, of what there is."""
    words = [
        f"{format_bytes(amount)} {text}"
        for key, text in _AMOUNTS
        if isinstance(amount := result.get(key), int) and amount
    ]
    if isinstance(seconds := result.get("seconds"), int | float):
        words.append(f"{seconds:.0f} s")
    if not words:
        return None
    slowest = result.get("bottleneck")
    return ", ".join(words) + (f"; slowest: {slowest}" if isinstance(slowest, str) else "")
