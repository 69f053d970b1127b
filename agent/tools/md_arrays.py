"""Which members make which array, and what speaks against reading it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.model.md_size import held_bytes, is_redundant, lost_members
from agent.model.nodes import Array, MdLevel, MdMetadata, NodeId
from agent.tools.md_examine import MdMember

Members = Sequence[tuple[NodeId, MdMember]]


@dataclass(frozen=True, slots=True)
class FoundArray:
    """One array, as its members tell of it."""

    array: Array | None
    """None: of a kind that we cannot describe; `unfit` says why."""
    name: str
    """How to call it before a person."""
    parts: tuple[NodeId, ...]
    """All that carry its superblock, those that are left out of it too."""
    unfit: tuple[str, ...]
    """Why it must not be captured, each a sentence without its full stop."""
    notes: tuple[str, ...] = ()
    """What a person should know, though it is no obstacle."""
    data_offset_bytes: int | None = None
    """Where the data begin on every member; None: not the same on all."""


def find_arrays(members: Members) -> tuple[FoundArray, ...]:
    """Return the arrays that `members` make, in the order in which they first appear."""
    groups: dict[str, list[tuple[NodeId, MdMember]]] = {}
    for node, member in members:
        key = member.uuid if member.metadata is not None else "other"
        groups.setdefault(key, []).append((node, member))
    return tuple(_array(f"md{number}", group) for number, group in enumerate(groups.values()))


def _array(node_id: NodeId, group: Members) -> FoundArray:
    first = max(group, key=lambda one: one[1].events)[1]
    name = f"the array {first.name or first.uuid or node_id}"
    parts = tuple(node for node, _ in group)
    trouble = [f"{node} {what}" for node, member in group for what in member.trouble]
    if first.level is None or first.metadata is None or not first.uuid:
        why = tuple(dict.fromkeys(trouble)) or (f"{', '.join(parts)}: of no array that we know",)
        return FoundArray(None, name, parts, why)
    current = [(node, one) for node, one in group if one.slot is None or _is_current(one, first)]
    late = [(node, one) for node, one in group if (node, one) not in current]
    slots, doubled = _by_slot(current)
    there = list(slots.values())
    array = Array(
        id=node_id,
        members=tuple(
            slots[slot][0] if slot in slots else None for slot in range(first.raid_devices)
        ),
        spares=tuple(node for node, one in current if one.slot is None),
        level=first.level,
        metadata=first.metadata,
        chunk_bytes=first.chunk_bytes,
        layout=first.layout,
        uuid=first.uuid,
        name=first.name,
        bitmap=first.bitmap,
        size_bytes=held_bytes(
            first.level,
            first.layout,
            first.chunk_bytes,
            first.raid_devices,
            [one.area_bytes for _, one in there],
        ),
    )
    unfit = [*trouble, *_unfit(name, first, slots, late), *doubled]
    offsets = {one.data_offset_bytes for _, one in there}
    missing = array.members.count(None)
    notes = () if not missing else (f"{name} is degraded: {missing} of its members are missing",)
    return FoundArray(
        array, name, parts, tuple(unfit), notes, offsets.pop() if len(offsets) == 1 else None
    )


def _is_current(member: MdMember, newest: MdMember) -> bool:
    # A member may be one event behind: the power went while superblocks were written.
    return newest.events - member.events <= 1


def _by_slot(current: Members) -> tuple[dict[int, tuple[NodeId, MdMember]], list[str]]:
    """Return the member of each slot, and a sentence for each slot that two claim.

    A superblock of 0.90 at the end of a disk's last partition is also found on the disk itself;
    the smaller of the two is meant.
    """
    slots: dict[int, tuple[NodeId, MdMember]] = {}
    doubled = []
    for node, member in sorted(current, key=lambda one: one[1].device_bytes):
        if member.slot is None:
            continue
        if member.slot not in slots:
            slots[member.slot] = (node, member)
        elif not (member.metadata is MdMetadata.V0_90 and node in _whole(slots[member.slot][0])):
            other = slots[member.slot][0]
            doubled.append(f"{node} and {other} both say that they are member {member.slot}")
    return {slot: slots[slot] for slot in sorted(slots)}, doubled


def _whole(node: NodeId) -> tuple[str, ...]:
    """Return what the disk of the partition `node` is called: `disk0` of `disk0p1`."""
    return (node.rpartition("p")[0],)


def _unfit(
    name: str, first: MdMember, slots: Mapping[int, tuple[NodeId, MdMember]], late: Members
) -> Iterator[str]:
    level = first.level
    if level is None:
        return
    for node, member in late:
        yield (
            f"{node} is an older state of {name} ({member.events} events, the newest has "
            f"{first.events}): it dropped out, or was exchanged"
        )
    there = [member for _, member in slots.values()]
    if first.reshaping or any(member.reshaping for member in there):
        yield f"{name} is being reshaped: let mdadm end that on the source"
    if any(member.recovering for member in there):
        yield f"{name} is being rebuilt: let mdadm end that on the source"
    if is_redundant(level) and not all(member.clean for member in there):
        yield (
            f"{name} was not stopped cleanly, its copies or parity may differ: start the source, "
            "let it resync, and shut it down"
        )
    if strange := sorted(slot for slot in slots if slot >= first.raid_devices):
        yield f"{name} has {first.raid_devices} members, yet one says it is number {strange[0]}"
    if any(_shape(member) != _shape(first) for member in there):
        yield f"the members of {name} do not agree on its shape"
    missing = [slot for slot in range(first.raid_devices) if slot not in slots]
    if not _runs(first, missing):
        gone = ", ".join(str(slot) for slot in missing)
        yield (
            f"{name} cannot run: of its {first.raid_devices} members those numbered {gone} "
            "are missing"
        )
    if level is MdLevel.RAID0 and not first.layout and len({m.area_bytes for m in there}) > 1:
        yield (
            f"{name} is a RAID0 of unequal members whose layout is not recorded: kernels before "
            "3.14 laid it out otherwise than later ones; on the source, mdadm --assemble "
            "--update=layout-alternate (made by 3.14 or later) or layout-original records it"
        )


def _runs(first: MdMember, missing: Sequence[int]) -> bool:
    if first.level is MdLevel.RAID10 and first.layout.startswith("near="):
        # Copies lie side by side: it runs as long as each group has one.
        near = int(first.layout[5:])
        chunks = range(first.raid_devices)
        return all(
            any((chunk * near + copy) % first.raid_devices not in missing for copy in range(near))
            for chunk in chunks
        )
    level = first.level
    return level is not None and len(missing) <= lost_members(
        level, first.raid_devices, first.layout
    )


def _shape(member: MdMember) -> tuple[object, ...]:
    return (
        member.level,
        member.metadata,
        member.chunk_bytes,
        member.layout,
        member.raid_devices,
        member.name,
    )
