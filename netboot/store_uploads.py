"""One blob on its way in: bytes appended by one writer, hashed as they come.

An upload is a file that only grows. What a dead connection left is kept: the next writer
goes on where the file ends. After a restart the file is read once to have its hash again.
"""

import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from agent.units import format_bytes
from netboot.store_errors import (
    BlobTooLarge,
    DigestInvalid,
    StoreError,
    StoreFull,
    UploadOutOfOrder,
    UploadSuperseded,
    UploadUnknown,
)

_READ_BYTES: Final = 4 * 1024 * 1024
_VECTOR_MAX: Final = 512
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def free_bytes(path: Path) -> int:
    """Return what an ordinary user may still write on the filesystem of `path`."""
    return shutil.disk_usage(path).free


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Room:
    """The free space of the store's disk, less a reserve and what writers were promised."""

    def __init__(
        self, path: Path, reserve_bytes: int, free: Callable[[Path], int] = free_bytes
    ) -> None:
        self._path = path
        self._reserve_bytes = reserve_bytes
        self._free = free
        self._lock = threading.Lock()
        self._promised: dict[object, int] = {}

    def promise(self, who: object, size_bytes: int) -> None:
        """Set `size_bytes` aside for `who`. Raises StoreFull if they are not there."""
        with self._lock:
            others = sum(self._promised.values()) - self._promised.get(who, 0)
            room = self._free(self._path) - self._reserve_bytes - others
            if size_bytes > room:
                raise StoreFull(
                    f"the store is full: {format_bytes(size_bytes)} asked for,"
                    f" {format_bytes(max(room, 0))} to give",
                    hint="delete templates, or give the store a larger disk",
                )
            self._promised[who] = size_bytes

    def spend(self, who: object, size_bytes: int) -> None:
        """Take `size_bytes` from what `who` was promised; whatever is beyond must be free now."""
        with self._lock:
            promised = self._promised.get(who, 0)
        if size_bytes > promised:
            self.promise(who, size_bytes)
            promised = size_bytes
        with self._lock:
            self._promised[who] = promised - size_bytes

    def release(self, who: object) -> None:
        with self._lock:
            self._promised.pop(who, None)


class Upload:
    """The growing file. Everything here may be called from any thread."""

    def __init__(self, upload: str, repository: str, path: Path) -> None:
        """Open what is on the disk. Raises UploadUnknown when there is nothing."""
        self.id = upload
        self.repository = repository
        self.path = path
        self.lock = threading.RLock()
        self.is_over = False
        self.writers = 0
        try:
            self._size = path.stat().st_size
        except FileNotFoundError as error:
            raise UploadUnknown(f"no upload {upload}") from error
        self._hash = hashlib.sha256()
        self._hashed = 0
        self._turn = 0

    @property
    def offset(self) -> int:
        """How many bytes have arrived: where the next piece must begin."""
        return self._size

    def take(self, at: int | None, size_bytes: int | None, room: Room, max_bytes: int) -> "Writer":
        """Return the only writer that may now append; the one before it is cut off.

        `at` is where the piece begins, None for "where the upload stands"; `size_bytes` is how long
        it will be, None if nobody says. Raises UploadOutOfOrder, BlobTooLarge or StoreFull with
        the upload, and its present writer, as they were.
        """
        with self.lock:
            if self.is_over:
                raise UploadUnknown(f"no upload {self.id}")
            if at is not None and at != self._size:
                raise UploadOutOfOrder(at, self._size)
            if self._size + (size_bytes or 0) > max_bytes:
                raise BlobTooLarge(f"a blob has at most {format_bytes(max_bytes)}")
            turn = self._turn + 1
            room.promise((self.id, turn), size_bytes or 0)
            self._turn = turn
            try:
                self._catch_up()
                return Writer(self, turn, room, max_bytes)
            except BaseException:
                room.release((self.id, turn))
                raise

    def is_turn(self, turn: int) -> bool:
        return self._turn == turn and not self.is_over

    def append(self, descriptor: int, pieces: Sequence[bytes]) -> None:
        """Write and hash `pieces`; the caller holds the lock. A failed write leaves no trace."""
        wanted = self._size + sum(map(len, pieces))
        try:
            _write_all(descriptor, pieces, self._size)
        except OSError as error:
            os.ftruncate(descriptor, self._size)
            if error.errno in _FULL:
                raise StoreFull("the store's disk ran full") from error
            raise StoreError(f"the store's disk failed: {error.strerror}") from error
        for piece in pieces:
            self._hash.update(piece)
        self._size = self._hashed = wanted

    def close(self, digest: str) -> int:
        """Return the size in bytes of the finished file, durable and of that digest.

        No writer gets in any more, whether or not the digest is right (else DigestInvalid).
        """
        with self.lock:
            if self.is_over:
                raise UploadUnknown(f"no upload {self.id}")
            self._turn += 1
            self._catch_up()
            self.is_over = True
            found = f"sha256:{self._hash.hexdigest()}"
            if found != digest:
                raise DigestInvalid(f"{self._size} bytes came that are {found}, not {digest}")
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
            return self._size

    def abandon(self) -> None:
        """Let no writer in any more."""
        with self.lock:
            self._turn += 1
            self.is_over = True

    def _catch_up(self) -> None:
        """Hash what the file has and the hash has not: after a restart, all of it."""
        if self._hashed == self._size:
            return
        with self.path.open("rb") as file:
            file.seek(self._hashed)
            while self._hashed < self._size:
                piece = file.read(min(_READ_BYTES, self._size - self._hashed))
                if not piece:
                    raise StoreError(f"upload {self.id} is shorter than it was")
                self._hash.update(piece)
                self._hashed += len(piece)


class Writer:
    """Appends to one upload until it is closed, or until another writer takes over."""

    def __init__(self, upload: Upload, turn: int, room: Room, max_bytes: int) -> None:
        self.upload = upload
        self._turn = turn
        self._room = room
        self._max_bytes = max_bytes
        self._descriptor = os.open(upload.path, os.O_WRONLY)
        upload.writers += 1

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append `pieces`. Raises UploadSuperseded, BlobTooLarge or StoreFull."""
        size_bytes = sum(map(len, pieces))
        with self.upload.lock:
            if not self.upload.is_turn(self._turn):
                raise UploadSuperseded("another connection has taken this upload over")
            if self.upload.offset + size_bytes > self._max_bytes:
                raise BlobTooLarge(f"a blob has at most {format_bytes(self._max_bytes)}")
            self._room.spend((self.upload.id, self._turn), size_bytes)
            self.upload.append(self._descriptor, pieces)

    def close(self) -> None:
        """Make what was written durable. Raises StoreError if it could not be."""
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            self.upload.abandon()
            raise StoreError(f"the store's disk failed: {error.strerror}") from error
        finally:
            os.close(self._descriptor)
            self._room.release((self.upload.id, self._turn))
            with self.upload.lock:
                self.upload.writers -= 1


def _write_all(descriptor: int, pieces: Sequence[bytes], offset: int) -> None:
    left: list[bytes | memoryview] = [piece for piece in pieces if piece]
    while left:
        done = os.pwritev(descriptor, left[:_VECTOR_MAX], offset)
        offset += done
        while left and done >= len(left[0]):
            done -= len(left.pop(0))
        if done:
            left[0] = memoryview(left[0])[done:]
