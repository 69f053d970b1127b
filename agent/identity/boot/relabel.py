"""SELinux: files made without its kernel have no label, and the system is to give them theirs."""

import re
from collections.abc import Iterator
from typing import Final

from agent.identity.values import Deed, Touched
from agent.system.rooted import RootedTree

MARK: Final = "/.autorelabel"
"""Makes the system label all of its files by its policy at the next start, and start once more."""
_CONFIG: Final = "/etc/selinux/config"
_FIXFILES: Final = ("/usr/sbin/fixfiles", "/sbin/fixfiles", "/usr/bin/fixfiles")


def has_selinux(tree: RootedTree) -> bool:
    """Return whether the system runs with SELinux, enforcing or permissive."""
    text = tree.read_text(_CONFIG) or ""
    found = re.findall(r"(?m)^\s*SELINUX\s*=\s*(\w+)", text)
    return bool(found) and found[-1].lower() in ("enforcing", "permissive")


def ask_for_labels(tree: RootedTree) -> Iterator[Touched]:
    """Let the system label its files when it starts, if it runs with SELinux.

    Its own programs made an initramfs and a boot loader under our kernel, which labels nothing.
    """
    if has_selinux(tree) and _can_label(tree):
        tree.write(MARK, b"")
        yield Touched(MARK, Deed.WRITTEN, "SELinux labels")


def _can_label(tree: RootedTree) -> bool:
    """Return whether the system has the program that its start runs for the mark."""
    return any(tree.exists(path) for path in _FIXFILES)
