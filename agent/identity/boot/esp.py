"""The EFI system partitions of one system, kept equal: any of the disks may be the one left."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agent.errors import AgentError
from agent.system.command import Runner
from agent.system.mount import TARGET_OPTIONS, mounted

_LEG: Final = Path("/run/metalcast/esp-leg")
_MOST_BYTES: Final = 2 * 1024**3


def copy_esp(run: Runner, source: Path, legs: Sequence[Path], where: Path = _LEG) -> None:
    """Make the files of each FAT filesystem in `legs` those of the mounted ESP at `source`.

    What is on a leg and not in `source` goes. Raises AgentError, also if a leg is too small.
    """
    for leg in legs:
        with mounted(run, leg, where, "vfat", TARGET_OPTIONS):
            try:
                make_equal(source, where)
            except OSError as error:
                raise AgentError(f"could not fill the ESP on {leg}: {error.strerror}") from error


def make_equal(source: Path, target: Path) -> None:
    """Make the files below `target` those below `source`. FAT has files and folders only."""
    wanted = {path.relative_to(source) for path in _below(source)}
    for path in sorted(_below(target), reverse=True):
        if path.relative_to(target) not in wanted:
            path.rmdir() if path.is_dir() else path.unlink()
    for relative in sorted(wanted):
        here, there = source / relative, target / relative
        if here.is_dir():
            there.mkdir(exist_ok=True)
        elif here.stat().st_size > _MOST_BYTES:
            raise AgentError(f"{relative} on the ESP has {here.stat().st_size} bytes")
        else:
            shutil.copyfile(here, there)
    os.sync()


def _below(top: Path) -> list[Path]:
    return [
        path
        for path in top.rglob("*")
        if not path.is_symlink() and (path.is_dir() or path.is_file())
    ]
