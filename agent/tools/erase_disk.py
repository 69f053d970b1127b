"""A whole disk erased, by the way that was planned; and read back afterwards."""

import hashlib
import mmap
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, assert_never

from agent.errors import DiskError
from agent.model.inventory import Drive, Transport
from agent.model.wipe import Abilities, Verified, Way
from agent.system import block
from agent.tools.ata_security import ata_abilities, ata_facts, secure_erase
from agent.tools.nvme_admin import format_namespace, nvme_abilities, nvme_facts, sanitize
from agent.units import Extent, GiB, KiB, MiB

PIECE_BYTES: Final = 64 * KiB
SAMPLE_PIECES: Final = 512
EDGE_BYTES: Final = 1 * MiB
"""Tables and superblocks are at both ends: read back whole."""
_WRITE_BYTES: Final = 4 * MiB
_DISCARD_BYTES: Final = 1 * GiB

Added = Callable[[int], None]
"""Is told how many more bytes are done."""


def abilities(drive: Drive) -> Abilities:
    """Return what `drive` says that it can. A drive that says nothing gets zeros."""
    device = Path(drive.path)
    discards = _discards(device)
    try:
        if drive.transport is Transport.NVME:
            return nvme_abilities(nvme_facts(device), discards=discards)
        if drive.transport in (Transport.SATA, Transport.IDE):
            return ata_abilities(ata_facts(device), discards=discards)
    except DiskError as error:
        ways = (Way.DISCARD, Way.ZERO) if discards else (Way.ZERO,)
        return Abilities(ways=ways, obstacles=(str(error),))
    return Abilities(ways=(Way.DISCARD, Way.ZERO) if discards else (Way.ZERO,))


def _discards(device: Path) -> bool:
    path = Path("/sys/class/block") / device.name / "queue/discard_max_bytes"
    try:
        return int(path.read_text()) > 0
    except (OSError, ValueError):
        return False


def erase(device: Path, way: Way, added: Added) -> None:
    """Destroy all that is on `device`. Raises DiskError; what was destroyed stays destroyed.

    `added` hears of bytes as they are done; of a way that the drive goes by itself, at the end.
    """
    size = block.size_bytes(device)
    match way:
        case Way.ZERO:
            _write_zeros(device, size, added)
        case Way.DISCARD:
            for extent in _pieces(size, _DISCARD_BYTES):
                if not block.discard(device, extent):
                    raise DiskError(f"{device} takes no discard at offset {extent.offset}")
                added(extent.size)
        case Way.FORMAT_CRYPTO | Way.FORMAT_USER_DATA:
            format_namespace(device, way)
            added(size)
        case Way.SANITIZE_BLOCK | Way.SANITIZE_CRYPTO | Way.SANITIZE_OVERWRITE:
            told = 0

            def share(done: float) -> None:
                nonlocal told
                added(int(size * done) - told)
                told = int(size * done)

            sanitize(device, way, share)
        case Way.ATA_ENHANCED | Way.ATA_NORMAL:
            secure_erase(device, way)
            added(size)
        case _ as never:
            assert_never(never)
    block.flush(device)


def _write_zeros(device: Path, size: int, added: Added) -> None:
    fd = block.open_direct(device, os.O_WRONLY)
    try:
        with block.aligned_buffer(_WRITE_BYTES) as zeros, memoryview(zeros) as view:
            at = 0
            while at < size:
                try:
                    wrote = os.pwrite(fd, view[: min(_WRITE_BYTES, size - at)], at)
                except OSError as error:
                    raise DiskError(
                        f"could not write zeros to {device} at offset {at}: {error.strerror}"
                    ) from error
                at += wrote
                added(wrote)
        try:
            os.fsync(fd)
        except OSError as error:
            raise DiskError(f"could not flush {device}: {error.strerror}") from error
    finally:
        os.close(fd)


def sample_places(size: int, count: int = SAMPLE_PIECES) -> tuple[Extent, ...]:
    """Return pieces to read: both ends whole, and one at chance in each of `count` strides.

    Chance, so that nobody can know beforehand which places will be looked at.
    """
    pieces = size // PIECE_BYTES
    edge = EDGE_BYTES // PIECE_BYTES
    chosen = {*range(min(edge, pieces)), *range(max(pieces - edge, 0), pieces)}
    for number in range(count):
        first, last = pieces * number // count, pieces * (number + 1) // count
        if last > first:
            chosen.add(first + secrets.randbelow(last - first))
    places = [Extent(piece * PIECE_BYTES, PIECE_BYTES) for piece in sorted(chosen)]
    if rest := size - pieces * PIECE_BYTES:
        places.append(Extent(pieces * PIECE_BYTES, rest))
    return tuple(places)


def all_places(size: int) -> tuple[Extent, ...]:
    """Return the whole disk, in pieces to read."""
    return tuple(_pieces(size, _WRITE_BYTES))


def fingerprints(device: Path, places: Sequence[Extent]) -> tuple[bytes | None, ...]:
    """Return what is at each place, as a digest to know it again by.

    None: one byte repeated, as blank space is, or not to be read: it cannot be known again.
    """
    found: list[bytes | None] = []
    with _Reader(device) as reader:
        for place in places:
            try:
                data = reader.read(place)
            except DiskError:
                found.append(None)
                continue
            uniform = data == data[:1] * len(data)
            found.append(None if uniform else hashlib.sha256(data).digest())
    return tuple(found)


def check_zeros(device: Path, places: Sequence[Extent], mode: str, added: Added) -> Verified:
    """Return what was read, all zeros. Raises DiskError at the first byte that is none."""
    with _Reader(device) as reader:
        for place in places:
            data = reader.read(place)
            if data.count(0) != len(data):
                at = place.offset + next(n for n, byte in enumerate(data) if byte)
                raise DiskError(
                    f"{device} is not wiped: the byte at offset {at} is not zero",
                    hint="wipe it again by the method zero, or destroy the drive",
                )
            added(place.size)
    return Verified(mode=mode, pieces=len(places), read_bytes=_sum(places), zeros=True)


def check_gone(
    device: Path, places: Sequence[Extent], before: Sequence[bytes | None], added: Added
) -> Verified:
    """Return what was read, nothing as it was `before`. Raises DiskError for what is left."""
    with _Reader(device) as reader:
        for place, old in zip(places, before, strict=True):
            data = reader.read(place)
            if old is not None and hashlib.sha256(data).digest() == old:
                raise DiskError(
                    f"{device} is not wiped: at offset {place.offset} is what was there before",
                    hint="wipe it again by the method zero, or destroy the drive",
                )
            added(place.size)
    return Verified(
        mode="sample",
        pieces=len(places),
        read_bytes=_sum(places),
        zeros=False,
        comparable_pieces=sum(old is not None for old in before),
    )


class _Reader:
    """Reads past the page cache."""

    def __init__(self, device: Path) -> None:
        self._device = device

    def __enter__(self) -> "_Reader":
        self._buffer: mmap.mmap = block.aligned_buffer(_WRITE_BYTES)
        self._fd = block.open_direct(self._device, os.O_RDONLY)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        self._buffer.close()

    def read(self, place: Extent) -> bytes:
        with memoryview(self._buffer) as view:
            got = 0
            try:
                with view[: place.size] as part:
                    got = os.preadv(self._fd, [part], place.offset)
            except OSError as error:
                raise DiskError(
                    f"could not read {self._device} at offset {place.offset}: {error.strerror}"
                ) from error
        if got != place.size:
            raise DiskError(f"{self._device} ends at offset {place.offset + got}")
        return self._buffer[: place.size]


def _pieces(size: int, piece_bytes: int) -> Iterator[Extent]:
    for offset in range(0, size, piece_bytes):
        yield Extent(offset, min(piece_bytes, size - offset))


def _sum(places: Sequence[Extent]) -> int:
    return sum(place.size for place in places)
