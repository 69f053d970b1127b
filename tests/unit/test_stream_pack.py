"""Frames: one chunk in, the same chunk out, and nothing else accepted."""

import io
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import ChunkCorrupt
from agent.model import wire
from agent.model.template import (
    ARTIFACT_TYPE,
    CHUNK_BYTES,
    CONFIG_TYPE,
    FROM_ANNOTATION,
    MANIFEST_MAX_BYTES,
    MANIFEST_TYPE,
    PACK_MAX_BYTES,
    PACK_TYPE,
    TITLE_ANNOTATION,
    VOLUME_ANNOTATION,
    Descriptor,
    Manifest,
)
from agent.store.pack import (
    MAX_STORED_BYTES,
    BlobWriter,
    Decoder,
    Encoder,
    PackWriter,
    pack_target_bytes,
)
from agent.units import GiB, MiB, TiB


def decoded(stored: bytes, size: int) -> bytes:
    into = bytearray(size)
    Decoder().decode(memoryview(stored), memoryview(into))
    return bytes(into)


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=1, max_size=5000), st.integers(1, 300), st.sampled_from([1, 3, 19]))
def test_a_frame_holds_what_went_in(data: bytes, times: int, level: int) -> None:
    content = data * times
    assert decoded(Encoder(level).encode(content), len(content)) == content


@pytest.mark.parametrize("level", [1, 3, 19])
def test_a_chunk_of_random_bytes_stays_below_the_limit(level: int) -> None:
    content = random.Random(1).randbytes(CHUNK_BYTES)
    stored = Encoder(level).encode(content)
    assert CHUNK_BYTES < len(stored) <= MAX_STORED_BYTES
    assert decoded(stored, CHUNK_BYTES) == content


def test_a_pack_is_one_zst_file() -> None:
    frames = [Encoder(3).encode(piece) for piece in (b"one", b"two", bytes(9))]
    reader = zstandard.ZstdDecompressor().stream_reader(
        io.BytesIO(b"".join(frames)), read_across_frames=True
    )
    assert reader.read() == b"onetwo" + bytes(9)


CONTENT = random.Random(2).randbytes(3000) * 3
GOOD = Encoder(3).encode(CONTENT)


def unchecked() -> bytes:
    return zstandard.ZstdCompressor(write_checksum=False).compress(CONTENT)


def wide() -> bytes:
    parameters = zstandard.ZstdCompressionParameters(
        window_log=24, write_checksum=True, write_content_size=True
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=32 * MiB)
    return compressor.compress(bytes(32 * MiB)) + compressor.flush()


def streamed() -> bytes:
    compressor = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    return compressor.compress(CONTENT) + compressor.flush()


def with_dictionary() -> bytes:
    samples: list[bytes | bytearray | memoryview] = [b"sample %d " % n * 9 for n in range(2000)]
    dictionary = zstandard.train_dictionary(4096, samples)
    return zstandard.ZstdCompressor(write_checksum=True, dict_data=dictionary).compress(CONTENT)


BAD = {
    "nothing": (b"", "is not zstd"),
    "short by one": (GOOD[:-1], "ends at"),
    "long by one": (GOOD + b"x", "ends at"),
    "twice": (GOOD + GOOD, "ends at"),
    "a skippable frame behind": (GOOD + struct.pack("<II", 0x184D2A50, 4) + b"abcd", "ends at"),
    "a skippable frame": (struct.pack("<II", 0x184D2A50, 4) + b"abcd", "declares|not zstd"),
    "not zstd": (b"hello, world", "is not zstd"),
    "no checksum": (unchecked(), "carries no checksum"),
    "no size": (streamed(), "declares"),
    "a dictionary": (with_dictionary(), "wants a dictionary"),
    "other size": (Encoder(3).encode(CONTENT + b"x"), "declares 9001 bytes, not 9000"),
    "wrong checksum": (GOOD[:-4] + bytes(4), "checksum"),
    "cut in a block": (GOOD[:100], "ends at|cut short"),
}


@pytest.mark.parametrize("name", BAD)
def test_anything_but_one_whole_frame_is_refused(name: str) -> None:
    stored, message = BAD[name]
    with pytest.raises(ChunkCorrupt, match=message):
        decoded(stored, len(CONTENT))


def test_a_bomb_is_refused_by_what_it_declares() -> None:
    bomb = Encoder(3).encode(bytes(256 * MiB))
    assert len(bomb) < 64 * 1024
    with pytest.raises(ChunkCorrupt, match="declares 268435456 bytes, not 4194304"):
        decoded(bomb, CHUNK_BYTES)


def test_a_window_too_large_is_refused_before_it_is_allocated() -> None:
    with pytest.raises(ChunkCorrupt, match="wants a window of 16777216 bytes"):
        decoded(wide(), 32 * MiB)


def test_no_flipped_bit_passes() -> None:
    draw = random.Random(3)
    for _ in range(300):
        damaged = bytearray(GOOD)
        damaged[draw.randrange(len(GOOD))] ^= 1 << draw.randrange(8)
        try:
            same = decoded(bytes(damaged), len(CONTENT)) == CONTENT
        except ChunkCorrupt:
            continue
        assert same  # a bit that zstd does not look at


@dataclass
class Kept:
    """An upload that remembers its pieces."""

    pieces: list[bytes] = field(default_factory=list)
    digest: str = ""

    def append(self, *parts: bytes) -> None:
        self.pieces.append(b"".join(parts))

    def finish(self, digest: str) -> None:
        self.digest = digest

    def cancel(self) -> None:
        pass


def test_a_blob_goes_in_pieces_and_its_digest_comes_last() -> None:
    kept = Kept()
    blob = BlobWriter(kept, piece_bytes=10)
    for _ in range(7):
        blob.write(b"abcd")
    layer = blob.finish(PACK_TYPE, {})
    assert [len(piece) for piece in kept.pieces] == [12, 12, 4]
    assert layer.size == 28
    assert layer.digest == kept.digest
    assert kept.digest == f"sha256:{sha256(b'abcd' * 7).hexdigest()}"


def test_packs_roll_over_at_the_first_chunk_that_fills_them() -> None:
    finished: list[int] = []
    packs = PackWriter(
        lambda: BlobWriter(Kept()), lambda pack: finished.append(pack.size), target_bytes=100
    )
    offsets: Iterator[int] = (packs.add(bytes(size)) for size in (60, 39, 1, 150, 20))
    assert list(offsets) == [0, 60, 99, 0, 0]
    packs.close()
    packs.close()
    assert finished == [100, 150, 20]


@pytest.mark.parametrize(
    ("used", "target", "packs"),
    [
        (0, 256 * MiB, 0),
        (GiB, 256 * MiB, 4),
        (2 * TiB, 256 * MiB, 8192),
        (2 * TiB + 1, 257 * MiB, 8161),
        (8 * TiB, GiB, 8192),
        (32 * TiB, 4 * GiB, 8192),
        (1024 * TiB, 4 * GiB, 262144),
    ],
)
def test_packs_are_as_large_as_a_manifest_needs_them(used: int, target: int, packs: int) -> None:
    """Beyond 32 TiB, which no pack may be large enough for, they are as large as may be."""
    assert pack_target_bytes(used) == target
    assert -(-used // target) == packs
    PackWriter(lambda: BlobWriter(Kept()), lambda _: None, target)
    assert target + MAX_STORED_BYTES <= PACK_MAX_BYTES


@pytest.mark.parametrize("used", [GiB, 2 * TiB, 3 * TiB + 1, 8 * TiB, 20 * TiB, 32 * TiB])
def test_a_manifest_has_room_for_the_packs_of(used: int) -> None:
    target = pack_target_bytes(used)
    volume = "v" * 64
    digest = "sha256:" + "ab" * 32
    layers = tuple(
        Descriptor(
            media_type=PACK_TYPE,
            digest=digest,
            size=target + MAX_STORED_BYTES,
            annotations={
                VOLUME_ANNOTATION: volume,
                TITLE_ANNOTATION: f"{volume}.{number:05}.pack.zst",
                FROM_ANNOTATION: digest,
            },
        )
        for number in range(-(-used // target))
    )
    manifest = Manifest(
        schema_version=2,
        media_type=MANIFEST_TYPE,
        artifact_type=ARTIFACT_TYPE,
        config=Descriptor(media_type=CONFIG_TYPE, digest=digest, size=1000),
        layers=layers,
    )
    assert len(wire.encode(manifest)) <= MANIFEST_MAX_BYTES - 64 * 1024, "and their indexes"
