"""Real filesystems on real partitions, into the maps of used blocks and out of them again."""

import os
from pathlib import Path

import pytest

from agent.model.layout import Content, Ext, Vfat
from agent.stream.usedmap import used_map
from agent.system.command import Run
from tests.guest.conftest import sh

# Only the kind of the content chooses the map's makers.
CONTENTS: dict[str, Content] = {
    "ext4": Ext(
        uuid="5f1c9a52-0c63-4a0e-9a5a-8f8e21d5a0ff", label="", block_bytes=4096, features=()
    ),
    "vfat": Vfat(uuid="93E1-EE89", label=""),
}


@pytest.fixture(params=[512, 4096])
def disk(request: pytest.FixtureRequest) -> Path:
    name = "scratch" if request.param == 512 else "scratch_4k"
    found = request.getfixturevalue(name)
    return Path(found[0] if request.param == 512 else found)


def partitioned(disk: Path) -> tuple[Path, Path]:
    """Return an EFI and a Linux partition on `disk`."""
    script = "label: gpt\nsize=64MiB, type=U\nsize=200MiB, type=L\n"
    sh("sfdisk", "--quiet", disk, stdin=script)
    sh("udevadm", "settle")
    return Path(f"{disk}1"), Path(f"{disk}2")


def fill(folder: Path) -> None:
    for number in range(40):
        (folder / f"file-{number}").write_bytes(os.urandom(100_000))
    for number in range(0, 40, 2):
        (folder / f"file-{number}").unlink()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("kind", ["ext4", "vfat"])
def test_the_used_blocks_are_the_filesystem(kind: str, disk: Path, tmp_path: Path) -> None:
    """Only what the map names is copied; the copy passes fsck and holds every file."""
    esp, linux = partitioned(disk)
    source = esp if kind == "vfat" else linux
    sh(f"mkfs.{kind}", *(["-q"] if kind == "ext4" else []), source)
    sh("mount", source, tmp_path)
    fill(tmp_path)
    before = contents(tmp_path)
    sh("umount", tmp_path)
    sh("udevadm", "settle")
    size = int(sh("blockdev", "--getsize64", source))
    with used_map(Run(), source, CONTENTS[kind], size) as found:
        found.confirm()
        used = found.extents
    assert sum(extent.size for extent in used) < size / 2
    copy = tmp_path / "copy"
    with source.open("rb") as reader, copy.open("wb") as writer:
        writer.truncate(size)
        for extent in used:
            reader.seek(extent.offset)
            writer.seek(extent.offset)
            writer.write(reader.read(extent.size))
    with copy.open("rb") as reader, source.open("r+b") as writer:
        while data := reader.read(1 << 20):
            writer.write(data)
        writer.flush()
        os.fsync(writer.fileno())
    copy.unlink()
    sh(f"fsck.{kind}", "-n", *(["-f"] if kind == "ext4" else []), source)
    sh("mount", "-o", "ro", source, tmp_path)
    assert contents(tmp_path) == before
    sh("umount", tmp_path)
