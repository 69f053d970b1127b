"""Block system calls on image files; on loop devices where there are any."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import DiskError
from agent.system import block
from agent.system.command import Run
from agent.units import Extent, MiB


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(b"\xa5" * (4 * MiB))
    return path


def test_a_file_has_a_size_and_the_sectors_it_is_given(image: Path) -> None:
    assert block.size_bytes(image) == 4 * MiB
    assert block.sector_bytes(image) == 512
    assert block.sector_bytes(image, of_file=4096) == 4096


def test_a_missing_device_is_named() -> None:
    with pytest.raises(DiskError, match="/dev/no-such-disk: No such file"):
        block.size_bytes("/dev/no-such-disk")


def test_discard_makes_a_hole(image: Path) -> None:
    before = image.stat().st_blocks
    assert block.discard(image, Extent(MiB, 2 * MiB))
    data = image.read_bytes()
    assert len(data) == 4 * MiB
    assert data[MiB : 3 * MiB] == bytes(2 * MiB)
    assert data[MiB - 1] == data[3 * MiB] == 0xA5
    assert image.stat().st_blocks < before


def test_direct_writes_arrive(image: Path) -> None:
    fd = block.open_direct(image, os.O_RDWR)
    try:
        with block.aligned_buffer(MiB) as buffer:
            buffer[:] = b"\x11" * MiB
            assert os.pwritev(fd, [buffer], MiB) == MiB
    finally:
        os.close(fd)
    block.flush(image)
    assert image.read_bytes()[MiB : 2 * MiB] == b"\x11" * MiB


def test_where_direct_is_refused_plain_is_used(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block, "_direct_read_works", lambda _path: False)
    fd = block.open_direct(image, os.O_RDWR)
    try:
        assert not block.is_direct(fd)
    finally:
        os.close(fd)


def test_a_file_cannot_be_locked_against_writes(image: Path) -> None:
    assert block.set_read_only(image, True) is False


@pytest.mark.parametrize(
    ("disk", "number", "expected"),
    [
        ("/dev/sda", 1, "/dev/sda1"),
        ("/dev/vdb", 12, "/dev/vdb12"),
        ("/dev/nvme0n1", 2, "/dev/nvme0n1p2"),
        ("/dev/mmcblk0", 1, "/dev/mmcblk0p1"),
        ("/dev/md127", 1, "/dev/md127p1"),
        ("/dev/cciss/c0d0", 3, "/dev/cciss/c0d0p3"),
        ("/dev/disk/by-id/wwn-0x5000c500", 2, "/dev/disk/by-id/wwn-0x5000c500-part2"),
    ],
)
def test_partition_names(disk: str, number: int, expected: str) -> None:
    assert block.partition_path(disk, number) == expected


@pytest.fixture
def loop_device(image: Path) -> Iterator[str]:
    if os.geteuid() != 0 or not shutil.which("losetup"):
        pytest.skip("needs root and losetup")
    run = Run()
    output = run(["losetup", "--find", "--show", "--sector-size=4096", image], ok=(0, 1))
    if output.status:
        pytest.skip(f"no loop device: {output.stderr.strip()}")
    yield output.text.strip()
    run(["losetup", "--detach", output.text.strip()])


@pytest.mark.root
def test_a_block_device_answers(loop_device: str) -> None:
    assert block.size_bytes(loop_device) == 4 * MiB
    assert block.sector_bytes(loop_device) == 4096
    assert block.set_read_only(loop_device, True) is True
    assert block.is_read_only(loop_device)
    with pytest.raises(OSError, match="not permitted"):
        Path(loop_device).write_bytes(b"x" * 4096)
    assert block.set_read_only(loop_device, False)
    block.flush(loop_device)
    assert block.discard(loop_device, Extent(0, MiB)) in (True, False)
