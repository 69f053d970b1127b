"""Paths chosen by patterns: `*` in a folder, `**` across folders, `{a,b}`, `[0-9]`, `!` removes."""

import re
from collections.abc import Iterable

_SPECIAL = re.compile(r"\*\*/?|\*|\?|\[[^\]]+\]|[{},]")


def translate(pattern: str) -> str:
    """Return `pattern` as the text of a regular expression for a whole path."""
    out: list[str] = []
    depth = position = 0
    for found in _SPECIAL.finditer(pattern):
        out.append(re.escape(pattern[position : found.start()]))
        position = found.end()
        match found.group():
            case "**/":
                out.append("(?:.*/)?")
            case "**":
                out.append(".*")
            case "*":
                out.append("[^/]*")
            case "?":
                out.append("[^/]")
            case "{":
                depth += 1
                out.append("(?:")
            case "}":
                depth -= 1
                out.append(")")
            case ",":
                out.append("|" if depth else ",")
            case found_set:
                out.append(found_set)
    if depth:
        raise ValueError(f"braces do not match in {pattern!r}")
    out.append(re.escape(pattern[position:]))
    return "".join(out)


def is_exact(pattern: str) -> bool:
    """Whether `pattern` can only name one path: such a path is expected to be there."""
    return not set(pattern) & set("*?[{")


class Chosen:
    """The paths that some pattern names and no `!pattern` takes away, in any order."""

    def __init__(self, patterns: Iterable[str]) -> None:
        wanted: list[str] = []
        unwanted: list[str] = []
        for pattern in patterns:
            (unwanted if pattern.startswith("!") else wanted).append(pattern.removeprefix("!"))
        self.wanted = tuple(wanted)
        self._wanted = _union(wanted)
        self._unwanted = _union(unwanted)

    def __contains__(self, path: str) -> bool:
        return bool(self._wanted.fullmatch(path)) and not self._unwanted.fullmatch(path)


def _union(patterns: list[str]) -> re.Pattern[str]:
    # No pattern at all must match nothing, not the empty path.
    return re.compile("|".join(f"(?:{translate(p)})" for p in patterns) or "(?!)")
