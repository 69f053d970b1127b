"""Positional reads and writes of one disk, past the page cache wherever that is possible."""

import contextlib
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from agent.errors import DiskError
from agent.model.template import CHUNK_BYTES
from agent.store.parts import behind
from agent.system import block
from agent.units import Extent, align_down, align_up

_BLKZEROOUT: Final = 0x127F
_CANNOT: Final = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL)
UNREADABLE: Final = (errno.EIO, errno.ENODATA, errno.EILSEQ)
"""What reading a bad sector gives: through the page cache, directly, by a failed check."""
_SCATTERED: Final = 8
"""With more runs than this in a chunk, one long transfer beats many short ones."""


class DiskFile:
    """One disk (or a file in its place), opened for reading or for writing.

    Offsets are absolute on the disk. Every failure is a DiskError that names disk, serial
    and offset.
    """

    def __init__(self, path: Path, *, serial: str | None = None, writable: bool = False) -> None:
        self.path = path
        self.name = f"{path} (serial {serial})" if serial else str(path)
        flags = os.O_RDWR if writable else os.O_RDONLY
        self.sector_bytes = block.sector_bytes(path)
        self.is_block_device = block.is_block_device(path)
        self.size_bytes = block.size_bytes(path)
        self._direct = block.open_direct(path, flags)
        try:
            self._buffered = os.open(path, flags | os.O_CLOEXEC)
        except OSError as error:
            os.close(self._direct)
            raise DiskError(f"could not open {self.name}: {error.strerror}") from error

    def __enter__(self) -> "DiskFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        failed: OSError | None = None
        for fd in (self._direct, self._buffered):
            try:
                os.close(fd)
            except OSError as late:  # closed it is all the same
                failed = late
        if failed and error is None:
            raise DiskError(f"{self.name} lost what was written: {failed.strerror}") from failed

    def is_aligned(self, extents: Iterable[Extent]) -> bool:
        """Return whether each of `extents` is whole sectors at whole sectors."""
        sector = self.sector_bytes
        return not any(run.offset % sector or run.size % sector for run in extents)

    def expect(self, extents: Iterable[Extent]) -> None:
        """Let the page cache fetch `extents`, all at once: they are read next, `cached`."""
        block.expect(self._buffered, extents)

    def read(self, extent: Extent, into: memoryview, *, cached: bool = False) -> None:
        """Fill `into`, an aligned buffer of `extent.size` bytes; any buffer if it is `cached`."""
        try:
            self.read_once(extent, into, cached=cached)
        except OSError as error:
            bad = self._first_bad(extent, into) if error.errno in UNREADABLE else None
            at = extent.offset if bad is None else bad
            raise DiskError(f"cannot read {self.name} at {at}: {error.strerror}") from error

    def read_once(self, extent: Extent, into: memoryview, *, cached: bool = False) -> None:
        """As `read`, but with the OSError of the disk and no search for what is bad."""
        direct = not cached and self.is_aligned((extent,))
        fd = self._direct if direct else self._buffered
        done = 0
        while done < extent.size:
            got = os.preadv(fd, [into[done : extent.size]], extent.offset + done)
            if got == 0:
                raise DiskError(f"{self.name} ends at {extent.offset + done}, too soon")
            done += got
            if done < extent.size and done % self.sector_bytes:
                fd = self._buffered

    def write(self, offset: int, pieces: Sequence[memoryview], *, direct: bool) -> None:
        """Write `pieces`, one behind the other, at `offset`.

        `direct` needs pieces of whole sectors in aligned buffers.
        """
        fd = self._direct if direct else self._buffered
        while pieces:
            try:
                got = os.pwritev(fd, pieces, offset)
            except OSError as error:
                at = self._first_refused(fd, pieces, offset)
                raise self._write_failed(at, error) from error
            if got == 0:
                raise DiskError(f"{self.name} takes no bytes at {offset}")
            offset += got
            pieces = behind(pieces, got)
            if offset % self.sector_bytes:
                fd = self._buffered

    def write_zeros(self, extent: Extent, zeros: memoryview) -> None:
        """Make `extent` read as zeros. `zeros` is an aligned buffer of CHUNK_BYTES of them."""
        if self.is_aligned((extent,)):
            try:
                if self.is_block_device:
                    where = struct.pack("QQ", extent.offset, extent.size)
                    fcntl.ioctl(self._direct, _BLKZEROOUT, where)
                else:
                    block.punch_hole(self._direct, extent)
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise self._write_failed(extent.offset, error) from error
            else:
                return
        direct = self.is_aligned((extent,)) and extent.offset % mmap.PAGESIZE == 0
        self.fill(extent, zeros, direct=direct)

    def fill(self, extent: Extent, zeros: memoryview, *, direct: bool = False) -> None:
        """Write `zeros` over all of `extent`, again and again."""
        for offset in range(extent.offset, extent.end, len(zeros)):
            size = min(extent.end - offset, len(zeros))
            self.write(offset, [zeros[:size]], direct=direct and size % mmap.PAGESIZE == 0)

    def sync(self) -> None:
        """Wait until all that was written is on the medium. A failure is final: never repeat it."""
        for fd in (self._direct, self._buffered):
            try:
                os.fsync(fd)
            except OSError as error:
                raise DiskError(f"{self.name} lost what was written: {error.strerror}") from error

    def forget_cache(self) -> None:
        """Make the next reads come from the medium, also where O_DIRECT does not work."""
        try:
            os.posix_fadvise(self._buffered, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise DiskError(f"cannot drop the cache of {self.name}: {error.strerror}") from error

    def _write_failed(self, offset: int, error: OSError) -> DiskError:
        return DiskError(f"cannot write {self.name} at {offset}: {error.strerror}")

    def _first_refused(self, fd: int, pieces: Sequence[memoryview], offset: int) -> int:
        """Return the offset of the first page that cannot be written; `offset` if now all can."""
        at = offset
        for piece in pieces:
            for start in range(0, len(piece), mmap.PAGESIZE):
                try:
                    os.pwrite(fd, piece[start : start + mmap.PAGESIZE], at + start)
                except OSError:
                    return at + start
            at += len(piece)
        return offset

    def _first_bad(self, extent: Extent, into: memoryview) -> int | None:
        """Return the offset of the first page in `extent` that cannot be read."""
        for offset in range(extent.offset, extent.end, mmap.PAGESIZE):
            size = min(mmap.PAGESIZE, extent.end - offset)
            try:
                os.preadv(self._buffered, [into[:size]], offset)
            except OSError:
                return offset
        return None


class ChunkReader:
    """Reads the used runs of one chunk, one after the other, into one buffer. For one thread."""

    def __init__(
        self,
        disk: DiskFile,
        base: int,
        read: Callable[[Extent, memoryview], None] | None = None,
        buffer: memoryview | None = None,
        *,
        cached: bool = False,
    ) -> None:
        """`read`: what to read runs with, if not simply `disk.read`; `buffer`: an aligned one of
        CHUNK_BYTES to use, if not one of its own; `cached`: the page cache is as good as the
        medium, and quicker where runs are short and far from each other."""
        self._disk = disk
        self._base = base
        self._cached = cached and read is None
        self._read = read or disk.read
        self._buffer = buffer or memoryview(block.aligned_buffer(CHUNK_BYTES))
        self._span: memoryview | None = None

    def read(self, extents: Sequence[Extent]) -> memoryview:
        """Return the content of `extents` of the volume. Good until the next call.

        Many short runs near to each other are cut out of one long read; what lies between them is
        thrown away. If it fails, that may be all that cannot be read.
        """
        span = extents[-1].end - extents[0].offset
        if len(extents) > _SCATTERED and span <= CHUNK_BYTES:
            with contextlib.suppress(OSError):
                return self._gather(extents)
        if len(extents) > _SCATTERED and self._cached:
            return self._collect(extents)
        at = 0
        for run in extents:
            there = Extent(self._base + run.offset, run.size)
            into = self._buffer[at : at + run.size]
            if at % self._disk.sector_bytes:  # behind an odd run: no place for a direct read
                aside = self._room()[: run.size]
                self._read(there, aside)
                into[:] = aside
            else:
                self._read(there, into)
            at += run.size
        return self._buffer[:at]

    def _room(self) -> memoryview:
        """Return a second aligned buffer, for a chunk and the sectors that it touches."""
        if self._span is None:
            self._span = memoryview(block.aligned_buffer(CHUNK_BYTES + 2 * 65536))
        return self._span

    def _collect(self, extents: Sequence[Extent]) -> memoryview:
        runs = [Extent(self._base + run.offset, run.size) for run in extents]
        self._disk.expect(runs)
        at = 0
        for run in runs:
            self._disk.read(run, self._buffer[at : at + run.size], cached=True)
            at += run.size
        return self._buffer[:at]

    def _gather(self, extents: Sequence[Extent]) -> memoryview:
        sector, span = self._disk.sector_bytes, self._room()
        first = align_down(self._base + extents[0].offset, sector)
        last = min(align_up(self._base + extents[-1].end, sector), self._disk.size_bytes)
        self._disk.read_once(Extent(first, last - first), span[: last - first])
        at = 0
        for run in extents:
            start = self._base + run.offset - first
            self._buffer[at : at + run.size] = span[start : start + run.size]
            at += run.size
        return self._buffer[:at]


class ChunkWriter:
    """Writes the runs of chunks from aligned buffers. Shared by the threads of a restore."""

    def __init__(self, disk: DiskFile, base: int) -> None:
        self._disk = disk
        self._base = base
        self._zeros = memoryview(block.aligned_buffer(CHUNK_BYTES))
        # Direct and cached writes must never meet in one page; chunks begin on pages if this holds.
        self._may_direct = base % max(mmap.PAGESIZE, disk.sector_bytes) == 0

    def write(self, chunks: Iterable[Sequence[tuple[Extent, memoryview]]]) -> None:
        """Write each run of each chunk (offsets in the volume) from its piece of a buffer.

        Neighbours on the disk are one write. A chunk with odd or many runs goes through the page
        cache, which sorts and joins them.
        """
        pieces: list[memoryview] = []
        start = end = 0
        is_direct = False
        for runs in chunks:
            direct = self._goes_direct([run for run, _ in runs])
            for run, data in runs:
                offset = self._base + run.offset
                if offset != end or direct != is_direct:
                    self._disk.write(start, pieces, direct=is_direct)
                    pieces, start, is_direct = [], offset, direct
                pieces.append(data)
                end = offset + run.size
        self._disk.write(start, pieces, direct=is_direct)

    def write_zeros(self, runs: Sequence[Extent]) -> None:
        """Make each of `runs` read as zeros, of whatever size: by the disk, where it is pages."""
        for run in runs:
            there = Extent(self._base + run.offset, run.size)
            pages = not run.offset % mmap.PAGESIZE and not run.size % mmap.PAGESIZE
            if pages and self._may_direct and self._disk.is_aligned((there,)):
                self._disk.write_zeros(there, self._zeros)
            else:
                self._disk.fill(there, self._zeros)

    def _goes_direct(self, runs: Sequence[Extent]) -> bool:
        """Return whether a chunk of these runs is written past the page cache."""
        return self._may_direct and len(runs) <= _SCATTERED and self._disk.is_aligned(runs)


def without(extents: Iterable[Extent], holes: Sequence[Extent]) -> tuple[Extent, ...]:
    """Return what is left of `extents`, which ascend, when `holes` are cut out."""
    left = list(extents)
    for hole in holes:
        cut: list[Extent] = []
        for run in left:
            if run.end <= hole.offset or hole.end <= run.offset:
                cut.append(run)
                continue
            if run.offset < hole.offset:
                cut.append(Extent(run.offset, hole.offset - run.offset))
            if hole.end < run.end:
                cut.append(Extent(hole.end, run.end - hole.end))
        left = cut
    return tuple(left)


def overlap(one: Extent, other: Extent) -> Extent | None:
    """Return the bytes that both have, if any."""
    start, end = max(one.offset, other.offset), min(one.end, other.end)
    return Extent(start, end - start) if start < end else None
