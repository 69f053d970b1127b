"""XFS by its used blocks: real filesystems, there and back, and those that are refused."""

import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import AgentError, SourceUnfit
from agent.model.layout import Xfs
from agent.store.registry import RegistryClient
from agent.store.template import open_template
from agent.stream.chunks import VolumeSource
from agent.stream.restore import restore_volume
from agent.system.command import Run
from agent.tools import xfs
from agent.units import MiB, TiB
from tests.contracts.fake_registry import FakeRegistry
from tests.contracts.stream_builders import BASE, capture, make_client, make_volume, used_extents

PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
CONTENT = Xfs(uuid="8396dfce-1fd8-4c7b-83af-2842d449b2da", label="", block_bytes=4096)
SIZE = 304 * MiB
UNMOUNT = 0x20
"""The flag of an unmount record (XLOG_UNMOUNT_TRANS)."""
SHAPES = {
    "v5": (),
    "v4": ("-m", "crc=0"),
    "reverse map": ("-m", "rmapbt=1"),
    "no reflink": ("-m", "reflink=0"),
    "small blocks": ("-b", "size=1024"),
    "a label": ("-L", "boot"),
}


def run(*words: str | Path) -> str:
    name, *rest = words
    found = shutil.which(name, path=PATH)
    assert found, f"{name} is not installed"
    done = subprocess.run([found, *rest], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def make_xfs(folder: Path, *options: str, size: int = SIZE) -> Path:
    """Return a filesystem with 200 files. It is never mounted: mkfs.xfs puts them in."""
    dice = random.Random(7)
    lines = ["/", "0 0", "d--755 0 0"]
    for number in range(200):
        file = folder / f"f{number}"
        file.write_bytes(dice.randbytes(dice.randrange(1, 60_000)))
        lines.append(f"f{number} ---644 0 0 {file}")
    lines += ["link l--777 0 0 f1", "$", ""]
    proto = folder / "proto"
    proto.write_text("\n".join(lines))
    image = folder / "xfs.img"
    image.touch()
    os.truncate(image, size)
    run("mkfs.xfs", "-q", "-f", *options, "-p", proto, image)
    return image


@pytest.fixture
def client() -> Iterator[RegistryClient]:
    with FakeRegistry().serving() as url:
        made = make_client(url)
        yield made
        made.close()


@pytest.mark.parametrize("name", SHAPES)
def test_the_map_of_each_shape_is_what_partclone_says(tmp_path: Path, name: str) -> None:
    image = make_xfs(tmp_path, *SHAPES[name])
    used = used_extents(image, CONTENT, SIZE)
    assert used.total_bytes < SIZE / 2


@pytest.mark.parametrize("name", ["v5", "v4"])
def test_xfs_comes_back_whole(client: RegistryClient, tmp_path: Path, name: str) -> None:
    image = make_xfs(tmp_path, *SHAPES[name])
    used = used_extents(image, CONTENT, SIZE)
    assert used.total_bytes < SIZE / 2
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(BASE) + image.read_bytes())
    captured = capture(client, VolumeSource(make_volume(SIZE, content=CONTENT), disk, BASE, used))
    target = tmp_path / "target.img"
    target.write_bytes(b"\xa5" * (BASE + SIZE))
    restore_volume(open_template(client, captured.digest), "root", target, BASE)
    copy = tmp_path / "copy.img"
    copy.write_bytes(target.read_bytes()[BASE:])
    run("xfs_repair", "-n", copy)
    one, other = image.read_bytes(), copy.read_bytes()
    at = 0
    for extent in used:
        assert other[at : extent.offset] == b"\xa5" * (extent.offset - at), "free space is left"
        assert other[extent.offset : extent.end] == one[extent.offset : extent.end]
        at = extent.end
    assert (tmp_path / "f77").read_bytes() in other


def test_fourteen_terabytes_of_nothing_are_read_at_once(tmp_path: Path) -> None:
    image = make_xfs(tmp_path, size=14 * TiB)
    used = used_extents(image, CONTENT, 14 * TiB)
    assert used.total_bytes < TiB / 100
    assert used[-1].end > 12 * TiB


def change(image: Path, *commands: str) -> None:
    words = [word for command in commands for word in ("-c", command)]
    run("xfs_db", "-x", *words, image)


def refuse(image: Path, match: str) -> str:
    with pytest.raises(SourceUnfit, match=match) as caught:
        used_extents(image, CONTENT, SIZE)
    return str(caught.value.hint)


def test_a_realtime_device_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "realtime.img"
    other.touch()
    os.truncate(other, 128 * MiB)
    image = make_xfs(tmp_path, "-m", "reflink=0,rmapbt=0", "-r", f"rtdev={other}")
    refuse(image, "has a realtime device, which is not captured")


def test_a_log_elsewhere_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log.img"
    log.touch()
    os.truncate(log, 128 * MiB)
    image = make_xfs(tmp_path, "-l", f"logdev={log},size=64m")
    refuse(image, "has its log on another device")


def test_what_mkfs_did_not_end_is_refused(tmp_path: Path) -> None:
    image = make_xfs(tmp_path)
    change(image, "sb 0", "write -d inprogress 1")
    with pytest.raises(AgentError):
        used_extents(image, CONTENT, SIZE)


def make_dirty(image: Path) -> None:
    """Make of the log's unmount record, its last, some other record."""
    text = run("xfs_db", "-r", "-c", "sb 0", "-c", "p logstart agblklog agblocks", image)
    start, bits, group = (int(found) for found in re.findall(r"= (\d+)", text))
    log_at = ((start >> bits) * group + (start & (1 << bits) - 1)) * 4096
    with image.open("r+b") as file:
        file.seek(log_at)
        log = file.read(64 * 1024)
        place = next(n for n in range(512, 1024) if log[n + 9] == UNMOUNT)
        file.seek(log_at + place + 9)
        file.write(b"\0")


def test_a_dirty_log_is_refused_with_what_helps(tmp_path: Path) -> None:
    image = make_xfs(tmp_path)
    make_dirty(image)
    hint = refuse(image, "was not unmounted cleanly")
    assert "mount and unmount" in hint


@pytest.mark.parametrize("field", ["freeblks", "flcount"])
def test_a_group_that_counts_otherwise_is_refused(tmp_path: Path, field: str) -> None:
    image = make_xfs(tmp_path, "-m", "crc=0")
    change(image, "agf 2", f"write {field} 3")
    hint = refuse(image, r"free space of .* is not as described: group 2 has")
    assert "xfs_repair -n" in hint


def test_a_superblock_that_counts_otherwise_is_refused(tmp_path: Path) -> None:
    image = make_xfs(tmp_path)
    change(image, "sb 0", "write -d fdblocks 1000")
    refuse(image, "the filesystem has 1000 free blocks")


def test_the_facts_are_those_of_the_superblock(tmp_path: Path) -> None:
    image = make_xfs(tmp_path, "-L", "data", "-m", f"uuid={CONTENT.uuid}")
    facts = xfs.xfs_facts(Run(), image)
    assert (facts.uuid, facts.label) == (CONTENT.uuid, "data")
    assert facts.size_bytes == SIZE
    assert facts.is_complete


def test_what_is_no_xfs_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "noise.img"
    image.write_bytes(random.Random(1).randbytes(16 * MiB))
    with pytest.raises(AgentError, match="xfs_db"):
        used_extents(image, CONTENT, 16 * MiB)
