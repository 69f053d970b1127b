"""A btrfs on several devices, put together from what was found on each."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec.structs import replace

from agent.model.found import FoundContent
from agent.model.layout import BtrfsDevice, Raw
from agent.model.nodes import NodeId
from agent.tools.btrfs import content_of
from agent.tools.btrfs_map import BtrfsFacts, btrfs_facts


def joined(contents: Iterable[FoundContent]) -> tuple[dict[NodeId, FoundContent], tuple[str, ...]]:
    """Return `contents` by what they are on, and what to say of them.

    Of each btrfs whose devices are all there, the first is the Btrfs that is mounted; each knows
    where the others are. Otherwise each device is kept whole.
    """
    found = {one.on: one for one in contents}
    notes = []
    devices: dict[str, dict[NodeId, BtrfsFacts]] = {}
    for one in found.values():
        if isinstance(one.content, BtrfsDevice):
            facts = btrfs_facts(Path(one.path))
            devices.setdefault(facts.uuid, {})[one.on] = facts
    for uuid, members in devices.items():
        if missing := _incomplete(members):
            notes.append(f"the btrfs {uuid} on {', '.join(members)} is kept whole: {missing}")
            found |= {on: replace(found[on], content=Raw()) for on in members}
            continue
        first = next(iter(members))
        paths = {on: found[on].path for on in members}
        for on, facts in members.items():
            one = replace(found[on], others=tuple(paths[other] for other in paths if other != on))
            found[on] = replace(one, content=content_of(facts)) if on == first else one
    return found, tuple(notes)


def _incomplete(members: Mapping[NodeId, BtrfsFacts]) -> str | None:
    """Return why these devices are not one sound btrfs, if so."""
    count = next(iter(members.values())).devices
    if len({facts.device_id for facts in members.values()}) != count or len(members) != count:
        return f"{len(members)} of its {count} devices are here"
    if len({facts.generation for facts in members.values()}) > 1:
        return "one of them was away for a while"
    return None
