"""What keeps a disk busy now: mounts, swap, md, device-mapper."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from agent.probe.tree import Tree

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Usage:
    """Mounts and swaps of the running system, by device number (`8:1`) and by path."""

    mounts: tuple[tuple[str, str, str], ...] = ()
    """(device number, source, mount point)"""
    swaps: tuple[str, ...] = ()

    def mounted(self, number: str | None, path: str) -> tuple[str, ...]:
        """Return the mount points of one device. btrfs shows other numbers: so by path too."""
        found = (m[2] for m in self.mounts if path == m[1] or (number and number == m[0]))
        return tuple(dict.fromkeys(found))


def probe_usage(tree: Tree) -> Usage:
    return Usage(
        parse_mountinfo(tree.text("/proc/self/mountinfo") or ""),
        parse_swaps(tree.text("/proc/swaps") or ""),
    )


def parse_mountinfo(text: str) -> tuple[tuple[str, str, str], ...]:
    """Return (device number, source, mount point) of each line of proc(5)'s mountinfo."""
    found = []
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        if dash and len(fields) >= 5 and len(tail) >= 2:
            found.append((fields[2], _plain(tail[1]), _plain(fields[4])))
    return tuple(found)


def parse_swaps(text: str) -> tuple[str, ...]:
    """Return the devices and files in /proc/swaps."""
    return tuple(_plain(line.split()[0]) for line in text.splitlines()[1:] if line.strip())


def find_users(tree: Tree, usage: Usage, sys_dir: str, path: str) -> Iterator[str]:
    """Yield, in words, what uses the block device `path` (`sys_dir` in sysfs) or stands on it."""
    for mount in usage.mounted(tree.text(f"{sys_dir}/dev"), path):
        yield f"{path} is mounted on {mount}"
    if path in usage.swaps:
        yield f"{path} is swap in use"
    for holder in tree.names(f"{sys_dir}/holders"):
        name = tree.text(f"/sys/class/block/{holder}/dm/name") or holder
        yield f"{path} carries {name}"
        above = f"/dev/mapper/{name}" if holder.startswith("dm-") else f"/dev/{holder}"
        yield from find_users(tree, usage, f"/sys/class/block/{holder}", above)


def _plain(text: str) -> str:
    """Undo proc(5)'s `\\040` for a space."""
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), text)
