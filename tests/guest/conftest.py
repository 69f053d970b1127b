"""Disks to spoil."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_BY_ID = Path("/dev/disk/by-id")


@pytest.fixture
def scratch() -> Iterator[list[Path]]:
    """Three blank disks with sectors of 512 bytes."""
    yield from _blank("SCRATCH-0", "SCRATCH-1", "SCRATCH-2")


@pytest.fixture
def scratch_4k() -> Iterator[Path]:
    """A blank disk with sectors of 4096 bytes."""
    for found in _blank("SCRATCH-4K"):
        yield found[0]


@pytest.fixture
def mounted_on(tmp_path: Path) -> Iterator[Path]:
    """A folder to mount on; what is left there is unmounted."""
    where = tmp_path / "mounted"
    where.mkdir()
    yield where
    subprocess.run(["umount", where], check=False, capture_output=True)


def _blank(*serials: str) -> Iterator[list[Path]]:
    disks = [(_BY_ID / f"virtio-{serial}").resolve() for serial in serials]
    for disk in disks:
        sh("wipefs", "--all", "--force", disk)
        sh("blkdiscard", "--zeroout", disk)
    sh("udevadm", "settle")
    yield disks
    subprocess.run(["umount", "--all", "--types", "ext4,vfat,xfs"], check=False)
    subprocess.run(["vgchange", "--activate", "n"], check=False, capture_output=True)
    subprocess.run(["dmsetup", "remove_all"], check=False, capture_output=True)
    subprocess.run(["mdadm", "--stop", "--scan"], check=False, capture_output=True)
    sh("udevadm", "settle")


def sh(*words: str | Path, stdin: str | None = None) -> str:
    """Run a program; return what it printed. What it said on stderr is in the failure."""
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, input=stdin)
    assert done.returncode == 0, f"{words[0]}: {done.stderr}"
    return done.stdout
