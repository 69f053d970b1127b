"""SELinux labels of what a deployment makes: inherited, or asked for at the first start."""

import os
from pathlib import Path

import pytest

from agent.identity.boot.relabel import ask_for_labels, has_selinux
from agent.identity.values import Deed, Touched
from agent.system.rooted import RootedTree

LABEL = b"system_u:object_r:etc_t:s0\0"


def system(tmp_path: Path, config: str | None, *, fixfiles: bool = True) -> Path:
    root = tmp_path / "root"
    (root / "etc/selinux").mkdir(parents=True)
    if config is not None:
        (root / "etc/selinux/config").write_text(config)
    if fixfiles:
        (root / "usr/sbin").mkdir(parents=True)
        (root / "usr/sbin/fixfiles").touch()
    return root


@pytest.mark.parametrize(
    ("config", "runs"),
    [
        ("# SELINUX= can take one of\nSELINUX=enforcing\nSELINUXTYPE=targeted\n", True),
        ("SELINUX = Permissive\n", True),
        ("SELINUX=disabled\n", False),
        ("#SELINUX=enforcing\nSELINUXTYPE=targeted\n", False),
        ("", False),
        (None, False),
    ],
)
def test_a_system_with_selinux_labels_its_files_when_it_starts(
    config: str | None, runs: bool, tmp_path: Path
) -> None:
    root = system(tmp_path, config)
    with RootedTree(root) as tree:
        assert has_selinux(tree) is runs
        wanted = [Touched("/.autorelabel", Deed.WRITTEN, "SELinux labels")] if runs else []
        assert list(ask_for_labels(tree)) == wanted
    assert (root / ".autorelabel").exists() is runs


def test_without_fixfiles_the_mark_would_do_nothing(tmp_path: Path) -> None:
    with RootedTree(system(tmp_path, "SELINUX=enforcing\n", fixfiles=False)) as tree:
        assert list(ask_for_labels(tree)) == []


def test_what_is_new_has_its_folders_label(tmp_path: Path) -> None:
    root = system(tmp_path, None)
    try:
        os.setxattr(root / "etc", "security.selinux", LABEL)
    except OSError:
        pytest.skip("no labels on this filesystem")
    with RootedTree(root) as tree:
        tree.make_directories("/etc/netplan/deep")
        tree.write("/etc/netplan/10.yaml", "x")
        tree.link("/etc/resolv.conf", "/run/resolv.conf")
    for name in ("netplan", "netplan/deep", "netplan/10.yaml", "resolv.conf"):
        path = root / "etc" / name
        assert os.getxattr(path, "security.selinux", follow_symlinks=False) == LABEL
