"""Files of a system that name an md array by its UUID, where the array could not keep it."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

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
from agent.identity.values import Touched
from agent.model.nodes import MD_UUID
from agent.system.rooted import RootedTree

ITEM: Final = "md arrays"
_CONTAINER: Final = re.compile(rf"container=({MD_UUID})\b", re.IGNORECASE)
# In a grubenv, a block of a fixed size, what takes the place of a UUID must be as long.
_ARGUMENTS: Final = (DEFAULT_GRUB, KERNEL_CMDLINE, *GRUB_CFGS, *GRUBENVS, LOADER_ENTRIES)


def follow_uuids(tree: RootedTree, new: Mapping[str, tuple[str, str]]) -> Iterator[Touched]:
    """Put new UUIDs where the old ones stand; yield each file that had one.

    `new` has, by the old UUID of a volume of Intel's RAID, its new one and that of its container,
    as mdadm writes them: 8:8:8:8 hex digits. What the old container was called, the volume's line
    in mdadm.conf says.
    """
    if not new:
        return
    names = {old: volume for old, (volume, _) in new.items()}
    for path in MDADM_CONFS:
        for line in text_of(tree, path).lower().splitlines():
            for old, (_, container) in new.items():
                if old in line and (found := _CONTAINER.search(line)):
                    names[found[1]] = container
    any_of = re.compile("|".join(names), re.IGNORECASE)
    for path in matching(tree, (*MDADM_CONFS, *_ARGUMENTS)):
        text = any_of.sub(lambda found: names[found[0].lower()], text_of(tree, path))
        yield from put(tree, path, text, ITEM)
