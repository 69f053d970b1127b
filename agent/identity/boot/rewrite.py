"""The files by which a system finds its volumes, changed for another layout. Runs nothing."""

from collections.abc import Iterator
from typing import Final

from agent.identity.boot.crypttab import render_crypttab
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
_GRUB_CFGS: Final = ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/efi/EFI/*/grub.cfg")
_GRUBENVS: Final = ("/boot/grub2/grubenv", "/boot/grub/grubenv", "/boot/efi/EFI/*/grubenv")


def rewrite_boot_files(tree: RootedTree, old: Layout, new: Layout) -> tuple[Touched, ...]:
    """Make the files of the system in `tree` say `new` where they said `old`.

    A volume of `new` is where its `mount` says. Returns each file touched, in order. The
    initramfs and the boot code are made of these files: `renew_boot` must follow.
    """
    return tuple(_rewritten(tree, old, new))


def _rewritten(tree: RootedTree, old: Layout, new: Layout) -> Iterator[Touched]:
    dracut = is_dracut(tree)
    wanted = root_arguments(new, dracut=dracut)
    yield from _put(tree, "/etc/fstab", rewrite_fstab(_text(tree, "/etc/fstab"), Changes(old, new)))
    if tree.exists("/etc/crypttab") or any(isinstance(node, Luks) for node in new.nodes):
        text = _text(tree, "/etc/crypttab")
        changed = render_crypttab(text, old, new, initramfs_tools=not dracut)
        yield from _put(tree, "/etc/crypttab", changed)
    conf = find_mdadm_conf(tree)
    if tree.exists(conf) or any(isinstance(node, Array) for node in new.nodes):
        yield from _put(tree, conf, render_mdadm_conf(_text(tree, conf), new))
    for path in tree.glob("/etc/lvm/devices/*.devices"):
        # without the file, LVM looks at all disks, as it must once they are others
        if tree.remove(path):
            yield Touched(path, Deed.REMOVED, ITEM)
    if tree.exists("/etc/initramfs-tools"):
        yield from _put(tree, "/etc/initramfs-tools/conf.d/resume", render_resume(new))
    path = "/etc/default/grub"
    if tree.exists(path):
        encrypted = _boot_is_encrypted(new)
        text = _text(tree, path)
        changed = rewrite_default_grub(text, wanted, dracut=dracut, boot_is_encrypted=encrypted)
        yield from _put(tree, path, changed)
    if text := _text(tree, "/etc/kernel/cmdline"):
        yield from _put(tree, "/etc/kernel/cmdline", rewrite_arguments(text, wanted) + "\n")
    for path in tree.glob("/boot/loader/entries/*.conf"):
        yield from _put(tree, path, rewrite_bls(_text(tree, path), wanted))
    for path in (path for pattern in _GRUBENVS for path in tree.glob(pattern)):
        if "kernelopts=" in (text := _text(tree, path)):
            yield from _put(tree, path, rewrite_grubenv(text, wanted))
    for path in (path for pattern in _GRUB_CFGS for path in tree.glob(pattern)):
        yield from _put(tree, path, rewrite_grub_cfg(_text(tree, path), wanted, old, new))


def is_dracut(tree: RootedTree) -> bool:
    """Return whether dracut makes the initramfs; where both are, initramfs-tools' hooks do."""
    if tree.exists("/usr/sbin/update-initramfs"):
        return False
    return any(tree.exists(path) for path in ("/usr/bin/dracut", "/usr/sbin/dracut"))


def find_mdadm_conf(tree: RootedTree) -> str:
    """Return where mdadm of this system has its file: Debian's folder, or /etc itself."""
    return "/etc/mdadm/mdadm.conf" if tree.is_directory("/etc/mdadm") else "/etc/mdadm.conf"


def _boot_is_encrypted(layout: Layout) -> bool:
    """Return whether GRUB itself must open a container to read its files."""
    volume = volume_at(layout, "/boot")
    nodes = layout.carriers(volume.on) if volume else ()
    return any(isinstance(node, Luks) for node in nodes)


def _text(tree: RootedTree, path: str) -> str:
    # what is not UTF-8 comes back as it was
    return (tree.read(path) or b"").decode("utf-8", "surrogateescape")


def _put(tree: RootedTree, path: str, text: str) -> Iterator[Touched]:
    data = text.encode("utf-8", "surrogateescape")
    if data != (tree.read(path) or b""):
        tree.write(path, data)
        yield Touched(path, Deed.WRITTEN, ITEM)
