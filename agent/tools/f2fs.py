"""F2FS: what is used, by its own segment table; check, grow and make.

The segment table has two copies of each block; the newer checkpoint says which one counts, and
holds the changes that are in neither.
"""

import os
import struct
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import AgentError, DiskError, SourceUnfit
from agent.model.extents import Extents
from agent.system import block
from agent.system.command import Runner
from agent.tools.bitmaps import clear_runs, mirrored, read_at

CHECK_TIMEOUT_S: Final = 4 * 3600.0
_SUPER_AT: Final = 1024
_MAGIC: Final = 0xF2F52010
BLOCK_BYTES: Final = 4096
_SEGMENT_BLOCKS: Final = 512
_ENTRY_BYTES: Final = 74
_PER_BLOCK: Final = 55
_JOURNAL_BYTES: Final = 507
_SUM_ENTRIES_BYTES: Final = 3584
_CURRENT_SEGMENTS: Final = 6
_COLD_DATA: Final = 2
_UMOUNT: Final = 0x1
_COMPACT: Final = 0x4
_ERROR: Final = 0x8
_FSCK: Final = 0x10
_LARGE_NAT: Final = 0x400
_UNKNOWN_FEATURES: Final = ~0x2FFD
"""Zoned devices, read-only images and what came later keep their segments in another way."""


@dataclass(frozen=True, slots=True)
class F2fsFacts:
    """The superblock and the newer checkpoint. Addresses are in blocks of 4096 bytes."""

    uuid: str
    label: str
    size_bytes: int
    valid_blocks: int
    """In use, or promised to a file."""
    main_block: int
    main_segments: int
    table_block: int
    table_segments: int
    flags: int
    features: int
    devices: int
    checkpoint: bytes
    checkpoint_block: int
    payload_blocks: int

    @property
    def used_bytes(self) -> int:
        return (self.main_block + self.valid_blocks) * BLOCK_BYTES

    @property
    def is_readable(self) -> bool:
        """Whether we know how this one keeps its segments."""
        return self.devices <= 1 and not self.features & _UNKNOWN_FEATURES

    @property
    def is_clean(self) -> bool:
        return self.flags & (_UMOUNT | _ERROR | _FSCK) == _UMOUNT


def f2fs_facts(device: Path) -> F2fsFacts:
    """Return what `device` says of itself. Raises AgentError if it is no F2FS of 4096 bytes."""
    with block.opened(device, os.O_RDONLY) as fd:
        return _facts(fd, device)


def used_extents(device: Path, facts: F2fsFacts) -> Extents:
    """Return the used runs: all before the main area, and each valid block of it.

    Raises SourceUnfit where a segment's count and bitmap disagree.
    """
    with block.opened(device, os.O_RDONLY) as fd:
        maps = _segments(fd, device, facts)
        runs = clear_runs(maps, facts.main_segments * _SEGMENT_BLOCKS)
        begin = facts.main_block
        free = (((begin + first) * BLOCK_BYTES, (begin + end) * BLOCK_BYTES) for first, end in runs)
        main_end = (begin + facts.main_segments * _SEGMENT_BLOCKS) * BLOCK_BYTES
        used = Extents.between(free, main_end)
    if used.total_bytes > facts.used_bytes:
        raise SourceUnfit(
            (f"more blocks of {device} are marked as used than its checkpoint counts",),
            hint=f"run: fsck.f2fs -f {device}",
        )
    return used


def check_fit(facts: F2fsFacts, device: Path) -> None:
    """Raise SourceUnfit, with the command that helps, unless it was unmounted cleanly."""
    if not facts.is_clean:
        raise SourceUnfit(
            (f"the F2FS filesystem on {device} was not unmounted cleanly",),
            hint="start that system and shut it down cleanly, or mount and unmount "
            f"{device} once; if that is not enough, run: fsck.f2fs -f {device}",
        )


def check_f2fs(run: Runner, device: Path) -> None:
    """Check all of it without writing. Raises DiskError if anything is wrong."""
    answer = run(["fsck.f2fs", "--dry-run", device], ok=range(256), timeout_s=CHECK_TIMEOUT_S)
    if answer.status != 0 or "[Fail]" in answer.text or "[ASSERT]" in answer.text:
        lines = [line for line in (answer.text + answer.stderr).splitlines() if "[" in line]
        raise DiskError(f"the F2FS filesystem on {device} is damaged: {' | '.join(lines[-4:])}")


def grow_f2fs(run: Runner, device: Path) -> None:
    """Let the filesystem take all of its device. It is not mounted."""
    run(["resize.f2fs", device], timeout_s=CHECK_TIMEOUT_S)


def make_f2fs(run: Runner, device: Path, *, uuid: str, label: str) -> None:
    """Make an empty F2FS without any feature that came after the first release."""
    words: list[str | Path] = ["mkfs.f2fs", "-q", "-f", "-t", "0", "-U", uuid]
    if label:
        words += ["-l", label]
    run([*words, device], timeout_s=CHECK_TIMEOUT_S)


def _facts(fd: int, device: Path) -> F2fsFacts:
    data = read_at(fd, _SUPER_AT, 3072, device)
    magic = int.from_bytes(data[:4], "little")
    log_block, log_segment = struct.unpack_from("<II", data, 16)
    if magic != _MAGIC:
        raise AgentError(f"{device} holds no F2FS filesystem")
    if (1 << log_block, 1 << log_segment) != (BLOCK_BYTES, _SEGMENT_BLOCKS):
        raise AgentError(f"the F2FS filesystem on {device} has blocks of {1 << log_block} bytes")
    blocks = struct.unpack_from("<Q", data, 36)[0]
    (table_segments,) = struct.unpack_from("<I", data, 56)
    main_segments, _, checkpoints, table, _, _, main = struct.unpack_from("<7I", data, 68)
    if (main + main_segments * _SEGMENT_BLOCKS) > blocks or not table < main:
        raise AgentError(f"the superblock of {device} cannot be right")
    found = [
        pack
        for at in (checkpoints, checkpoints + _SEGMENT_BLOCKS)
        if (pack := _checkpoint(fd, device, at))
    ]
    if not found:
        raise AgentError(f"{device} has no checkpoint that can be used")
    at, checkpoint = max(found, key=lambda one: int.from_bytes(one[1][:8], "little"))
    (payload,) = struct.unpack_from("<I", data, 1664)
    return F2fsFacts(
        uuid=str(uuid.UUID(bytes=data[108:124])),
        label=data[124:1148].decode("utf-16-le", "replace").split("\0")[0],
        size_bytes=blocks * BLOCK_BYTES,
        valid_blocks=struct.unpack_from("<Q", checkpoint, 16)[0],
        main_block=main,
        main_segments=main_segments,
        table_block=table,
        table_segments=table_segments,
        flags=struct.unpack_from("<I", checkpoint, 132)[0],
        features=struct.unpack_from("<I", data, 2180)[0],
        devices=sum(data[2201 + 68 * n] != 0 for n in range(8)),
        checkpoint=checkpoint + read_at(fd, (at + 1) * BLOCK_BYTES, payload * BLOCK_BYTES, device)
        if payload
        else checkpoint,
        checkpoint_block=at,
        payload_blocks=payload,
    )


def _checkpoint(fd: int, device: Path, at: int) -> tuple[int, bytes] | None:
    """Return (`at`, its first block) if the pack of blocks there was written to its end."""
    first = read_at(fd, at * BLOCK_BYTES, BLOCK_BYTES, device)
    (count,) = struct.unpack_from("<I", first, 136)
    if not 2 <= count <= _SEGMENT_BLOCKS or not _sum_is_right(first):
        return None
    last = read_at(fd, (at + count - 1) * BLOCK_BYTES, BLOCK_BYTES, device)
    return (at, first) if _sum_is_right(last) and last[:8] == first[:8] else None


def _sum_is_right(data: bytes) -> bool:
    (where,) = struct.unpack_from("<I", data, 164)
    if not 192 <= where <= BLOCK_BYTES - 4:
        return False
    total = zlib.crc32(data[:where], _MAGIC ^ 0xFFFFFFFF)
    total = zlib.crc32(data[where + 4 :], total) if where < BLOCK_BYTES - 4 else total
    return total ^ 0xFFFFFFFF == int.from_bytes(data[where : where + 4], "little")


def _segments(fd: int, device: Path, facts: F2fsFacts) -> Iterator[bytes]:
    """Yield the bitmap of each segment of the main area, the lowest bit first."""
    journal = _journal(fd, device, facts)
    chosen = _chosen(facts)
    half = facts.table_segments // 2 * _SEGMENT_BLOCKS
    for number in range(-(-facts.main_segments // _PER_BLOCK)):
        second = chosen[number // 8] >> (7 - number % 8) & 1
        at = (facts.table_block + number + (half if second else 0)) * BLOCK_BYTES
        data = read_at(fd, at, BLOCK_BYTES, device)
        first = number * _PER_BLOCK
        for segment in range(first, min(first + _PER_BLOCK, facts.main_segments)):
            place = (segment - first) * _ENTRY_BYTES
            entry = journal.get(segment) or data[place : place + _ENTRY_BYTES]
            count = int.from_bytes(entry[:2], "little") & 0x3FF
            bits = entry[2:66]
            if int.from_bytes(bits, "little").bit_count() != count:
                raise SourceUnfit(
                    (f"segment {segment} of {device} has not as many used blocks as it says",),
                    hint=f"run: fsck.f2fs -f {device}",
                )
            yield mirrored(bits)


def _chosen(facts: F2fsFacts) -> bytes:
    """Return which copy of each block of the segment table counts, the highest bit first."""
    size, other = struct.unpack_from("<II", facts.checkpoint, 156)
    if facts.flags & _LARGE_NAT:
        at = 192 + 4 + other
    elif facts.payload_blocks:
        at = BLOCK_BYTES
    else:
        at = 192
    found = facts.checkpoint[at : at + size]
    if len(found) * 8 < -(-facts.main_segments // _PER_BLOCK):
        raise AgentError("the checkpoint's map of the segment table is too short")
    return found


def _journal(fd: int, device: Path, facts: F2fsFacts) -> dict[int, bytes]:
    """Return the entries that the checkpoint holds in place of those of the table."""
    total, start = struct.unpack_from("<II", facts.checkpoint, 136)
    if facts.flags & _COMPACT:
        at, skip = facts.checkpoint_block + start, _JOURNAL_BYTES
    else:
        before = _CURRENT_SEGMENTS + 1 - _COLD_DATA
        at, skip = facts.checkpoint_block + total - before, _SUM_ENTRIES_BYTES
    data = read_at(fd, at * BLOCK_BYTES, BLOCK_BYTES, device)[skip:]
    (count,) = struct.unpack_from("<H", data)
    size = 4 + _ENTRY_BYTES
    if 2 + count * size > _JOURNAL_BYTES:
        raise AgentError(f"the journal of the segment table on {device} cannot be right")
    found = {}
    for number in range(count):
        entry = data[2 + number * size : 2 + (number + 1) * size]
        found[int.from_bytes(entry[:4], "little")] = entry[4:]
    return found
