"""Digests of chunks. An index names the algorithm of both digests that its entries carry.

BLAKE3 since format 2: three times the speed of SHA-256 where the CPU has instructions for that,
eleven times where it has not (docs/performance.md). Blobs keep SHA-256, as OCI wants.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Final

from blake3 import blake3

Bytes = bytes | bytearray | memoryview
ChunkDigest = Callable[[Bytes], str]
"""Returns 64 lower-case hexadecimal digits. Releases Python's lock while it works."""

DIGEST: Final = "blake3"
"""What we write."""


def _sha256(data: Bytes) -> str:
    return sha256(data).hexdigest()


def _blake3(data: Bytes) -> str:
    return blake3(data).hexdigest()


CHUNK_DIGESTS: Final[Mapping[str, ChunkDigest]] = {"blake3": _blake3, "sha256": _sha256}


@lru_cache(maxsize=64)
def zeros_digest(algorithm: str, size: int) -> str:
    """Return the digest of `size` zeros."""
    return CHUNK_DIGESTS[algorithm](bytes(size))
