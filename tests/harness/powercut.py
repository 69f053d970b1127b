"""What a disk may hold after a power cut: every write is logged, every order of them tried.

`recorded` gives a file behind which QEMU's storage daemon logs each write and flush. `states`
then yields what the medium may hold if the power had failed at any time: all that was flushed,
and of what was not any part, in any order, the last write torn. No device-mapper, no guest.
"""

import random
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.harness.daemons import storage_daemon

_MAGIC = 0x6A736677736872
_FLUSH, _DISCARD, _MARK = 1, 4, 8


@dataclass(frozen=True, slots=True)
class Write:
    """One write of the log: where on the disk, and where in the log its bytes are."""

    offset: int
    size: int
    log_offset: int
    is_discard: bool


@dataclass(frozen=True, slots=True)
class State:
    """One possible content of the disk. Look at it before asking for the next."""

    name: str
    epoch: int
    """How many flushes were done."""
    durable: Path
    """What was flushed."""
    log: Path
    writes: tuple[Write, ...]
    """Those that reached the medium beyond that, oldest first."""

    def read(self, offset: int, size: int) -> bytes:
        with self.durable.open("rb") as file:
            file.seek(offset)
            data = bytearray(file.read(size))
        data += bytes(size - len(data))
        with self.log.open("rb") as log:
            for write in self.writes:
                start, end = (
                    max(offset, write.offset),
                    min(offset + size, write.offset + write.size),
                )
                if start >= end:
                    continue
                if write.is_discard:
                    piece = bytes(end - start)
                else:
                    log.seek(write.log_offset + start - write.offset)
                    piece = log.read(end - start)
                data[start - offset : end - offset] = piece
        return bytes(data)

    @property
    def size_bytes(self) -> int:
        return self.durable.stat().st_size


def daemon() -> str | None:
    """Return why power cuts cannot be tried here, None if they can."""
    if not shutil.which("qemu-storage-daemon"):
        return "qemu-storage-daemon is not installed"
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse"
    return None


@contextmanager
def recorded(base: Path, log: Path, node: Path) -> Iterator[Path]:
    """Yield `node`, a file that is the disk `base`; what is written to it is logged in `log`."""
    log.write_bytes(b"")
    blockdevs = [
        f"driver=file,filename={base},node-name=base",
        f"driver=file,filename={log},node-name=log",
        "driver=blklogwrites,node-name=logged,file=base,log=log,log-sector-size=512",
    ]
    with storage_daemon(blockdevs, "logged", node, base) as disk:
        yield disk


def epochs(log: Path) -> Iterator[list[Write]]:
    """Yield the writes between one flush and the next, the last list never flushed."""
    current: list[Write] = []
    with log.open("rb") as file:
        magic, _version, entries, unit = struct.unpack("<QQQI", file.read(28))
        if magic != _MAGIC:
            raise ValueError(f"{log} is not a log of writes")
        at = unit
        for _ in range(entries):
            file.seek(at)
            sector, sectors, flags, _extra = struct.unpack("<QQQQ", file.read(32))
            at += unit
            if sectors and not flags & _MARK:
                write = Write(sector * unit, sectors * unit, at, bool(flags & _DISCARD))
                current.append(write)
                if not write.is_discard:
                    at += write.size
            if flags & _FLUSH:
                yield current
                current = []
    yield current


def states(
    base: Path, log: Path, *, seed: int = 1, some: int = 12, at_most: int = 24
) -> Iterator[State]:
    """Yield what a power cut may leave of `base`, a copy of the disk before the first write.

    `base` itself is brought forward, epoch by epoch.

    In each epoch: none, all, each prefix, each single write, all but one, `some` random choices,
    and the last write torn in half. Of an epoch with more than `at_most` writes, both ends vary.
    """
    dice = random.Random(seed)
    for number, writes in enumerate(epochs(log)):
        count = len(writes)
        ends = sorted({*range(min(count, at_most)), *range(max(0, count - at_most), count)})
        picks: dict[tuple[int, ...], str] = {(): "none", tuple(range(count)): "all"}
        for n in ends:
            picks.setdefault(tuple(range(n + 1)), f"first {n + 1}")
            picks.setdefault((n,), f"only {n}")
            picks.setdefault(tuple(m for m in range(count) if m != n), f"without {n}")
        for n in range(some):
            picks.setdefault(tuple(m for m in range(count) if dice.random() < 0.5), f"random {n}")
        for pick, name in picks.items():
            chosen = [writes[n] for n in pick]
            yield State(f"epoch {number}: {name}", number, base, log, tuple(chosen))
            if chosen and chosen[-1].size > 512 and not chosen[-1].is_discard:
                last = chosen[-1]
                torn = Write(last.offset, last.size // 1024 * 512, last.log_offset, False)
                yield State(
                    f"epoch {number}: {name}, torn", number, base, log, (*chosen[:-1], torn)
                )
        _bring_forward(base, log, writes)


def _bring_forward(base: Path, log_path: Path, writes: list[Write]) -> None:
    with base.open("r+b") as file, log_path.open("rb") as log:
        for write in writes:
            log.seek(write.log_offset)
            file.seek(write.offset)
            file.write(bytes(write.size) if write.is_discard else log.read(write.size))
