"""What chattr sets of a file reaches another filesystem, or is said to be lost."""

import fcntl
import os
import struct
from pathlib import Path

import pytest

from agent.model.event import Happening, Logged
from agent.system.command import Run
from agent.system.mount import mounted
from agent.tools.copy_files import copy_tree, finish_flags
from agent.units import MiB
from tests.guest.conftest import sh
from tests.guest.trees import loop

PROJECTS = {"ext4": ("mkfs.ext4", "-q", "-O", "project,quota"), "xfs": ("mkfs.xfs", "-q")}
BTRFS = ("mkfs.btrfs", "-q")


def flags_of(path: Path) -> set[str]:
    return set(sh("lsattr", "-d", path).split(" ")[0]) - set("-eI")


@pytest.mark.parametrize("kind", ["btrfs", "ext4"])
def test_no_copy_on_write_is_kept_or_said(kind: str, tmp_path: Path) -> None:
    run = Run()
    make = BTRFS if kind == "btrfs" else PROJECTS["ext4"]
    heard: list[Happening] = []
    with (
        loop(tmp_path, "source.img", 256 * MiB, *BTRFS) as device,
        loop(tmp_path, "target.img", 256 * MiB, *make) as target,
    ):
        with mounted(run, device, tmp_path / "source", "btrfs", "rw") as source:
            folder = source / "var/lib/db"
            folder.mkdir(parents=True, mode=0o750)
            os.chown(folder, 70, 71)
            (folder / "table").touch(0o640)
            sh("chattr", "+C", folder / "table", folder)
            (folder / "table").write_bytes(b"data" * 100_000)
            (folder / "plain").write_bytes(b"as ever")
            sh("chattr", "-C", folder / "plain")
            (source / "locked").write_bytes(b"x")
            sh("chattr", "+i", source / "locked")
            os.utime(folder, ns=(5, 1_111_111_111_000_000_001))
            wanted = {name: flags_of(folder / name) for name in ("table", "plain", ".")}
        with (
            mounted(run, device, tmp_path / "source", "btrfs", "ro") as source,
            mounted(run, target, tmp_path / "target", kind, "rw") as top,
        ):
            lost = finish_flags(copy_tree(run, source, top), heard.append)
            copy = top / "var/lib/db"
            assert (copy / "table").read_bytes() == b"data" * 100_000
            state = copy.stat()
            assert (state.st_mode & 0o7777, state.st_uid, state.st_gid) == (0o750, 70, 71)
            assert state.st_mtime_ns == 1_111_111_111_000_000_001
            assert flags_of(top / "locked") == {"i"}
            if kind == "btrfs":
                assert lost == ()
                assert {name: flags_of(copy / name) for name in wanted} == wanted
                assert wanted["table"] == {"C"}
            else:
                assert {one.path for one in lost} >= {"var/lib/db", "var/lib/db/table"}
                (said,) = [one.message for one in heard if isinstance(one, Logged)]
                assert "lose the flag +C, which the new filesystem does not take" in said


@pytest.mark.parametrize(
    ("kind", "to"),
    [
        ("xfs", "xfs"),
        pytest.param("btrfs", "xfs", marks=pytest.mark.full),
        pytest.param("xfs", "ext4", marks=pytest.mark.full),
    ],
)
def test_reflinks_share_again_where_they_can(kind: str, to: str, tmp_path: Path) -> None:
    run = Run()
    made = {**PROJECTS, "btrfs": BTRFS}
    heard: list[Happening] = []
    with (
        loop(tmp_path, "source.img", 320 * MiB, *made[kind]) as device,
        loop(tmp_path, "target.img", 320 * MiB, *made[to]) as target,
    ):
        with mounted(run, device, tmp_path / "source", kind, "rw") as source:
            (source / "disk").write_bytes(os.urandom(40 * MiB))
            sh("cp", "--reflink=always", source / "disk", source / "clone")
            with (source / "clone").open("r+b") as file:  # from here on it is another
                file.seek(20 * MiB)
                file.write(b"changed" * 1000)
            clone_range(source / "disk", 8 * MiB, source / "part", 4 * MiB)
            os.link(source / "clone", source / "link")
            for name in ("disk", "clone", "part"):
                os.utime(source / name, ns=(7, 1_222_222_222_000_000_003))
        with (
            mounted(run, device, tmp_path / "source", kind, "ro") as source,
            mounted(run, target, tmp_path / "target", to, "rw") as top,
        ):
            before = used_bytes(top)
            copy_tree(run, source, top, heard.append)
            for name in ("disk", "clone", "part", "link"):
                assert (top / name).read_bytes() == (source / name).read_bytes()
            assert (top / "clone").stat().st_mtime_ns == 1_222_222_222_000_000_003
            taken = used_bytes(top) - before
        said = [one.message for one in heard if isinstance(one, Logged)]
        if to == "ext4":
            assert said == []
            assert taken >= 84 * MiB
        else:
            assert ["MiB are shared between files" in one for one in said] == [True]
            assert 40 * MiB <= taken < 46 * MiB


def clone_range(source: Path, at: int, target: Path, size: int) -> None:
    """Let a new file have a part of another: FICLONERANGE of <linux/fs.h>."""
    with source.open("rb") as one, target.open("wb") as other:
        fcntl.ioctl(other, 0x4020940D, struct.pack("=qQQQ", one.fileno(), at, size, 0))


def used_bytes(where: Path) -> int:
    sh("sync", "--file-system", where)
    found = os.statvfs(where)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


@pytest.mark.parametrize("kind", ["ext4", pytest.param("xfs", marks=pytest.mark.full), "btrfs"])
def test_projects_are_kept_or_said(kind: str, tmp_path: Path) -> None:
    run = Run()
    with (
        loop(tmp_path, "source.img", 320 * MiB, *PROJECTS["xfs"]) as device,
        loop(tmp_path, "target.img", 320 * MiB, *{**PROJECTS, "btrfs": BTRFS}[kind]) as target,
    ):
        with mounted(run, device, tmp_path / "source", "xfs", "rw") as source:
            (source / "home").mkdir()
            sh("chattr", "+P", "-p", "7", source / "home")
            (source / "home/file").write_bytes(b"x")
            assert sh("lsattr", "-p", "-d", source / "home/file").split()[0] == "7"
        with (
            mounted(run, device, tmp_path / "source", "xfs", "ro") as source,
            mounted(run, target, tmp_path / "target", kind, "rw") as top,
        ):
            lost = finish_flags(copy_tree(run, source, top))
            if kind == "btrfs":
                assert {(one.path, one.what) for one in lost} >= {("home/file", "project 7")}
            else:
                assert lost == ()
                assert flags_of(top / "home") == {"P"}
                for name in ("home", "home/file"):
                    assert sh("lsattr", "-p", "-d", top / name).split()[0] == "7"
