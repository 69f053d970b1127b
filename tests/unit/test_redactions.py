"""Which files of a source are left out, and on which filesystem: without a disk."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.identity import survey
from agent.identity.survey import find_redactions
from agent.model.found import RedactedFile
from agent.system.rooted import RootedTree
from agent.units import Extent
from tests.unit.test_plan_capture import make_found, make_survey, plan


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path, text in (("etc/machine-id", "a" * 33), ("etc/ssh/ssh_host_rsa_key", "k" * 2600)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "etc/ssh/ssh_host_dsa_key").touch()
    return tmp_path


def no_places(_fd: int, name: str) -> tuple[Extent, ...]:
    raise AssertionError(f"the place of {name} was asked for")


def test_on_btrfs_nobody_asks_for_a_place(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "file_extents", no_places)
    devices = {root.stat().st_dev: "disk0p2"}
    with RootedTree(root) as tree:
        files, unfit = find_redactions(tree, devices, {"/": "disk0p2"})
    assert unfit == ()
    assert [(file.on, file.path, file.size_bytes, file.runs) for file in files] == [
        ("disk0p2", "/etc/machine-id", 33, ()),
        ("disk0p2", "/etc/ssh/ssh_host_rsa_key", 2600, ()),
    ]


def test_a_subvolume_inside_another_belongs_to_the_mount_above_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "file_extents", no_places)
    mounts = {"/": "disk0p2", "/etc": "disk0p3", "/et": "disk0p4"}
    with RootedTree(root) as tree:
        files, _unfit = find_redactions(tree, {}, mounts)
    assert {file.on for file in files} == {"disk0p3"}


def test_elsewhere_the_place_is_blanked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def place(_fd: int, name: str) -> tuple[Extent, ...]:
        return () if name.endswith("dsa_key") else (Extent(40960, 4096),)

    monkeypatch.setattr(survey, "file_extents", place)
    devices = {root.stat().st_dev: "disk0p1"}
    with RootedTree(root) as tree:
        files, unfit = find_redactions(tree, devices, {"/home": "disk0p2"})
    assert unfit == ()
    assert [(file.on, file.runs) for file in files] == [("disk0p1", ((40960, 4096),))] * 2


def test_what_is_emptied_is_read_from_its_cover() -> None:
    found = make_found()
    covered = tuple(
        replace(one, path="/dev/mapper/cover", covered=True) if one.on == "disk0p3" else one
        for one in found.contents
    )
    gone = RedactedFile(on="disk0p3", path="/etc/machine-id", size_bytes=33, runs=())
    made = plan(replace(found, contents=covered), make_survey(redacted=(gone,)))
    root = next(read for read in made.volumes if read.volume == "root")
    assert (root.path, root.covered, root.redacted) == ("/dev/mapper/cover", True, ())
    assert [(one.volume, one.path, one.bytes) for one in made.redactions] == [
        ("root", "/etc/machine-id", 33)
    ]
