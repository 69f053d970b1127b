"""partclone(8): which parts of a filesystem are used. Its map only; we never use its images."""

import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Literal

from agent.errors import AgentError
from agent.system.command import Runner
from agent.units import Extent

Filesystem = Literal["extfs", "vfat"]

_ROW: Final = re.compile(r"0x([0-9A-Fa-f]{1,16})\s+0x([0-9A-Fa-f]{1,16})\s+([+?])")
_POSITION: Final = re.compile(r"0x[0-9A-Fa-f]{1,16}\s+\?")


class BadMap(AgentError):
    """A map of used blocks that cannot be right."""


def used_extents(run: Runner, device: Path, fs: Filesystem, size_bytes: int) -> tuple[Extent, ...]:
    """Return the used extents of the filesystem on `device`, a device or image of `size_bytes`.

    partclone opens the device for reading only, and refuses one that is mounted or dirty.
    """
    with tempfile.TemporaryDirectory(prefix="used-map-") as folder:
        found = Path(folder, "map")
        run(
            [
                f"partclone.{fs}",
                "--domain",
                "--quiet",
                "--source",
                device,
                "--output",
                found,
                "--logfile",
                Path(folder, "log"),
            ],
            timeout_s=1800,
        )
        with found.open(encoding="ascii", errors="replace") as lines:
            return tuple(parse_map(lines, size_bytes))


def parse_map(lines: Iterable[str], size_bytes: int) -> Iterator[Extent]:
    """Yield the used extents of a map in the form of ddrescue's domain file.

    Raises BadMap unless its rows follow each other without a gap, from 0 up to an end that is not
    beyond `size_bytes`.
    """
    end = 0
    rows = 0
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#") or (rows == 0 and _POSITION.fullmatch(text)):
            continue
        row = _ROW.fullmatch(text)
        if not row:
            raise BadMap(f"map of used blocks, line {number}: not a row: {text[:60]!r}")
        offset, size = int(row[1], 16), int(row[2], 16)
        if offset != end or size == 0:
            raise BadMap(f"map of used blocks, line {number}: expected a run from {end:#x} on")
        end = offset + size
        rows += 1
        if end > size_bytes:
            raise BadMap(f"map of used blocks, line {number}: ends beyond {size_bytes} bytes")
        if row[3] == "+":
            yield Extent(offset, size)
    if rows == 0:
        raise BadMap("map of used blocks: there is nothing in it")
