"""Drivers: the chosen ones, what they depend on, in an order that loads."""

import lzma

import pytest

from images.host import BuildError
from images.kernel import add_firmware, choose_drivers, module_info, module_name
from images.recipe import Kernel
from images.tree import Tree, make_file

ROOT = "usr/lib/modules/6.12.1-amd64/kernel/"


def make_module(depends: str = "", softdep: str = "", firmware: str = "") -> bytes:
    words = [b"license=GPL", b"depends=" + depends.encode()]
    words += [b"softdep=" + softdep.encode()] if softdep else []
    words += [b"firmware=" + firmware.encode()] if firmware else []
    return b"\x7fELF\0" + b"\0".join(words) + b"\0rest"


def make_everything() -> Tree:
    tree = Tree()
    modules = {
        "fs/ext4/ext4": make_module("jbd2,mbcache"),
        "fs/jbd2/jbd2": make_module(),
        "fs/mbcache": make_module(),
        "drivers/net/r8169": make_module(softdep="pre: realtek"),
        "drivers/net/phy/realtek": make_module(),
        "drivers/net/bnx2x": make_module("mdio", firmware="bnx2x/e1.fw"),
        "drivers/net/mdio-bus": make_module(),
        "sound/snd": make_module(),
    }
    for path, body in modules.items():
        tree.add(f"{ROOT}{path}.ko.xz", make_file(lzma.compress(body)))
    return tree


def test_a_driver_brings_what_it_depends_on() -> None:
    kernel = Kernel(early=("mbcache",), modules=("fs/ext4/*", "drivers/net/r8169"))
    drivers = choose_drivers(make_everything(), kernel)
    assert set(drivers.by_name) == {"ext4", "jbd2", "mbcache", "r8169", "realtek"}
    assert drivers.release == "6.12.1-amd64"


def test_early_drivers_load_after_what_they_depend_on() -> None:
    kernel = Kernel(early=("ext4",), modules=())
    drivers = choose_drivers(make_everything(), kernel)
    assert [d.path for d in drivers.in_load_order(("ext4",))] == [
        *("fs/jbd2/jbd2", "fs/mbcache", "fs/ext4/ext4")
    ]


def test_a_missing_early_driver_is_an_error() -> None:
    with pytest.raises(BuildError, match="no driver squashfs"):
        choose_drivers(make_everything(), Kernel(early=("squashfs",), modules=()))


def test_a_driver_named_without_wildcards_must_exist() -> None:
    with pytest.raises(BuildError, match="drivers/scsi/megaraid"):
        choose_drivers(make_everything(), Kernel(early=(), modules=("drivers/scsi/megaraid",)))


def test_two_kernels_are_an_error() -> None:
    tree = make_everything()
    tree.add("usr/lib/modules/6.13/kernel/fs/xfs/xfs.ko", make_file(make_module()))
    with pytest.raises(BuildError, match="expected one kernel"):
        choose_drivers(tree, Kernel(early=(), modules=()))


def test_only_the_firmware_that_a_driver_names_goes_in() -> None:
    everything = make_everything()
    everything.add("usr/lib/firmware/bnx2x/e1.fw", make_file(b"blob"))
    everything.add("usr/lib/firmware/bnx2x/e2.fw", make_file(b"blob"))
    drivers = choose_drivers(everything, Kernel(early=(), modules=("drivers/net/bnx2x",)))
    tree = Tree()
    assert add_firmware(tree, drivers, everything) == 1
    assert "usr/lib/firmware/bnx2x/e1.fw" in tree
    assert "usr/lib/firmware/bnx2x/e2.fw" not in tree


def test_names_and_words_of_a_module() -> None:
    assert module_name("drivers/md/dm-mod") == "dm_mod"
    info = module_info(make_module("a,b", "pre: c"))
    assert info == {"depends": ["a,b"], "softdep": ["pre: c"]}
