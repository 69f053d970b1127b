"""Subvolumes of a real btrfs, copied to another filesystem."""

import os
from pathlib import Path

import pytest

from agent.report import silent
from agent.system.command import Run
from agent.system.mount import mounted
from agent.tools.subvolumes import copy_subvolumes, find_subvolumes
from agent.units import MiB
from tests.guest.conftest import sh
from tests.guest.trees import BIG, MAKE, TARGET_BYTES, differences, loop, tree_of


@pytest.mark.parametrize("kind", ["btrfs", "ext4"])
def test_subvolumes_are_made_again_or_merged(kind: str, tmp_path: Path) -> None:
    run = Run()
    with (
        loop(tmp_path, "source.img", 256 * MiB, *MAKE["btrfs"]) as device,
        loop(tmp_path, "target.img", TARGET_BYTES[kind], *MAKE[kind]) as target,
    ):
        with mounted(run, device, tmp_path / "source", "btrfs", "rw,subvolid=5") as source:
            for name in ("@", "@home"):
                sh("btrfs", "subvolume", "create", source / name)
            (source / "@" / "var" / "lib").mkdir(parents=True)
            nested = source / "@" / "var" / "lib" / "machines"
            sh("btrfs", "subvolume", "create", nested)
            nested.chmod(0o700)
            (nested / "inside").write_bytes(b"nested")
            (source / "@" / "file").write_bytes(BIG[:MiB])
            (source / "@home" / "bob").mkdir()
            os.setxattr(source / "@home", "user.note", b"on a subvolume")
            sh("btrfs", "subvolume", "snapshot", "-r", source / "@", source / "snap")
            sh("btrfs", "subvolume", "set-default", source / "@")
            os.utime(source / "@" / "var" / "lib", ns=(7, 1_000_000_000_000_000_007))
            tree = tree_of(source)
            names = [
                (one.path, one.is_read_only, one.is_default) for one in find_subvolumes(run, source)
            ]
        with (
            mounted(run, device, tmp_path / "source", "btrfs", "ro,subvolid=5") as source,
            mounted(run, target, tmp_path / "target", kind, "rw") as top,
        ):
            copied = copy_subvolumes(run, source, top, silent, is_btrfs=kind == "btrfs")
            assert copied.bytes >= 2 * MiB
            found_tree = tree_of(top)
            # What stands for a subvolume inside a snapshot has the time of being looked at.
            stands = "snap/var/lib/machines"
            assert found_tree.pop(stands)[0] == tree.pop(stands)[0] == "0o40755"
            assert not differences(tree, found_tree)
            if kind == "btrfs":
                found = find_subvolumes(run, top)
                assert [(one.path, one.is_read_only, one.is_default) for one in found] == names
                assert (b"snap", True, False) in names
                assert (b"@/var/lib/machines", False, False) in names
                assert (b"@", False, True) in names
