"""A mounted system's files can never lead outside it: links, `..`, devices, FIFOs."""

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import AgentError
from agent.system.rooted import RootedError, RootedTree

NAMES = ["a", "b", "etc", "up", "abs", "self"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """`outside/` with a secret, and beside it `root/`, a system."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (tmp_path / "root" / "etc").mkdir(parents=True)
    (tmp_path / "root" / "etc" / "hostname").write_text("golden\n")
    return tmp_path


@pytest.fixture
def tree(place: Path) -> Iterator[RootedTree]:
    with RootedTree(place / "root") as tree:
        yield tree


def digest(top: Path) -> str:
    """Return a digest of every path, mode, link and byte below `top`."""
    whole = hashlib.sha256()
    for path in sorted(top.rglob("*")):
        found = path.lstat()
        whole.update(f"{path.relative_to(top)} {found.st_mode:o} {found.st_uid}".encode())
        if path.is_symlink():
            whole.update(str(path.readlink()).encode())
        elif stat.S_ISREG(found.st_mode):
            whole.update(path.read_bytes())
    return whole.hexdigest()


def test_a_file_is_read_and_replaced_with_its_mode(tree: RootedTree, place: Path) -> None:
    file = place / "root/etc/hostname"
    file.chmod(0o640)
    assert tree.read("/etc/hostname") == b"golden\n"
    tree.write("/etc/hostname", "web1\n")
    assert file.read_text() == "web1\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    tree.write("/etc/hostname", "web1\n", mode=0o444)
    assert stat.S_IMODE(file.stat().st_mode) == 0o444
    assert sorted(path.name for path in file.parent.iterdir()) == ["hostname"]


def test_a_new_file_makes_its_directories(tree: RootedTree, place: Path) -> None:
    tree.write("/var/lib/x/y", b"z")
    assert (place / "root/var/lib/x/y").read_bytes() == b"z"
    assert stat.S_IMODE((place / "root/var/lib/x/y").stat().st_mode) == 0o644


def test_an_absolute_link_resolves_inside(tree: RootedTree, place: Path) -> None:
    (place / "root/etc/absolute").symlink_to("/etc/hostname")
    (place / "root/etc/out").symlink_to(place / "outside/secret")
    assert tree.read_text("/etc/absolute") == "golden\n"
    assert tree.read("/etc/out") is None
    tree.write("/etc/absolute", "web1\n")
    assert (place / "root/etc/hostname").read_text() == "web1\n"
    assert (place / "root/etc/absolute").is_symlink()


def test_a_directory_link_out_is_made_harmless(tree: RootedTree, place: Path) -> None:
    before = digest(place / "outside")
    (place / "root/etc/ssh").symlink_to("../../../../../outside")
    with pytest.raises(AgentError):
        tree.write("/etc/ssh/secret", "mine")
    assert tree.read("/etc/ssh/secret") is None
    assert not tree.remove("/etc/ssh/secret")
    assert digest(place / "outside") == before


def test_a_hard_link_is_not_written_through(tree: RootedTree, place: Path) -> None:
    os.link(place / "outside/secret", place / "root/etc/hard")
    tree.write("/etc/hard", "mine")
    assert (place / "outside/secret").read_text() == "secret"


def test_a_fifo_does_not_hold_us_and_a_device_is_not_read(tree: RootedTree, place: Path) -> None:
    os.mkfifo(place / "root/etc/fifo")
    assert tree.read("/etc/fifo") is None
    tree.write("/etc/fifo", "plain")
    assert tree.read("/etc/fifo") == b"plain"
    (place / "root/etc/null").symlink_to("/dev/null")
    assert tree.read("/etc/null") is None


def test_a_loop_of_links_ends(tree: RootedTree, place: Path) -> None:
    (place / "root/etc/one").symlink_to("two")
    (place / "root/etc/two").symlink_to("one")
    assert tree.read("/etc/one") is None
    with pytest.raises(RootedError, match="too many links"):
        tree.write("/etc/one", "x")


def test_magic_links_are_refused(tree: RootedTree, place: Path) -> None:
    (place / "root/proc").symlink_to(f"/proc/{os.getpid()}/root")
    assert tree.read("/proc/etc/hostname") is None


@pytest.mark.parametrize("path", ["etc/hostname", "/etc/../x", "/etc/\0", "../x", ""])
def test_a_path_that_is_none_is_refused(tree: RootedTree, path: str) -> None:
    with pytest.raises(RootedError):
        tree.write(path, "x")


def test_a_large_file_is_not_configuration(tree: RootedTree, place: Path) -> None:
    with (place / "root/etc/big").open("wb") as file:
        file.truncate(5 * 1024 * 1024)
    with pytest.raises(RootedError, match="not a file to configure"):
        tree.read("/etc/big")


def test_a_directory_is_never_removed_or_overwritten(tree: RootedTree) -> None:
    assert not tree.remove("/etc")
    with pytest.raises(RootedError):
        tree.write("/etc", "x")


def test_a_tree_goes_but_what_its_links_name_stays(tree: RootedTree, place: Path) -> None:
    below = place / "root/var/lib/cloud"
    (below / "deep").mkdir(parents=True)
    (below / "deep/file").write_text("x")
    (below / "out").symlink_to(place / "outside")
    (below / "etc").symlink_to("/etc")
    assert tree.remove_tree("/var/lib/cloud") == (
        "/var/lib/cloud/deep/file",
        "/var/lib/cloud/etc",
        "/var/lib/cloud/out",
    )
    assert list(below.iterdir()) == []
    assert tree.read_text("/etc/hostname") == "golden\n"
    assert (place / "outside/secret").exists()


def test_globs_match_within_one_name(tree: RootedTree, place: Path) -> None:
    for name in ("ssh_host_rsa_key", "ssh_host_rsa_key.pub", "sshd_config"):
        tree.write(f"/etc/ssh/{name}", "")
    assert tree.glob("/etc/ssh/ssh_host_*key") == ("/etc/ssh/ssh_host_rsa_key",)
    assert tree.glob("/etc/*/sshd_config") == ("/etc/ssh/sshd_config",)
    assert tree.glob("/nowhere/*") == ()


TARGETS = st.sampled_from(
    ["/", "/etc", "..", "../..", "../../outside", "/outside", "a", "etc/../..", "/proc/self/root"]
)
PATHS = st.lists(st.sampled_from([*NAMES, "secret", "outside"]), min_size=1, max_size=4).map(
    lambda words: "/" + "/".join(words)
)
MAKING = st.tuples(
    PATHS, st.sampled_from(["directory", "file", "link", "absolute", "fifo"]), TARGETS
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(MAKING, max_size=12), st.lists(PATHS, min_size=1, max_size=6))
def test_whatever_a_template_holds_the_outside_stays_as_it_was(
    makings: list[tuple[str, str, str]], paths: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "outside").mkdir()
        (place / "outside/secret").write_text("secret")
        root = place / "root"
        root.mkdir()
        for path, kind, target in makings:
            at = root / path[1:]
            try:
                at.parent.mkdir(parents=True, exist_ok=True)
                if not at.parent.resolve().is_relative_to(root):
                    continue  # the test itself must not build outside
                if kind == "directory":
                    at.mkdir()
                elif kind == "file":
                    os.close(os.open(at, os.O_CREAT | os.O_EXCL))  # never into a FIFO
                elif kind == "fifo":
                    os.mkfifo(at)
                else:
                    at.symlink_to(str(place / "outside") if kind == "absolute" else target)
            except OSError:
                continue
        before = digest(place / "outside"), sorted(place.iterdir())
        with RootedTree(root) as tree:
            for path in paths:
                for act in (
                    lambda p: tree.write(p, "written"),
                    lambda p: tree.link(p, "/etc/passwd"),
                    tree.remove,
                    tree.remove_tree,
                    lambda p: tree.change_mode(p, 0o600),
                    tree.make_directories,
                ):
                    try:
                        act(path)
                    except AgentError:
                        continue
                assert tree.read(path) != b"secret"
        assert (digest(place / "outside"), sorted(place.iterdir())) == before
