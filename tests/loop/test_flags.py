"""chattr's flags on a real filesystem: lifted for a change, put back, copied, said when lost."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.system.command import Run
from agent.system.inode_flags import APPEND, IMMUTABLE, NOATIME, NODUMP, letters, unlocked_below
from agent.system.rooted import RootedTree
from agent.tools.copy_files import copy_tree, find_needs, finish_flags
from agent.tools.copy_flags import Flagged, Lost, lost_lines

pytestmark = pytest.mark.root


def chattr(flags: str, *paths: Path) -> None:
    done = subprocess.run(["chattr", flags, *paths], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no flags on this filesystem: {done.stderr.strip()}")


def flags_of(path: Path) -> set[str]:
    text = subprocess.run(["lsattr", "-d", path], check=True, capture_output=True, text=True).stdout
    return set(text.split(" ")[0]) - set("-eI")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    etc = tmp_path / "root/etc"
    etc.mkdir(parents=True)
    (etc / "hostname").write_text("golden\n")
    yield tmp_path / "root"
    subprocess.run(["chattr", "-R", "-f", "-i", "-a", tmp_path], check=False)


@pytest.mark.parametrize("flag", ["i", "a"])
def test_a_locked_file_is_written_and_locked_again(root: Path, flag: str) -> None:
    file = root / "etc/hostname"
    chattr(f"+{flag}Ad", file)
    with pytest.raises(PermissionError):
        file.write_text("by hand")
    with RootedTree(root) as tree:
        tree.write("/etc/hostname", "web1\n")
        assert tree.lifted == {"/etc/hostname": f"+{flag}"}
    assert file.read_text() == "web1\n"
    assert flags_of(file) == {flag, "A", "d"}


@pytest.mark.parametrize("flag", ["i", "a"])
def test_a_locked_folder_takes_what_belongs_there(root: Path, flag: str) -> None:
    etc = root / "etc"
    (etc / "old").write_text("")
    (etc / "conf.d").mkdir()
    chattr(f"+{flag}", etc / "old", etc / "conf.d", etc)
    with RootedTree(root) as tree:
        tree.write("/etc/hostname", "web1\n")
        tree.write("/etc/new/file", "x")
        tree.link("/etc/resolv.conf", "/run/resolv.conf")
        assert tree.remove("/etc/old")
        tree.change_mode("/etc/conf.d", 0o700)
        assert {"/etc", "/etc/old", "/etc/conf.d"} <= set(tree.lifted)
    assert sorted(path.name for path in etc.iterdir()) == [
        "conf.d",
        "hostname",
        "new",
        "resolv.conf",
    ]
    assert (etc / "conf.d").stat().st_mode & 0o777 == 0o700
    assert flags_of(etc) == flags_of(etc / "conf.d") == {flag}
    assert flags_of(etc / "hostname") == set()


def test_a_change_that_fails_leaves_the_flag(root: Path) -> None:
    chattr("+i", root / "etc")
    with RootedTree(root) as tree, pytest.raises(Exception, match="could not write"):
        tree.write("/etc/" + "x" * 300, "too long a name")
    assert flags_of(root / "etc") == {"i"}


def test_programs_may_change_all_below_for_a_while(root: Path) -> None:
    boot = root / "boot"
    (boot / "grub").mkdir(parents=True)
    for name in ("initrd.img", "grub/grub.cfg", "gone"):
        (boot / name).write_text("old")
    chattr("+i", boot / "initrd.img", boot / "grub/grub.cfg", boot / "gone", boot / "grub")
    chattr("+a", boot)
    with unlocked_below(boot) as found:
        assert found == {
            ".": APPEND,
            "initrd.img": IMMUTABLE,
            "gone": IMMUTABLE,
            "grub": IMMUTABLE,
            "grub/grub.cfg": IMMUTABLE,
        }
        (boot / "initrd.img").write_text("new")
        (boot / "grub/grub.cfg").unlink()
        (boot / "grub/grub.cfg").write_text("new")
        (boot / "gone").unlink()
    assert flags_of(boot) == {"a"}
    assert flags_of(boot / "grub/grub.cfg") == flags_of(boot / "initrd.img") == {"i"}


def test_flags_are_copied_last_and_what_is_lost_is_said(root: Path) -> None:
    tree = root / "tree"
    target = root / "target"
    target.mkdir()
    (tree / "locked").mkdir(parents=True)
    (tree / "locked/file").write_text("x")
    (tree / "log").write_text("x")
    chattr("+cAd", tree / "log")
    chattr("+a", tree / "log")
    chattr("+i", tree / "locked/file", tree / "locked", tree)
    needs = find_needs(tree)
    assert {one.path for one in needs.flagged} == {b"", b"log", b"locked", b"locked/file"}
    copied = copy_tree(Run(), tree, target)
    assert not flags_of(target)
    (target / "more").write_text("what another volume brings")
    assert finish_flags(copied) == (Lost("log", "+c"),)
    assert flags_of(target) == flags_of(target / "locked") == {"i"}
    assert flags_of(target / "log") == {"a", "A", "d"}


def test_lost_flags_are_told_by_kind_with_a_path() -> None:
    lost = (Lost("db", "+C"), Lost("vm.img", "+C"), Lost("home", "project 7"))
    assert list(lost_lines(lost)) == [
        "2 files lose the flag +C, which the new filesystem does not take: db, …",
        "1 file loses the flag project 7, which the new filesystem does not take: home",
    ]
    assert letters(IMMUTABLE | NODUMP | NOATIME) == "+idA"
    assert Flagged(b"x", NOATIME).project == 0
