"""partclone(8): which parts of a filesystem are used. Its map only; we never use its images."""

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from agent.errors import AgentError
from agent.system.command import Runner, Word

Filesystem = Literal["exfat", "extfs", "f2fs", "ntfs", "vfat", "xfs"]

_ROW: Final = re.compile(rb"0x([0-9A-Fa-f]{1,16})\s+0x([0-9A-Fa-f]{1,16})\s+([+?])")
_POSITION: Final = re.compile(rb"0x[0-9A-Fa-f]{1,16}\s+\?")
_TIMEOUT_S: Final = 3600.0
_LINE_BYTES: Final = 1000


class BadMap(AgentError):
    """A map of used blocks that cannot be right."""


def read_map(
    run: Runner,
    device: Path,
    fs: Filesystem,
    size_bytes: int,
    used: Callable[[int, int], None],
    stop: threading.Event | None = None,
) -> None:
    """Tell `used` each used run of the filesystem on `device`: (offset, end), in order.

    `device` has `size_bytes`. partclone opens it for reading only, and refuses one that is
    mounted or dirty.
    """
    found = MapReader(size_bytes, used)
    words: list[Word] = [f"partclone.{fs}", "--domain", "--quiet", "--source", device]
    run(
        [*words, "--output", "-", "--logfile", "/dev/null"],
        timeout_s=_TIMEOUT_S,
        into=found.feed,
        stop=stop,
    )
    found.close()


class MapReader:
    """Reads a map in the form of ddrescue's domain file as it comes, piece by piece.

    Raises BadMap unless its rows follow each other without a gap, from 0 up to an end that is not
    beyond `size_bytes`. Runs that touch are told as one.
    """

    def __init__(self, size_bytes: int, used: Callable[[int, int], None]) -> None:
        self._size_bytes = size_bytes
        self._used = used
        self._rest = b""
        self._line = 0
        self._rows = 0
        self._end = 0
        self._begin: int | None = None

    def feed(self, piece: bytes) -> None:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._read(line)
        if len(self._rest) > _LINE_BYTES:
            raise self._bad("is too long")

    def close(self) -> None:
        """Say that this was all. Raises BadMap if it was nothing."""
        if self._rest:
            self._read(self._rest)
        if self._begin is not None:
            self._used(self._begin, self._end)
        if self._rows == 0:
            raise BadMap("map of used blocks: there is nothing in it")

    def _read(self, line: bytes) -> None:
        self._line += 1
        text = line.strip()
        if not text or text[:1] == b"#" or (self._rows == 0 and _POSITION.fullmatch(text)):
            return
        row = _ROW.fullmatch(text)
        if not row:
            raise self._bad(f"not a row: {text[:60].decode('ascii', 'replace')!r}")
        offset, size = int(row[1], 16), int(row[2], 16)
        if offset != self._end or size == 0:
            raise self._bad(f"expected a run from {self._end:#x} on")
        self._rows += 1
        if offset + size > self._size_bytes:
            raise self._bad(f"ends beyond {self._size_bytes} bytes")
        if row[3] == b"+":
            if self._begin is None:
                self._begin = offset
        elif self._begin is not None:
            self._used(self._begin, offset)
            self._begin = None
        self._end = offset + size

    def _bad(self, what: str) -> BadMap:
        return BadMap(f"map of used blocks, line {self._line}: {what}")
