"""Files of a system that name an md array by its UUID, where the array could not keep it."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from agent.identity.values import Deed, Touched
from agent.system.rooted import RootedTree

_CONFS: Final = ("/etc/mdadm.conf", "/etc/mdadm/mdadm.conf")
_ARGUMENTS: Final = (
    "/etc/default/grub",
    "/etc/kernel/cmdline",
    "/boot/grub*/grub.cfg",
    "/boot/grub*/grubenv",  # a block of a fixed size: what takes the place must be as long
    "/boot/loader/entries/*.conf",
)
_CONTAINER: Final = re.compile(rb"container=([0-9a-f:]{35})\b", re.IGNORECASE)


def follow_uuids(tree: RootedTree, new: Mapping[str, tuple[str, str]]) -> Iterator[Touched]:
    """Put new UUIDs where the old ones stand; yield each file that had one.

    `new` has, by the old UUID of a volume of Intel's RAID, its new one and that of its container,
    as mdadm writes them: 8:8:8:8 hex digits. What the old container was called, the volume's line
    in mdadm.conf says.
    """
    names = {old.lower().encode(): volume.encode() for old, (volume, _) in new.items()}
    for path in _regular(tree, _CONFS):
        for line in (tree.read(path) or b"").splitlines():
            for old, (_, container) in new.items():
                if old.encode() in line.lower() and (found := _CONTAINER.search(line)):
                    names[found[1].lower()] = container.encode()
    if not names:
        return
    any_of = re.compile(b"|".join(map(re.escape, names)), re.IGNORECASE)
    for path in _regular(tree, (*_CONFS, *_ARGUMENTS)):
        before = tree.read(path) or b""
        after = any_of.sub(lambda found: names[found[0].lower()], before)
        if after != before:
            tree.write(path, after)
            yield Touched(path, Deed.WRITTEN, "md arrays")


def _regular(tree: RootedTree, patterns: tuple[str, ...]) -> Iterator[str]:
    for pattern in patterns:
        yield from (path for path in tree.glob(pattern) if tree.kind(path) == "file")
