"""A file tree as a value, and what of the packages goes into it."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from images.base import choose_files
from images.elf import needed
from images.host import BuildError
from images.recipe import SHIPPED, Kernel, Recipe, read_recipe
from images.tree import Tree, make_file, make_link, read_folder, read_tar, unpack, write_tar


def make_recipe(*keep: str) -> Recipe:
    kernel = Kernel(early=(), modules=())
    return Recipe(suite="trixie", packages=(), keep=keep, applets=(), kernel=kernel)


def test_a_tar_comes_back_as_it_was_all_owned_by_root() -> None:
    tree = Tree()
    tree.add("usr/bin/tool", make_file(b"body", 0o755))
    tree.add("bin", make_link("usr/bin"))
    out = io.BytesIO()
    write_tar(out, tree, epoch=7)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        assert {(m.uid, m.gid, m.uname, m.mtime) for m in archive} == {(0, 0, "", 7)}
    assert Tree(read_tar(io.BytesIO(out.getvalue()))) == tree


def test_hard_links_become_files_and_set_user_id_is_dropped() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        first = tarfile.TarInfo("./bin/su")
        first.mode, first.size, first.uid = 0o4755, 4, 1000
        archive.addfile(first, io.BytesIO(b"body"))
        second = tarfile.TarInfo("./bin/su2")
        second.type, second.linkname = tarfile.LNKTYPE, "./bin/su"
        archive.addfile(second)
    found = dict(read_tar(io.BytesIO(out.getvalue())))
    assert found == {"bin/su": make_file(b"body", 0o755), "bin/su2": make_file(b"body", 0o755)}


def test_links_are_followed_through_folders_and_not_for_ever() -> None:
    tree = Tree()
    tree.add("lib", make_link("usr/lib"))
    tree.add("usr/lib/libc.so.6", make_link("/usr/lib/x/libc-2.so"))
    tree.add("usr/lib/x/libc-2.so", make_file(b""))
    tree.add("a", make_link("b"))
    tree.add("b", make_link("a"))
    assert tree.resolve("lib/libc.so.6") == "usr/lib/x/libc-2.so"
    assert tree.resolve("usr/lib/none") is None
    assert tree.resolve("a") is None


def test_the_building_machines_umask_does_not_show(tmp_path: Path) -> None:
    for mask in (0o077, 0o002):
        before = os.umask(mask)
        folder = tmp_path / f"{mask:o}"
        (folder / "sub").mkdir(parents=True)
        (folder / "sub/plain").write_text("x")
        (folder / "sub/run").write_text("x")
        (folder / "sub/run").chmod(0o777 & ~mask)
        os.umask(before)
    assert read_folder(tmp_path / "77") == read_folder(tmp_path / "2")


def test_what_is_unpacked_reads_the_same(tmp_path: Path) -> None:
    tree = Tree()
    tree.add("usr/bin/tool", make_file(b"body", 0o755))
    tree.add("usr/bin/other", make_link("tool"))
    unpack(tree, tmp_path)
    assert read_folder(tmp_path) == tree


def test_only_what_is_kept_goes_in_and_where_its_links_lead() -> None:
    everything = Tree()
    everything.add("usr/bin/sh", make_link("dash"))
    everything.add("usr/bin/dash", make_file(b"dash", 0o755))
    everything.add("usr/bin/perl", make_file(b"perl", 0o755))
    tree = choose_files(everything, make_recipe("usr/bin/sh"))
    assert set(tree) == {"usr", "usr/bin", "usr/bin/sh", "usr/bin/dash"}


def test_a_kept_file_that_no_package_has_is_an_error() -> None:
    with pytest.raises(BuildError, match="no package has usr/sbin/sfdisk"):
        choose_files(Tree(), make_recipe("usr/sbin/sfdisk"))


def test_the_recipe_that_we_ship_reads() -> None:
    assert "linux-image-amd64" in read_recipe(SHIPPED).packages


def test_an_unknown_word_in_a_recipe_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(SHIPPED.read_text().replace("suite =", "sweet ="))
    with pytest.raises(Exception, match="sweet"):
        read_recipe(path)


def test_a_script_needs_no_library() -> None:
    assert needed(b"#!/bin/sh\n") == ()
