"""mkfs.fat(8) and fsck.fat(8): a FAT for the sectors of its disk, and a check."""

import threading
from pathlib import Path
from typing import Final

from agent.errors import DiskError
from agent.system.command import Runner

CHECK_TIMEOUT_S: Final = 3600.0
_FAT32_CLUSTERS: Final = 65525
"""With fewer, firmware takes the table for one of 16 bits, whatever the boot sector says."""
_BIG_BYTES: Final = 512 * 1024 * 1024
_HEAD_SECTORS: Final = 2048
"""At least as many as the tables of the smallest FAT32 take, and what lies before them."""


def fat_bits(size_bytes: int, sector_bytes: int, wanted: int) -> int:
    """Return 32 or 16: `wanted` (0 for no wish) unless a FAT32 would have too few clusters."""
    room = size_bytes // sector_bytes - _HEAD_SECTORS
    if room < _FAT32_CLUSTERS:
        return 16
    return 32 if wanted == 32 or size_bytes >= _BIG_BYTES else 16


def fat_words(
    device: Path, *, uuid: str, label: str, bits: int, size_bytes: int, sector_bytes: int
) -> list[str | Path]:
    """Return the command that makes a FAT with the volume id `uuid`: `93E1-EE89`."""
    chosen = fat_bits(size_bytes, sector_bytes, bits)
    words: list[str | Path] = ["mkfs.fat", "-S", str(sector_bytes), "-I"]
    if size_bytes > 16 * 1024 * 1024:  # smaller ones become what mkfs.fat thinks best
        words += ["-F", str(chosen)]
    if chosen == 32 and size_bytes // sector_bytes < 8 * _FAT32_CLUSTERS:
        words += ["-s", "1"]
    if uuid:
        words += ["-i", uuid.replace("-", "").lower()]
    if label:
        words += ["-n", label]
    return [*words, device]


def make_fat(
    run: Runner,
    device: Path,
    *,
    uuid: str,
    label: str,
    bits: int,
    size_bytes: int,
    sector_bytes: int,
) -> None:
    """Make an empty FAT whose sectors are those of its disk."""
    run(
        fat_words(
            device,
            uuid=uuid,
            label=label,
            bits=bits,
            size_bytes=size_bytes,
            sector_bytes=sector_bytes,
        )
    )


def check_fat(run: Runner, device: Path, stop: threading.Event | None = None) -> None:
    """Check without writing. Raises DiskError if anything is wrong."""
    answer = run(["fsck.fat", "-n", device], ok=range(256), timeout_s=CHECK_TIMEOUT_S, stop=stop)
    if answer.status != 0:
        said = " | ".join((answer.text + answer.stderr).splitlines()[-4:])
        raise DiskError(f"the FAT filesystem on {device} is damaged: {said}")
