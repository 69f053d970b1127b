"""Signatures by libblkid itself, on files: all of them, wherever a run of the device is."""

import subprocess
from pathlib import Path

import pytest

from agent.errors import DiskError
from agent.probe.contents import probe_hidden
from agent.source.tags import probe_tags
from agent.system.command import Run
from agent.system.libblkid import Signature, find_all
from agent.units import Extent, MiB
from tests.unit.make_plan import guid

SIZE = 400 * MiB
PLACE = Extent(8 * MiB, 380 * MiB)


def make(path: Path, *words: str) -> bytes:
    """Return the first MiB of a filesystem of the size of PLACE."""
    with path.open("wb") as file:
        file.truncate(PLACE.size)
    subprocess.run([*words, path], check=True, capture_output=True)
    return path.read_bytes()[:MiB]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """At PLACE an ext4, with the first sector of an XFS over it."""
    ext = make(tmp_path / "ext", "mkfs.ext4", "-q", "-F", "-U", guid(1), "-L", "old")
    xfs = make(tmp_path / "xfs", "mkfs.xfs", "-q", "-f", "-m", f"uuid={guid(2)}")
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(SIZE)
        file.seek(PLACE.offset)
        file.write(xfs[:512] + ext[512:])
    return path


def test_all_signatures_of_a_place_are_found(disk: Path) -> None:
    assert set(find_all(disk, PLACE)) == {
        Signature("xfs", "filesystem", guid(2)),
        Signature("ext4", "filesystem", guid(1), "old"),
    }
    assert find_all(disk, Extent(0, 4 * MiB)) == ()
    assert find_all(disk, Extent(PLACE.offset + 64 * MiB, 64 * MiB)) == ()


def test_a_device_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DiskError):
        find_all(tmp_path / "none", PLACE)


def test_what_contradicts_itself_is_ambiguous_to_a_capture(disk: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(disk.read_bytes()[PLACE.offset : PLACE.offset + 64 * MiB])
    with part.open("r+b") as file:
        file.truncate(PLACE.size)
    assert probe_tags(Run(), part) == {"TYPE": "ambiguous"}


def test_what_only_a_backup_table_names_is_found_each(disk: Path) -> None:
    script = f"label: gpt\nstart={PLACE.offset // 512}, size={PLACE.size // 512}\n"
    subprocess.run(["sfdisk", "--quiet", disk], input=script.encode(), check=True)
    with disk.open("r+b") as file:
        file.write(bytes(34 * 512))
    found = probe_hidden(disk, "/dev/sda", Extent(0, SIZE), 512, {})
    assert {(one.path, one.what) for one in found} == {("/dev/sda", "xfs"), ("/dev/sda", "ext4")}
