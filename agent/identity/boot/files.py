"""Where a system keeps what it is started with, and how such a file is read and changed."""

from collections.abc import Iterable, Iterator
from typing import Final

from agent.identity.values import Deed, Touched
from agent.system.rooted import RootedTree

MDADM_CONFS: Final = ("/etc/mdadm/mdadm.conf", "/etc/mdadm.conf")
DEFAULT_GRUB: Final = "/etc/default/grub"
KERNEL_CMDLINE: Final = "/etc/kernel/cmdline"
LOADER_ENTRIES: Final = "/boot/loader/entries/*.conf"
GRUB_CFGS: Final = ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/efi/EFI/*/grub.cfg")
GRUBENVS: Final = ("/boot/grub2/grubenv", "/boot/grub/grubenv", "/boot/efi/EFI/*/grubenv")


def matching(tree: RootedTree, patterns: Iterable[str]) -> Iterator[str]:
    """Yield what is there of `patterns`, in their order."""
    for pattern in patterns:
        yield from tree.glob(pattern)


def text_of(tree: RootedTree, path: str) -> str:
    """Return a file's text, none if it is not there; what is not UTF-8 is put back as it was."""
    return (tree.read(path) or b"").decode("utf-8", "surrogateescape")


def put(tree: RootedTree, path: str, text: str, item: str) -> Iterator[Touched]:
    """Write `text` unless the file has it already; yield what was touched, for `item`."""
    data = text.encode("utf-8", "surrogateescape")
    if data != (tree.read(path) or b""):
        tree.write(path, data)
        yield Touched(path, Deed.WRITTEN, item)
