"""The files by which a system finds its volumes, changed for another layout. Runs nothing."""

from collections.abc import Iterator
from typing import Final

from agent.identity.boot.crypttab import render_crypttab
from agent.identity.boot.files import (
    DEFAULT_GRUB,
    GRUB_CFGS,
    GRUBENVS,
    KERNEL_CMDLINE,
    LOADER_ENTRIES,
    MDADM_CONFS,
    matching,
    put,
    text_of,
)
from agent.identity.boot.fstab import Changes, rewrite_fstab
from agent.identity.boot.grub import (
    rewrite_arguments,
    rewrite_bls,
    rewrite_default_grub,
    rewrite_grub_cfg,
    rewrite_grubenv,
    root_arguments,
)
from agent.identity.boot.initramfs import render_resume
from agent.identity.boot.mdadm_conf import render_mdadm_conf
from agent.identity.boot.names import volume_at
from agent.identity.values import Deed, Touched
from agent.model.layout import Layout
from agent.model.nodes import Array, Luks
from agent.system.rooted import RootedTree

ITEM: Final = "other layout"


def rewrite_boot_files(tree: RootedTree, old: Layout, new: Layout) -> tuple[Touched, ...]:
    """Make the files of the system in `tree` say `new` where they said `old`.

    A volume of `new` is where its `mount` says. Returns each file touched, in order. The
    initramfs and the boot code are made of these files: `renew_boot` must follow.
    """
    return tuple(_rewritten(tree, old, new))


def _rewritten(tree: RootedTree, old: Layout, new: Layout) -> Iterator[Touched]:
    dracut = is_dracut(tree)
    wanted = root_arguments(new, dracut=dracut)
    yield from put(
        tree, "/etc/fstab", rewrite_fstab(text_of(tree, "/etc/fstab"), Changes(old, new)), ITEM
    )
    if tree.exists("/etc/crypttab") or any(isinstance(node, Luks) for node in new.nodes):
        text = text_of(tree, "/etc/crypttab")
        changed = render_crypttab(text, old, new, initramfs_tools=not dracut)
        yield from put(tree, "/etc/crypttab", changed, ITEM)
    conf = find_mdadm_conf(tree)
    if tree.exists(conf) or any(isinstance(node, Array) for node in new.nodes):
        yield from put(tree, conf, render_mdadm_conf(text_of(tree, conf), new), ITEM)
    for path in tree.glob("/etc/lvm/devices/*.devices"):
        # without the file, LVM looks at all disks, as it must once they are others
        if tree.remove(path):
            yield Touched(path, Deed.REMOVED, ITEM)
    if tree.exists("/etc/initramfs-tools"):
        yield from put(tree, "/etc/initramfs-tools/conf.d/resume", render_resume(new), ITEM)
    if tree.exists(DEFAULT_GRUB):
        encrypted = _boot_is_encrypted(new)
        text = text_of(tree, DEFAULT_GRUB)
        changed = rewrite_default_grub(text, wanted, dracut=dracut, boot_is_encrypted=encrypted)
        yield from put(tree, DEFAULT_GRUB, changed, ITEM)
    if text := text_of(tree, KERNEL_CMDLINE):
        yield from put(tree, KERNEL_CMDLINE, rewrite_arguments(text, wanted) + "\n", ITEM)
    for path in tree.glob(LOADER_ENTRIES):
        yield from put(tree, path, rewrite_bls(text_of(tree, path), wanted), ITEM)
    for path in matching(tree, GRUBENVS):
        if "kernelopts=" in (text := text_of(tree, path)):
            yield from put(tree, path, rewrite_grubenv(text, wanted), ITEM)
    for path in matching(tree, GRUB_CFGS):
        yield from put(tree, path, rewrite_grub_cfg(text_of(tree, path), wanted, old, new), ITEM)


def is_dracut(tree: RootedTree) -> bool:
    """Return whether dracut makes the initramfs; where both are, initramfs-tools' hooks do."""
    if tree.exists("/usr/sbin/update-initramfs"):
        return False
    return any(tree.exists(path) for path in ("/usr/bin/dracut", "/usr/sbin/dracut"))


def find_mdadm_conf(tree: RootedTree) -> str:
    """Return where mdadm of this system has its file: Debian's folder, or /etc itself."""
    debian, other = MDADM_CONFS
    return debian if tree.is_directory("/etc/mdadm") else other


def _boot_is_encrypted(layout: Layout) -> bool:
    """Return whether GRUB itself must open a container to read its files."""
    volume = volume_at(layout, "/boot")
    nodes = layout.carriers(volume.on) if volume else ()
    return any(isinstance(node, Luks) for node in nodes)
