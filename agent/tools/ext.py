"""ext2, ext3, ext4: check, grow, and the smallest size that the content needs."""

import re
import threading
from pathlib import Path
from typing import Final

from agent.errors import DiskError
from agent.system.command import Runner

CHECK_TIMEOUT_S: Final = 4 * 3600.0
_CORRECTED: Final = 1
_REBOOT: Final = 2


def check_ext(run: Runner, device: Path, stop: threading.Event | None = None) -> None:
    """Check the whole filesystem without writing. Raises DiskError if anything is wrong."""
    words: list[str | Path] = ["e2fsck", "-f", "-n", device]
    answer = run(words, ok=range(256), timeout_s=CHECK_TIMEOUT_S, stop=stop)
    if answer.status != 0:
        said = " | ".join(line for line in answer.text.splitlines()[-6:] if line.strip())
        raise DiskError(f"the filesystem on {device} is damaged: {said}")


def grow_ext(run: Runner, device: Path) -> None:
    """Let the filesystem take all of its device.

    resize2fs wants a full check right before; errors that e2fsck cannot mend by itself stop us.
    """
    answer = run(
        ["e2fsck", "-f", "-p", device],
        ok=(0, _CORRECTED, _REBOOT, _CORRECTED | _REBOOT, 4, 5, 6, 7, 8),
        timeout_s=CHECK_TIMEOUT_S,
    )
    if answer.status >= 4:
        raise DiskError(f"the filesystem on {device} is damaged: {answer.text.strip()[-300:]}")
    run(["resize2fs", device], timeout_s=CHECK_TIMEOUT_S)


def minimum_bytes(run: Runner, device: Path, block_bytes: int) -> int | None:
    """Return resize2fs's estimate of the smallest size, None if it gives none."""
    answer = run(["resize2fs", "-P", device], ok=range(256), timeout_s=600)
    found = re.search(r"minimum size of the filesystem: (\d+)", answer.text)
    return int(found[1]) * block_bytes if answer.status == 0 and found else None
