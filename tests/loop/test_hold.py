"""A disk is held by every path that leads to it."""

import fcntl
from pathlib import Path

from agent.system.hold import held


def is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_all_paths_are_held_and_let_go(tmp_path: Path) -> None:
    first, second = tmp_path / "sda", tmp_path / "sdb"
    first.touch()
    second.touch()
    dead = tmp_path / "sdc"
    with held(first, [str(second), str(first), str(dead)]):
        assert is_locked(first)
        assert is_locked(second)
    assert not is_locked(first)
    assert not is_locked(second)


def test_one_path_is_one_disk(tmp_path: Path) -> None:
    disk = tmp_path / "sda"
    disk.touch()
    with held(disk):
        assert is_locked(disk)
    assert not is_locked(disk)
