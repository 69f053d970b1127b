"""Packs: chunks as zstd frames, back to back. docs/template-format.md is the text behind this."""

import struct
from collections.abc import Callable
from hashlib import sha256
from typing import Final, Protocol

import zstandard

from agent.errors import ChunkCorrupt
from agent.model.template import CHUNK_BYTES, PACK_MAX_BYTES, PACK_TARGET_BYTES, Descriptor
from agent.units import MiB

MAX_WINDOW_BYTES: Final = 8 * MiB
MAX_STORED_BYTES: Final = CHUNK_BYTES + CHUNK_BYTES // 128 + 1024
"""More than zstd ever makes of a chunk, be it random bytes."""

_BLOCK_HEAD: Final = struct.Struct("<HB")
_BLOCK_MAX_BYTES: Final = 128 * 1024
_RLE_BLOCK: Final = 1
_RESERVED_BLOCK: Final = 3
_CHECKSUM_BYTES: Final = 4

_PACKS: Final = 8192

_USUAL: Final = {"window_log": 22, "chain_log": 15}
"""Level 3 for a chunk: a window over all of it, a smaller table for it. No larger, 2 % faster."""

Bytes = bytes | bytearray | memoryview


class Encoder:
    """Makes one frame of one chunk. For one thread; keeps its working memory."""

    def __init__(self, level: int) -> None:
        how = zstandard.ZstdCompressionParameters.from_level(
            level,
            source_size=CHUNK_BYTES,
            write_checksum=True,
            write_content_size=True,
            **(_USUAL if level == 3 else {}),
        )
        self._zstd = zstandard.ZstdCompressor(compression_params=how)

    def encode(self, content: Bytes) -> bytes:
        return self._zstd.compress(content)


class Decoder:
    """Unpacks one frame into a buffer. For one thread; keeps its working memory."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)

    def decode(self, stored: memoryview, into: memoryview) -> None:
        """Fill `into`, whose size is the chunk's, from the frame `stored`.

        Raises ChunkCorrupt unless `stored` is one whole frame of just that content: declared
        size, window, checksum and end are checked before the first byte is decompressed.
        """
        try:
            head = zstandard.get_frame_parameters(stored)
            if head.content_size == zstandard.CONTENTSIZE_UNKNOWN:
                raise ChunkCorrupt("declares no size")
            if head.content_size != len(into):
                raise ChunkCorrupt(f"declares {head.content_size} bytes, not {len(into)}")
            if head.window_size > MAX_WINDOW_BYTES:
                raise ChunkCorrupt(f"wants a window of {head.window_size} bytes")
            if not head.has_checksum:
                raise ChunkCorrupt("carries no checksum")
            if head.dict_id:
                raise ChunkCorrupt("wants a dictionary")
            end = _frame_end(stored)
            if end != len(stored):
                raise ChunkCorrupt(f"ends at {end} of {len(stored)} bytes")
            # With the whole frame and room for all of it, zstd decodes straight into `into`.
            with self._zstd.stream_reader(stored) as reader:
                filled = reader.readinto(into)
                if filled == len(into):
                    reader.readinto(bytearray(1))  # the checksum is looked at when it ends
        except zstandard.ZstdError as error:
            raise ChunkCorrupt(f"is not zstd as we know it: {error}") from error
        if filled != len(into):
            raise ChunkCorrupt(f"holds {filled} bytes, not {len(into)}")


def _frame_end(stored: memoryview) -> int:
    """Return where the frame at the start of `stored` ends, by its block headers (RFC 8878)."""
    at = zstandard.frame_header_size(stored)
    last = len(stored) - _BLOCK_HEAD.size
    unpack = _BLOCK_HEAD.unpack_from  # a frame has a hundred blocks, and Python's lock is held
    while at <= last:
        low, high = unpack(stored, at)
        kind, size = low >> 1 & 3, low >> 3 | high << 13
        if kind == _RESERVED_BLOCK or size > _BLOCK_MAX_BYTES:
            raise ChunkCorrupt(f"has a block that cannot be, at {at}")
        at += 4 if kind == _RLE_BLOCK else 3 + size
        if low & 1:
            return at + _CHECKSUM_BYTES
    raise ChunkCorrupt("is cut short")


class Upload(Protocol):
    """One blob on its way to a store."""

    def append(self, *parts: bytes) -> None:
        """Take `parts`, one behind the other, as one piece."""
        ...

    def finish(self, digest: str) -> None: ...

    def cancel(self) -> None: ...


class BlobWriter:
    """Writes one blob in pieces and knows its digest. Keeps at most one piece in memory."""

    def __init__(self, upload: Upload, piece_bytes: int = 4 * MiB) -> None:
        self.size = 0
        self._upload = upload
        self._piece_bytes = piece_bytes
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._sha256 = sha256()

    def write(self, data: bytes) -> None:
        self._sha256.update(data)
        self._pieces.append(data)
        self.size += len(data)
        self._waiting += len(data)
        if self._waiting >= self._piece_bytes:
            self._send()

    def finish(self, media_type: str, annotations: dict[str, str]) -> Descriptor:
        if self._waiting:
            self._send()
        digest = f"sha256:{self._sha256.hexdigest()}"
        self._upload.finish(digest)
        return Descriptor(
            media_type=media_type, digest=digest, size=self.size, annotations=annotations
        )

    def cancel(self) -> None:
        self._upload.cancel()

    def _send(self) -> None:
        pieces, self._pieces, self._waiting = self._pieces, [], 0
        self._upload.append(*pieces)


def pack_target_bytes(used_bytes: int) -> int:
    """Return where a pack ends, so that a manifest has room for the packs of `used_bytes`.

    256 MiB up to 2 TiB; beyond, as large as 8192 packs need, in whole MiB, at most 4 GiB.
    """
    fair = -(-used_bytes // _PACKS // MiB) * MiB
    return min(max(PACK_TARGET_BYTES, fair), PACK_MAX_BYTES - 2 * CHUNK_BYTES)


class PackWriter:
    """Puts stored chunks into packs; `finished` hears of each pack that is complete.

    A pack ends with the first chunk that brings it to `target_bytes`.
    """

    def __init__(
        self,
        start: Callable[[], BlobWriter],
        finished: Callable[[BlobWriter], None],
        target_bytes: int = PACK_TARGET_BYTES,
    ) -> None:
        assert target_bytes + MAX_STORED_BYTES <= PACK_MAX_BYTES
        self._start = start
        self._finished = finished
        self._target_bytes = target_bytes
        self._pack: BlobWriter | None = None

    def add(self, stored: bytes) -> int:
        """Append one chunk; return its offset in the pack that is now open."""
        if self._pack is None:
            self._pack = self._start()
        offset = self._pack.size
        self._pack.write(stored)
        if self._pack.size >= self._target_bytes:
            self.close()
        return offset

    def close(self) -> None:
        """Finish the open pack, if there is one."""
        if self._pack is not None:
            pack, self._pack = self._pack, None
            self._finished(pack)
