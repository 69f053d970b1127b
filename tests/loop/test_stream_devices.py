"""The stream on real block devices, with sectors of 512 and of 4096 bytes."""

import fcntl
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.errors import DiskError
from agent.model.job import Verify
from agent.store.target import RegistryTarget
from agent.store.template import open_template
from agent.stream.blocks import ChunkWriter, DiskFile
from agent.stream.capture import capture_template
from agent.stream.chunks import VolumeSource
from agent.stream.restore import restore_volume
from agent.stream.verify import verify_volume
from agent.system import block
from agent.units import Extent, MiB
from tests.conftest import cannot_run
from tests.contracts.fake_registry import FakeRegistry
from tests.contracts.seeds import SEED, tried
from tests.contracts.stream_builders import make_client, make_config, make_volume, mixed_bytes

pytestmark = pytest.mark.root

SIZE = 20 * MiB
BLKZEROOUT = 0x127F


@contextmanager
def loop_device(path: Path, sector_bytes: int) -> Iterator[Path]:
    """Attach `path` as a disk of such sectors; or the test cannot run."""
    losetup = shutil.which("losetup", path="/usr/sbin:/sbin")
    if os.geteuid() != 0 or losetup is None:
        cannot_run("needs root and losetup")
    done = subprocess.run(
        [losetup, "--find", "--show", "--sector-size", str(sector_bytes), path],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        cannot_run(f"no loop devices here: {done.stderr.strip()}")
    device = Path(done.stdout.strip())
    try:
        yield device
    finally:
        subprocess.run([losetup, "--detach", device], check=True)


def scattered(draw: random.Random, sector_bytes: int) -> tuple[Extent, ...]:
    """Return used runs: some long, some of one sector, and some that are no whole sectors."""
    runs: list[Extent] = []
    at = 0
    while at < SIZE - 3 * MiB:
        kind = draw.randrange(3)
        if kind == 0:
            size = draw.randrange(1, 2 * MiB // sector_bytes) * sector_bytes
        elif kind == 1:
            size = sector_bytes
        else:
            size = 512 * draw.randrange(1, 20)
        runs.append(Extent(at, size))
        at += size + 512 * draw.randrange(1, 50)
        if kind != 2:
            at = -(-at // sector_bytes) * sector_bytes
    return tuple(runs)


@pytest.mark.parametrize("sector_bytes", [512, 4096])
@pytest.mark.parametrize("base", [MiB, 63 * 512])
def test_every_used_byte_arrives_and_no_other_is_touched(
    tmp_path: Path, sector_bytes: int, base: int
) -> None:
    print(f"METALCAST_SEED={SEED}")
    draw = random.Random(SEED)
    data = mixed_bytes(SIZE, SEED)
    source_file, target_file = tmp_path / "source.img", tmp_path / "target.img"
    source_file.write_bytes(bytes(base) + data + bytes(2 * MiB - base))
    target_file.write_bytes(b"\xa5" * (SIZE + 2 * MiB))
    used = scattered(draw, sector_bytes)
    volume = make_volume(SIZE)
    with (
        loop_device(source_file, sector_bytes) as source_disk,
        loop_device(target_file, sector_bytes) as target_disk,
        FakeRegistry().serving() as url,
    ):
        assert block.sector_bytes(target_disk) == sector_bytes
        client = make_client(url)
        source = VolumeSource(volume, source_disk, base, used)
        captured = capture_template(RegistryTarget(client), make_config(volume), [source], tag="t")
        template = open_template(client, captured.digest)
        restore_volume(template, "root", target_disk, base)
        verified = verify_volume(template, "root", target_disk, base, Verify.FULL)
        assert verified.bytes_checked == sum(run.size for run in used)
        client.close()
    wanted = bytearray(b"\xa5" * (SIZE + 2 * MiB))
    for run in used:
        wanted[base + run.offset : base + run.end] = data[run.offset : run.end]
    assert target_file.read_bytes() == wanted


@pytest.mark.parametrize("sector_bytes", [512, 4096])
def test_zeros_are_written_over_what_was_there(tmp_path: Path, sector_bytes: int) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"\xa5" * 8 * MiB)
    with loop_device(image, sector_bytes) as disk, DiskFile(disk, writable=True) as file:
        zeros = memoryview(block.aligned_buffer(4 * MiB))
        file.write_zeros(Extent(MiB, 3 * MiB), zeros)
        file.write_zeros(Extent(5 * MiB + 512, 1024), zeros)
        file.sync()
    wanted = bytearray(b"\xa5" * 8 * MiB)
    wanted[MiB : 4 * MiB] = bytes(3 * MiB)
    wanted[5 * MiB + 512 : 5 * MiB + 1536] = bytes(1024)
    assert image.read_bytes() == wanted


@pytest.mark.parametrize("sector_bytes", [512, 4096])
def test_zeros_that_the_disk_never_made_are_found(
    tmp_path: Path, sector_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each order to make zeros is dropped in turn, while the disk says that all is well."""
    zeros = tuple(Extent((1 + 2 * at) * MiB, 64 * 1024) for at in range(9))
    used = tuple(sorted((*zeros, *(Extent(2 * at * MiB, 4096) for at in range(9)))))
    source_file, target_file = tmp_path / "source.img", tmp_path / "target.img"
    source_file.write_bytes(b"\x11" * SIZE)
    target_file.write_bytes(bytes(MiB + SIZE))
    volume = make_volume(SIZE)
    made: list[Extent] = []
    dropped: list[Extent] = []
    ioctl = fcntl.ioctl

    def order(fd: int, request: int, *words: Any) -> Any:
        if request == BLKZEROOUT:
            made.append(Extent(*struct.unpack("QQ", words[0])))
            if made[-1] in dropped:
                return 0
        return ioctl(fd, request, *words)

    monkeypatch.setattr(fcntl, "ioctl", order)
    with loop_device(target_file, sector_bytes) as disk, FakeRegistry().serving() as url:
        client = make_client(url)
        source = VolumeSource(volume, source_file, 0, used, zeros=zeros)
        captured = capture_template(RegistryTarget(client), make_config(volume), [source], tag="t")
        template = open_template(client, captured.digest)
        there = [Extent(MiB + run.offset, run.size) for run in zeros]
        for run in (None, *there):
            disk.write_bytes(b"\xa5" * (MiB + SIZE))
            made, dropped = [], [run] if run else []
            restore_volume(template, "root", disk, MiB, serial="T-1")
            assert sorted(made) == there
            if run is None:
                verify_volume(template, "root", disk, MiB, Verify.FULL)
                continue
            with pytest.raises(DiskError, match="does not give back what was written at") as caught:
                verify_volume(template, "root", disk, MiB, Verify.FULL, serial="T-1")
            assert "(serial T-1)" in str(caught.value)
            offset = int(str(caught.value).partition("written at ")[2].partition(":")[0])
            assert offset == run.offset
        client.close()
    tried(len(there), "zeros that a disk dropped")


def test_zeros_in_many_places_are_holes_of_a_file(tmp_path: Path) -> None:
    """As the tables of inodes of a huge ext4 are: gigabytes, if each were written."""
    image = tmp_path / "disk.img"
    image.write_bytes(b"\xa5" * 24 * MiB)
    runs = tuple(Extent(at * MiB, MiB // 2) for at in range(20))
    with DiskFile(image, writable=True) as file:
        ChunkWriter(file, MiB).write_zeros((*runs, Extent(21 * MiB + 512, 1024)))
        file.sync()
    wanted = bytearray(b"\xa5" * 24 * MiB)
    for run in runs:
        wanted[MiB + run.offset : MiB + run.end] = bytes(run.size)
    wanted[22 * MiB + 512 : 22 * MiB + 1536] = bytes(1024)
    assert image.read_bytes() == wanted
    assert image.stat().st_blocks * 512 <= 14 * MiB + 65536


def test_a_source_that_the_kernel_holds_read_only_can_be_captured(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(mixed_bytes(5 * MiB, SEED))
    volume = make_volume(5 * MiB)
    with loop_device(image, 512) as disk, FakeRegistry().serving() as url:
        assert block.set_read_only(disk, True)
        client = make_client(url)
        source = VolumeSource(volume, disk, 0, (Extent(0, 5 * MiB),))
        try:
            capture_template(RegistryTarget(client), make_config(volume), [source], tag="t")
        finally:
            client.close()
            block.set_read_only(disk, False)  # the kernel keeps this for the device's next user
