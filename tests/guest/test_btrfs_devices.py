"""A btrfs on several devices: of each, what is used comes back on garbage, and all is there."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from agent.model.layout import Btrfs, Raw
from agent.stream.usedmap import used_map
from agent.system import block
from agent.system.command import Run
from agent.units import MiB
from tests.guest import SCRATCH_BYTES
from tests.guest.conftest import sh
from tests.guest.test_filesystems import UUID, Kind, digest, facts, fill

_KIND = Kind(Btrfs(uuid=UUID, label="", block_bytes=4096))
_SUPER_AT = 64 * 1024
# Of data and of metadata.
PROFILES = {
    "single": ("single", "raid1"),
    "raid0": ("raid0", "raid0"),
    "raid1c3": ("raid1", "raid1c3"),
    "raid10": ("raid10", "raid10"),
    "raid5": ("raid5", "raid5"),
    "raid6": ("raid6", "raid6"),
}


@pytest.fixture
def where(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "mounted"
    place.mkdir()
    yield place
    subprocess.run(["umount", place], check=False, capture_output=True)


def mount(devices: Sequence[Path], where: Path, options: str) -> None:
    named = ",".join([options, *(f"device={one}" for one in devices)])
    sh("mount", "-t", "btrfs", "-o", named, devices[0], where)


def make(devices: Sequence[Path], data: str, metadata: str) -> None:
    sh("mkfs.btrfs", "--quiet", f"--data={data}", f"--metadata={metadata}", *devices)


def used_bytes(device: Path) -> int:
    with used_map(Run(), device, Raw(), block.size_bytes(device)) as found:
        found.confirm()
        return found.extents.total_bytes


def used_parts(device: Path) -> list[tuple[int, bytes]]:
    """Return (offset, bytes) of what is used of `device`."""
    with used_map(Run(), device, Raw(), block.size_bytes(device)) as found:
        found.confirm()
        used = found.extents
    with device.open("rb") as file:
        parts = []
        for extent in used:
            file.seek(extent.offset)
            parts.append((extent.offset, file.read(extent.size)))
    return parts


def put_on_garbage(device: Path, parts: list[tuple[int, bytes]]) -> None:
    with device.open("r+b", buffering=0) as file:
        for _ in range(SCRATCH_BYTES // (8 * MiB)):
            file.write(b"\xa5" * (8 * MiB))
        for offset, data in parts:
            file.seek(offset)
            file.write(data)
        os.fsync(file.fileno())
    block.flush(device)


@pytest.mark.parametrize("name", PROFILES)
def test_what_is_used_of_each_device_is_the_filesystem(
    name: str, scratch: list[Path], where: Path
) -> None:
    make(scratch, *PROFILES[name])
    mount(scratch, where, "rw")
    fill(where, _KIND)
    sh("umount", where)
    mount(scratch, where, "ro")
    before = digest(where, _KIND)
    sh("umount", where)
    assert len(before) > 230
    for device in scratch:
        assert facts(device).unfit == ()

    saved = [used_parts(device) for device in scratch]
    for device, parts in zip(scratch, saved, strict=True):
        assert sum(len(data) for _, data in parts) < SCRATCH_BYTES / 4
        put_on_garbage(device, parts)
    sh("btrfs", "check", "--readonly", scratch[0])
    mount(scratch, where, "rw")
    assert digest(where, _KIND) == before
    # reads every copy and all parity, and compares it
    sh("btrfs", "scrub", "start", "-B", "-r", where)
    errors = sh("btrfs", "device", "stats", "--check", where)
    assert all(line.split()[-1] == "0" for line in errors.splitlines())
    sh("umount", where)


def test_without_one_of_its_devices_it_is_kept_whole(scratch: list[Path]) -> None:
    make(scratch, "raid1", "raid1")
    assert used_bytes(scratch[0]) < SCRATCH_BYTES / 4
    sh("wipefs", "--all", "--quiet", scratch[2])
    assert used_bytes(scratch[0]) == SCRATCH_BYTES


def test_when_one_of_its_devices_was_away_it_is_kept_whole(
    scratch: list[Path], where: Path
) -> None:
    make(scratch, "raid1", "raid1")
    with scratch[2].open("rb") as file:
        file.seek(_SUPER_AT)
        old = file.read(4096)
    mount(scratch, where, "rw")
    (where / "file").write_bytes(b"later")
    sh("umount", where)
    assert used_bytes(scratch[0]) < SCRATCH_BYTES / 4
    with scratch[2].open("r+b") as file:
        file.seek(_SUPER_AT)
        file.write(old)
    block.flush(scratch[2])
    assert used_bytes(scratch[0]) == SCRATCH_BYTES
