"""Copying files: whether there is room, what cp is told, what it says."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.errors import ClaimRefused, CommandFailed, DiskError
from agent.model.event import Happening
from agent.system.command import Output, Word
from agent.tools.copy_files import (
    Needs,
    Room,
    copy_tree,
    copy_words,
    find_needs,
    first_complaint,
    objections,
)
from agent.units import GiB, MiB
from tests.unit.fake_run import FakeRun

# GNU cp 9.1, LC_ALL=C.UTF-8.
COMPLAINTS = """\
cp: cannot create regular file '/proc/x': No such file or directory
cp: cannot stat 'a/nothing': No such file or directory
cp: cannot stat 'a/no'$'\\377': No such file or directory
"""


def test_a_tree_that_fits_has_no_objections() -> None:
    assert objections(Needs(GiB, 1000), Room(2 * GiB, 1000, 4096)) == ()
    assert objections(Needs(GiB, 10**6), Room(2 * GiB, None, 4096)) == ()


def test_every_want_of_room_is_told_at_once() -> None:
    found = objections(Needs(3 * GiB, 70_000), Room(GiB, 65_525, 4096))
    assert found == (
        "the files need 3.0 GiB, the new filesystem has 1.0 GiB free",
        "there are 70000 files and folders, the new filesystem has room for 65525 more",
    )


def test_inodes_take_room_too() -> None:
    (found,) = objections(Needs(100 * MiB, 10**6), Room(200 * MiB, None, 4096))
    assert found == "the files need 588.3 MiB, the new filesystem has 200.0 MiB free"


def test_cp_is_told_to_complain_of_a_lost_xattr_and_to_leave_labels_to_it() -> None:
    words = copy_words(Path("/mnt/source"), Path("/mnt/-target"))
    assert words.index("--archive") < words.index(
        "--preserve=mode,ownership,timestamps,links,xattr"
    )
    assert words.index("--archive") < words.index("--no-preserve=context")
    assert words[-4:] == ["--no-target-directory", "--", "/mnt/source", "/mnt/-target"]


def test_vfat_gets_contents_and_times() -> None:
    words = copy_words(Path("/a"), Path("/b"), is_plain=True)
    assert words[:3] == ["cp", "--recursive", "--preserve=timestamps"]
    assert "--archive" not in words


def test_the_first_complaint_of_cp_names_its_path() -> None:
    assert first_complaint(COMPLAINTS) == (
        "cannot create regular file '/proc/x': No such file or directory (and 2 more)"
    )
    assert first_complaint(COMPLAINTS.splitlines()[2]) == (
        "cannot stat 'a/no'$'\\377': No such file or directory"
    )
    assert first_complaint("\n") == "cp failed and did not say why"


def make_files(folder: Path) -> Path:
    tree = folder / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "file").write_bytes(bytes(10_000))
    (tree / "sub" / "linked").hardlink_to(tree / "file")
    (tree / "link").symlink_to("file")
    with (tree / "sparse").open("wb") as file:
        file.truncate(GiB)
    return tree


def test_needs_count_a_hard_link_once_and_a_hole_not_at_all(tmp_path: Path) -> None:
    needs = find_needs(make_files(tmp_path))
    assert needs.inodes == 4  # sub, file, link, sparse
    assert 12_288 <= needs.bytes < MiB


def test_a_copy_that_failed_names_the_first_path(tmp_path: Path) -> None:
    run = FakeRun({"cp": Output(b"", COMPLAINTS, 1)})
    with pytest.raises(DiskError, match="could not copy the files: cannot create .*'/proc/x'"):
        copy_tree(run, make_files(tmp_path), tmp_path)


def test_a_report_that_raises_stops_the_copy(tmp_path: Path) -> None:
    stopped: list[bool] = []

    def run(words: Sequence[Word], *, stop: threading.Event, **_: object) -> Output:
        stopped.append(stop.wait(30))
        raise CommandFailed("cp was stopped")

    def report(_happening: Happening) -> None:
        raise ClaimRefused("the job was taken from this agent")

    with pytest.raises(ClaimRefused):
        copy_tree(run, make_files(tmp_path), tmp_path, report)  # type: ignore[arg-type]
    assert stopped == [True]
