"""What a controller is to be told: volumes deleted, volumes made, or every reason not to. Pure.

A volume is deleted only if a drive in it was named, `replace` was said, and there is consent for
what it holds. One that is already as it is wanted stays, with all that is on it: a job that is
carried out twice makes nothing twice.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from agent.errors import PlanRefused
from agent.model.hwraid import (
    HardwareRaid,
    HardwareRaidPlan,
    NewVolume,
    PhysicalDrive,
    RaidCard,
    RaidLevel,
    VirtualDrive,
    VolumeWish,
)
from agent.model.inventory import Drive
from agent.planning.hint_words import size_test
from agent.planning.refusals import valuables
from agent.units import format_bytes

LEAST_DRIVES: Final = {
    RaidLevel.RAID0: 1,
    RaidLevel.RAID1: 2,
    RaidLevel.RAID5: 3,
    RaidLevel.RAID6: 4,
    RaidLevel.RAID10: 4,
}
_EVEN: Final = frozenset({RaidLevel.RAID1, RaidLevel.RAID10})
_GOOD: Final = "UGood"
_ONLINE: Final = "Onln"
_FOREIGN: Final = "F"
_STATES: Final = {
    "JBOD": "is shown to the system as a disk of its own (JBOD)",
    "UBad": "is bad, the controller says",
    "UGUnsp": "is of a kind that the controller does not support",
    "UGShld": "is under examination",
    "DHS": "is a hot spare of a group",
    "GHS": "is a global hot spare",
    "Offln": "is offline",
    "Failed": "has failed",
    "Rbld": "is being rebuilt",
}


def choose_card(wanted: HardwareRaid, cards: Sequence[RaidCard]) -> RaidCard:
    """Return the controller that is meant. Raises PlanRefused unless it is exactly one."""
    if not cards:
        raise PlanRefused(
            ("hardware RAID is asked for, but no controller was found",),
            hint="the tool sees controllers of its own family only; is the driver loaded?",
        )
    table = tuple(f"  c{card.number}  {card.model}  {card.address or '-'}" for card in cards)
    found = [card for card in cards if wanted.controller in (None, card.number)]
    if len(found) != 1:
        what = f"no controller c{wanted.controller}" if not found else f"{len(found)} controllers"
        raise PlanRefused((f"one RAID controller is wanted, there is {what}:", *table))
    return found[0]


def plan_hardware_raid(
    wanted: HardwareRaid, card: RaidCard, disks: Sequence[Drive], consent: Collection[str]
) -> HardwareRaidPlan:
    """Return what is to be done on `card`; `disks` is what the system sees, volumes among them.

    Raises PlanRefused with every objection at once.
    """
    kept = {wish.name: same for wish in wanted.volumes if (same := _as_wanted(wish, card))}
    wishes = [wish for wish in wanted.volumes if wish.name not in kept]
    named = {address for wish in wishes for address in wish.drives}
    in_the_way = tuple(
        volume
        for volume in card.volumes
        if volume not in kept.values() and named & set(volume.drives)
    )
    check = _Check(wanted, card, disks, consent, in_the_way)
    taken = {address for volume in kept.values() for address in volume.drives} | named
    created: list[NewVolume] = []
    reasons: list[str] = []
    for wish in wishes:
        addresses, why = check.drives_of(wish, taken)
        taken |= set(addresses)
        reasons.extend(why or check.about_members(wish, addresses))
        created.append(_new_volume(wish, addresses))
    for volume in in_the_way:
        reasons.extend(check.about_deletion(volume))
    reasons.extend(_about_names(wishes, card, (*in_the_way, *kept.values())))
    if reasons:
        raise PlanRefused(tuple(dict.fromkeys(reasons)), hint="drives:\n" + render_drives(card))
    return HardwareRaidPlan(
        controller=card.number,
        delete=in_the_way,
        create=tuple(created),
        keep=tuple(kept.values()),
        roles=tuple((wish.role, wish.name) for wish in wanted.volumes if wish.role),
        initialize=wanted.initialize,
    )


def volume_name(card: int, volume: VirtualDrive) -> str:
    """Return how a volume is named to people, and in a consent: `c0/v1`."""
    return f"c{card}/v{volume.number}"


def disk_of(volume: VirtualDrive, disks: Sequence[Drive]) -> Drive | None:
    """Return the system's disk that is `volume`, by its WWN; None if the system has none."""
    if volume.wwn is None:
        return None
    return next((disk for disk in disks if (disk.wwn or "").lower() == volume.wwn), None)


def render_drives(card: RaidCard) -> str:
    """Return a line for each drive of `card`, columns aligned, and which volume it is in."""
    rows = [
        (
            drive.address,
            drive.state,
            format_bytes(drive.size_bytes),
            f"{drive.interface} {drive.medium}",
            drive.model,
            ", ".join(
                volume_name(card.number, one) for one in card.volumes if drive.address in one.drives
            )
            or "-",
        )
        for drive in card.drives
    ]
    widths = [max((len(row[n]) for row in rows), default=0) for n in range(6)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def render_hardware_raid(plan: HardwareRaidPlan) -> str:
    """Return the plan for a person, a line for each volume."""
    lines = [f"RAID controller c{plan.controller}"]
    for volume in plan.keep:
        lines.append(f"  keep    {volume_name(plan.controller, volume)} {volume.name}, as wanted")
    for volume in plan.delete:
        size = format_bytes(volume.size_bytes)
        lines.append(
            f"  DELETE  {volume_name(plan.controller, volume)} {volume.name or '(no name)'}, "
            f"{volume.level}, {size}, of {', '.join(volume.drives)}"
        )
    for new in plan.create:
        lines.append(f"  create  {new.name}, {new.level.value}, of {', '.join(new.drives)}")
    return "\n".join(lines)


def as_wanted(volume: VirtualDrive, name: str, level: RaidLevel, drives: Collection[str]) -> bool:
    """A volume of that name is of that level and made of just those drives."""
    return (
        volume.name == name
        and volume.level.lower().replace("raid", "") == level.value.removeprefix("raid")
        and set(volume.drives) == set(drives)
    )


def _as_wanted(wish: VolumeWish, card: RaidCard) -> VirtualDrive | None:
    for volume in card.volumes:
        if wish.count is not None:
            drives: Collection[str] = volume.drives if len(volume.drives) == wish.count else ()
        else:
            drives = wish.drives
        if as_wanted(volume, wish.name, wish.level, drives):
            return volume
    return None


def _new_volume(wish: VolumeWish, drives: Sequence[str]) -> NewVolume:
    return NewVolume(
        name=wish.name,
        level=wish.level,
        drives=tuple(drives),
        strip_kib=wish.strip_kib,
        write_cache=wish.write_cache,
        read_ahead=wish.read_ahead,
        role=wish.role,
    )


def _about_names(
    wishes: Sequence[VolumeWish], card: RaidCard, known: Collection[VirtualDrive]
) -> Iterator[str]:
    for wish in wishes:
        for volume in card.volumes:
            if volume.name == wish.name and volume not in known:
                yield (
                    f"{volume_name(card.number, volume)} is called {wish.name} already, and is "
                    "not as it is wanted"
                )


@dataclass(frozen=True, slots=True)
class _Check:
    wanted: HardwareRaid
    card: RaidCard
    disks: Sequence[Drive]
    consent: Collection[str]
    in_the_way: Sequence[VirtualDrive]

    def drives_of(self, wish: VolumeWish, taken: Collection[str]) -> tuple[list[str], list[str]]:
        """Return the drives for a wish, and why there are none.

        Of drives that are alike and hold nothing, those in the lowest slots are taken.
        """
        if wish.count is None:
            return list(wish.drives), []
        fits = size_test(wish.drive_size) if wish.drive_size else lambda _: True
        free = [
            drive
            for drive in self.card.drives
            if drive.state == _GOOD
            and drive.group is None
            and drive.address not in taken
            and fits(drive.size_bytes)
        ]
        kinds = {(one.size_bytes, one.medium, one.interface, one.sector_bytes) for one in free}
        enough = [kind for kind in sorted(kinds) if _count(free, kind) >= wish.count]
        asked = f"{wish.count} free drives" + (f" of {wish.drive_size}" if wish.drive_size else "")
        if not enough:
            text = f"{wish.name} needs {asked} that are alike, there are {len(free)} free"
            return [], [f"{text}; name drives to take them from volumes"]
        if len(enough) > 1:
            kinds_named = ", ".join(f"{format_bytes(k[0])} {k[2]} {k[1]}" for k in enough)
            return [], [
                f"{wish.name}: {asked} could be {kinds_named}: say drive_size, or name them"
            ]
        alike = [one for one in free if _kind(one) == enough[0]]
        return [one.address for one in sorted(alike, key=_slot)][: wish.count], []

    def about_members(self, wish: VolumeWish, addresses: Sequence[str]) -> Iterator[str]:
        known = {drive.address: drive for drive in self.card.drives}
        drives = [known[address] for address in addresses if address in known]
        for address in addresses:
            if address not in known:
                yield f"{wish.name}: there is no drive {address} at c{self.card.number}"
        for drive in drives:
            yield from self._about_drive(wish, drive)
        least, count = LEAST_DRIVES[wish.level], len(addresses)
        if count < least:
            yield f"{wish.name}: {wish.level.value} needs {least} drives or more, not {count}"
        elif wish.level in _EVEN and count % 2:
            yield f"{wish.name}: {wish.level.value} needs an even number of drives, not {count}"
        for what, values in (
            ("sizes", [format_bytes(size) for size in sorted({d.size_bytes for d in drives})]),
            ("kinds", sorted({f"{d.interface} {d.medium}" for d in drives})),
            ("sectors", [f"{n} bytes" for n in sorted({d.sector_bytes for d in drives})]),
        ):
            if len(values) > 1:
                yield f"{wish.name}: its drives have different {what}: {', '.join(values)}"

    def _about_drive(self, wish: VolumeWish, drive: PhysicalDrive) -> Iterator[str]:
        users = [volume for volume in self.card.volumes if drive.address in volume.drives]
        if users:
            if not set(users) <= set(self.in_the_way):
                names = ", ".join(volume_name(self.card.number, one) for one in users)
                yield f"{wish.name}: drive {drive.address} is in {names}, which stays"
            elif drive.state != _ONLINE:
                why = _STATES.get(drive.state, f"is in the state {drive.state}, not {_ONLINE}")
                yield f"{wish.name}: drive {drive.address} {why}"
        elif drive.group == _FOREIGN:
            yield (
                f"{wish.name}: drive {drive.address} belongs to a foreign configuration, made by "
                "another controller: import or delete that by hand"
            )
        elif drive.state != _GOOD:
            why = _STATES.get(drive.state, f"is in the state {drive.state}, not {_GOOD}")
            yield f"{wish.name}: drive {drive.address} {why}"
        elif drive.group is not None:
            yield f"{wish.name}: drive {drive.address} is in drive group {drive.group}"

    def about_deletion(self, volume: VirtualDrive) -> Iterator[str]:
        name = volume_name(self.card.number, volume)
        label = f" ({volume.name})" if volume.name else ""
        if not self.wanted.replace:
            yield f"{name}{label} holds drives that are wanted: say replace to have it deleted"
        disk = disk_of(volume, self.disks)
        if disk is None:
            if name not in self.consent:
                yield (
                    f"{name}{label} is no disk that the system sees, so what it holds is unknown: "
                    f"it is deleted only with the consent {name}"
                )
            return
        if disk.users:
            yield f"{name} is {disk.path}, in use by {', '.join(disk.users)}"
        for found in valuables(disk):
            if not {found.what, name} & set(self.consent):
                yield (
                    f"{name}{label} is {disk.path} and holds {found.what} ({found.path}): it is "
                    f"deleted only with the consent {found.what} or {name}"
                )


def _kind(drive: PhysicalDrive) -> tuple[int, str, str, int]:
    return (drive.size_bytes, drive.medium, drive.interface, drive.sector_bytes)


def _count(drives: Sequence[PhysicalDrive], kind: tuple[int, str, str, int]) -> int:
    return sum(_kind(drive) == kind for drive in drives)


def _slot(drive: PhysicalDrive) -> tuple[int, ...]:
    return tuple(int(part) for part in drive.address.split(":"))
