"""Which system it is and what configures its network: a tree of files for each release."""

from pathlib import Path

import pytest

from agent.identity.os import find_kernel, identify_os, parse_os_release
from agent.system.rooted import RootedTree
from tests.unit.make_tree import make_listed_tree

OS = Path(__file__).parent.parent / "golden" / "os"
RELEASES = sorted(path.stem for path in OS.glob("*.txt"))


def test_all_releases_are_here() -> None:
    assert len(RELEASES) >= 16


@pytest.mark.parametrize("release", RELEASES)
def test_a_release_is_known_for_what_it_is(release: str, tmp_path: Path) -> None:
    expected = make_listed_tree(tmp_path, (OS / f"{release}.txt").read_text())
    with RootedTree(tmp_path) as tree:
        found = identify_os(tree)
    assert found is not None
    said = (
        f"{found.id} {found.version} | {found.kernel} | {found.bootloader} | "
        f"{found.initramfs_tool} | {found.network_stack}"
    )
    assert said == expected
    assert found.pretty_name


def test_an_empty_tree_is_no_system(tmp_path: Path) -> None:
    with RootedTree(tmp_path) as tree:
        assert identify_os(tree) is None
        assert find_kernel(tree) is None


def test_a_masked_service_is_not_in_use(tmp_path: Path) -> None:
    text = (OS / "debian-12.txt").read_text()
    make_listed_tree(tmp_path, text)
    (tmp_path / "etc/systemd/system/networking.service").symlink_to("/dev/null")
    wants = tmp_path / "etc/systemd/system/multi-user.target.wants"
    (wants / "systemd-networkd.service").symlink_to("/lib/systemd/system/systemd-networkd.service")
    with RootedTree(tmp_path) as tree:
        found = identify_os(tree)
    assert found is not None
    assert found.network_stack == "networkd"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("ID=debian", "debian"),
        ('ID="rhel"', "rhel"),
        ("ID='x y'", "x y"),
        ("ID=", ""),
        ('ID="a\\"b"', 'a"b'),
    ],
)
def test_an_assignment_of_os_release(line: str, value: str) -> None:
    assert parse_os_release(f"# a comment\n{line}\nbroken line\nX='open\n") == {"ID": value}
