"""Disks of test machines: sparse raw files, always opened by QEMU as raw."""

import hashlib
import os
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from agent.units import KiB, MiB

_PIECE = 4 * MiB
_ZEROS = bytes(_PIECE)


def make_disk(path: Path, size_bytes: int) -> Path:
    """Make an empty sparse disk of `size_bytes`."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


def data_runs(path: Path) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the runs of the file that are not holes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        at = 0
        while at < size:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return  # nothing but a hole up to the end
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            yield start, at


def disk_digest(path: Path) -> str:
    """Return a digest of what the disk holds: its size and every 4 MiB that is not all zeros.

    A hole and written zeros are the same, as they are to whoever reads the disk.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(struct.pack("<Q", size))
    with path.open("rb") as file:
        done = -1
        for start, end in data_runs(path):
            for piece in range(max(start // _PIECE, done + 1), (end - 1) // _PIECE + 1):
                file.seek(piece * _PIECE)
                data = file.read(_PIECE)
                done = piece
                if data != _ZEROS[: len(data)]:
                    digest.update(struct.pack("<Q", piece) + data)
    return digest.hexdigest()


def copy_disk(source: Path, target: Path) -> Path:
    """Copy a disk and keep its holes."""
    make_disk(target, source.stat().st_size)
    with source.open("rb") as reader, target.open("r+b") as writer:
        for start, end in data_runs(source):
            reader.seek(start)
            writer.seek(start)
            while start < end:
                data = reader.read(min(_PIECE, end - start))
                writer.write(data)
                start += len(data)
    return target


def find_bytes(path: Path, needle: bytes) -> int | None:
    """Return where on the disk `needle` first is, or None."""
    with path.open("rb") as file:
        for start, end in data_runs(path):
            file.seek(start)
            at, carried = start, b""
            while at < end:
                data = carried + file.read(min(_PIECE, end - at))
                if (found := data.find(needle)) >= 0:
                    return at - len(carried) + found
                at += len(data) - len(carried)
                carried = data[-(len(needle) - 1) :]
    return None


def make_dirty_disk(path: Path, size_bytes: int, seed: int = 1) -> Path:
    """Make a disk with a past: noise, and the marks of what once was on it.

    A GPT at its end (the one at its start half overwritten), an ext4 superblock where a first
    partition begins, md superblocks of metadata 0.90 and 1.0 at its end.
    """
    noise = random.Random(seed)
    make_disk(path, size_bytes)
    with path.open("r+b") as file:
        places = [MiB, *(noise.randrange(MiB, size_bytes - 16 * MiB) & ~4095 for _ in range(24))]
        places.append(size_bytes - 9 * MiB)
        for place in places:
            file.seek(place)
            file.write(noise.randbytes(8 * MiB))
        file.seek(0)
        file.write(noise.randbytes(440))
        file.seek(MiB + KiB)
        file.write(_ext4_superblock(noise, size_bytes))
        file.seek((size_bytes & ~0xFFFF) - 0x10000)
        file.write(_md_090_superblock(noise, size_bytes))
        at = ((size_bytes // 512 - 16) & ~7) * 512
        file.seek(at)
        file.write(_md_10_superblock(noise, size_bytes, at // 512))
        file.seek(size_bytes - 33 * 512)
        file.write(_backup_gpt(noise, size_bytes))
    return path


def _ext4_superblock(noise: random.Random, size_bytes: int) -> bytes:
    block = bytearray(KiB)
    struct.pack_into("<5I", block, 0, 65536, (size_bytes - 2 * MiB) // 4096, 0, 1000, 60000)
    struct.pack_into("<7I", block, 20, 0, 2, 2, 32768, 32768, 8192, 0)
    struct.pack_into("<HHH", block, 0x38, 0xEF53, 1, 1)
    struct.pack_into("<I", block, 0x4C, 1)
    struct.pack_into("<3I", block, 0x5C, 0x3C, 0x42, 0x7B)
    block[0x68:0x78] = noise.randbytes(16)
    block[0x78:0x7C] = b"boot"
    return bytes(block)


def _md_090_superblock(noise: random.Random, size_bytes: int) -> bytes:
    block = bytearray(4096)
    struct.pack_into("<5I", block, 0, 0xA92B4EFC, 0, 90, 0, 0)
    struct.pack_into("<I", block, 20, noise.getrandbits(32))
    struct.pack_into("<5I", block, 28, 1, size_bytes // KiB - 64, 2, 2, 0)
    return bytes(block)


def _md_10_superblock(noise: random.Random, size_bytes: int, sector: int) -> bytes:
    block = bytearray(256 + 2 * 2)
    struct.pack_into("<2I", block, 0, 0xA92B4EFC, 1)
    block[16:32] = noise.randbytes(16)
    block[32:42] = b"old-server"
    struct.pack_into("<QIIQII", block, 64, 0, 1, 0, size_bytes // 512 - 32, 0, 2)
    struct.pack_into("<QQQ", block, 128, 0, size_bytes // 512 - 32, sector)
    struct.pack_into("<I", block, 220, 2)  # two roles follow the header
    words = sum(struct.unpack_from(f"<{len(block) // 4}I", block))
    struct.pack_into("<I", block, 216, (words & 0xFFFFFFFF) + (words >> 32))
    return bytes(block)


def _backup_gpt(noise: random.Random, size_bytes: int) -> bytes:
    last = size_bytes // 512 - 1
    entries = bytearray(32 * 512)
    linux = bytes.fromhex("af3dc60f838472478e793d69d8477de4")
    entries[:16], entries[16:32] = linux, noise.randbytes(16)
    struct.pack_into("<QQ", entries, 32, 2048, last - 2048)
    header = bytearray(512)
    struct.pack_into(
        "<8sIIIIQQQQ16sQIII", header, 0, b"EFI PART", 0x10000, 92, 0, 0, last, 1, 34, last - 33,
        noise.randbytes(16), last - 32, 128, 128, zlib.crc32(entries),
    )  # fmt: skip
    struct.pack_into("<I", header, 16, zlib.crc32(bytes(header[:92])))
    return bytes(entries + header)
