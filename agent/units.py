"""What a length is: bytes, always. Any other number carries its unit in its name."""

import re
from dataclasses import dataclass
from typing import Final

KiB: Final = 1024
MiB: Final = 1024 * KiB
GiB: Final = 1024 * MiB
TiB: Final = 1024 * GiB

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|TiB|KB|MB|GB|TB)?")
_FACTORS: Final = {
    "B": 1,
    "KiB": KiB,
    "MiB": MiB,
    "GiB": GiB,
    "TiB": TiB,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    """A run of bytes on one device: from `offset` up to, not including, `end`."""

    offset: int
    size: int

    def __post_init__(self) -> None:
        if self.offset < 0 or self.size <= 0:
            raise ValueError(f"not a run of bytes: {self}")

    @property
    def end(self) -> int:
        return self.offset + self.size


def format_bytes(size_bytes: int) -> str:
    """Return `size_bytes` for a person, in the largest unit that is not above it: `6.0 GiB`."""
    for name in ("TiB", "GiB", "MiB", "KiB"):
        if size_bytes >= _FACTORS[name]:
            return f"{size_bytes / _FACTORS[name]:.1f} {name}"
    return f"{size_bytes} B"


def parse_bytes(text: str) -> int:
    """Return the bytes in `20 GiB`, `512MB` or `1048576`. Raises ValueError for anything else."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ValueError(f"not a size: {text!r}; write for example 20GiB")
    number, unit = found.groups()
    return int(float(number) * _FACTORS[unit or "B"])


def align_up(value: int, to: int) -> int:
    """Return the first multiple of `to` that is not below `value`."""
    return -(-value // to) * to


def align_down(value: int, to: int) -> int:
    """Return the last multiple of `to` that is not above `value`."""
    return value // to * to
