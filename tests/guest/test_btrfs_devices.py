"""A btrfs on several devices: of each, what is used comes back on garbage, and all is there."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.model.extents import Extents
from agent.model.found import FoundContent
from agent.model.layout import Btrfs, BtrfsDevice, Raw
from agent.source.open import opened_system
from agent.stream.usedmap import used_map
from agent.system import block
from agent.system.command import Run
from tests.guest import SCRATCH_BYTES, workbench
from tests.guest.conftest import sh
from tests.guest.test_filesystems import UUID, Kind, digest, fill, spoil
from tests.guest.whole_way import shortened
from tests.guest.workbench import drive_of, mounted_btrfs, scrub

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


def make(devices: Sequence[Path], data: str, metadata: str) -> None:
    workbench.make(
        "btrfs", devices[0], f"--data={data}", f"--metadata={metadata}", *map(str, devices[1:])
    )


def found_on(devices: Sequence[Path]) -> list[FoundContent]:
    drives = {f"disk{number}": drive_of(device) for number, device in enumerate(devices)}
    with opened_system(Run(), drives) as found:
        return list(found.contents)


def used_of(one: FoundContent) -> Extents:
    assert one.content is not None
    others = [Path(path) for path in one.others]
    device = Path(one.path)
    with used_map(Run(), device, one.content, block.size_bytes(device), others=others) as found:
        found.confirm()
        return found.extents


def used_parts(one: FoundContent) -> list[tuple[int, bytes]]:
    """Return (offset, bytes) of what is used of one device."""
    parts = []
    with Path(one.path).open("rb") as file:
        for extent in used_of(one):
            file.seek(extent.offset)
            parts.append((extent.offset, file.read(extent.size)))
    return parts


def put_on_garbage(device: Path, parts: list[tuple[int, bytes]]) -> None:
    spoil(device, SCRATCH_BYTES)
    with device.open("r+b", buffering=0) as file:
        for offset, data in parts:
            file.seek(offset)
            file.write(data)
        os.fsync(file.fileno())
    block.flush(device)


@pytest.mark.parametrize("name", shortened(PROFILES, ("single", "raid10", "raid5")))
def test_what_is_used_of_each_device_is_the_filesystem(
    name: str, scratch: list[Path], mounted_on: Path
) -> None:
    make(scratch, *PROFILES[name])
    with mounted_btrfs(scratch, mounted_on):
        fill(mounted_on, _KIND)
    with mounted_btrfs(scratch, mounted_on, "ro"):
        before = digest(mounted_on, _KIND)
    assert len(before) > 230
    contents = found_on(scratch)
    assert [one.unfit for one in contents] == [()] * len(scratch)
    assert [type(one.content) for one in contents] == [Btrfs, *[BtrfsDevice] * (len(scratch) - 1)]

    saved = [used_parts(one) for one in contents]
    for device, parts in zip(scratch, saved, strict=True):
        assert sum(len(data) for _, data in parts) < SCRATCH_BYTES / 4
        put_on_garbage(device, parts)
    sh("btrfs", "check", "--readonly", scratch[0])
    with mounted_btrfs(scratch, mounted_on):
        assert digest(mounted_on, _KIND) == before
        scrub(mounted_on)


def test_without_one_of_its_devices_it_is_kept_whole(scratch: list[Path]) -> None:
    make(scratch, "raid1", "raid1")
    assert used_of(found_on(scratch)[0]).total_bytes < SCRATCH_BYTES / 4
    sh("wipefs", "--all", "--quiet", scratch[2])
    first, second = found_on(scratch[:2])
    assert [first.content, second.content] == [Raw(), Raw()]
    assert used_of(first).total_bytes == SCRATCH_BYTES


def test_when_one_of_its_devices_was_away_it_is_kept_whole(
    scratch: list[Path], mounted_on: Path
) -> None:
    make(scratch, "raid1", "raid1")
    with scratch[2].open("rb") as file:
        file.seek(_SUPER_AT)
        old = file.read(4096)
    with mounted_btrfs(scratch, mounted_on):
        (mounted_on / "file").write_bytes(b"later")
    assert used_of(found_on(scratch)[0]).total_bytes < SCRATCH_BYTES / 4
    with scratch[2].open("r+b") as file:
        file.seek(_SUPER_AT)
        file.write(old)
    block.flush(scratch[2])
    assert [one.content for one in found_on(scratch)] == [Raw()] * 3
