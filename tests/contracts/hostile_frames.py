"""Frames of zstd that no honest writer makes. RFC 8878 says what stands where in their heads."""

import io
from typing import Any

import zstandard

from agent.units import MiB

_MAGIC = b"\x28\xb5\x2f\xfd"
_SIZE_OF_4_BYTES = 0x80
_SINGLE_SEGMENT = 0x20
_DICTIONARY = 0x03


def frame(text: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True, **options).compress(text)


def bomb(size_bytes: int, letter: bytes, *, head: bytes = b"") -> bytes:
    """Return a frame that unpacks to `head` and `size_bytes` of one letter."""
    made = io.BytesIO()
    piece = letter * MiB
    with zstandard.ZstdCompressor(write_checksum=True).stream_writer(made, closefd=False) as out:
        out.write(head)
        for _ in range(size_bytes // MiB):
            out.write(piece)
    return made.getvalue()


def huge_window(text: bytes) -> bytes:
    """Return a frame that asks for a window of 128 MiB, and is good but for that."""
    parameters = zstandard.ZstdCompressionParameters(
        window_log=27, write_content_size=False, write_checksum=True
    )
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return packer.compress(text) + packer.flush()


def declaring(size_bytes: int, stored: bytes) -> bytes:
    """Return a frame that said nothing of its size, saying it: of four bytes, after the window."""
    head = stored[4]
    assert stored[:4] == _MAGIC
    assert not head & (_SIZE_OF_4_BYTES | _SIZE_OF_4_BYTES >> 1 | _SINGLE_SEGMENT | _DICTIONARY)
    size = size_bytes.to_bytes(4, "little")
    made = _MAGIC + bytes([head | _SIZE_OF_4_BYTES, stored[5]]) + size + stored[6:]
    assert zstandard.get_frame_parameters(made).content_size == size_bytes
    return made


def skippable() -> bytes:
    return b"\x50\x2a\x4d\x18" + (8).to_bytes(4, "little") + b"whatever"


def with_dictionary(text: bytes | None = None) -> bytes:
    """Return a frame that needs a dictionary that no reader has, and is good but for that."""
    samples: list[bytes | bytearray | memoryview] = [
        b"[%d,[[%d,512]],-1,0,0,null]" % (n, n * 512) for n in range(2000)
    ]
    dictionary = zstandard.train_dictionary(4096, samples)
    made = frame(bytes(samples[7]) if text is None else text, dict_data=dictionary)
    assert zstandard.get_frame_parameters(made).dict_id
    return made
