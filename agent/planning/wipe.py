"""Which disks are wiped, and how: decided from what the drives say of themselves. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from agent.errors import PlanRefused
from agent.model.inventory import Drive, Transport
from agent.model.job import Verify, WipeSpec
from agent.model.wipe import Abilities, PlannedWipe, Way, WipeMethod, WipePlan
from agent.planning.hints import pick_disk
from agent.planning.refusals import valuables
from agent.units import format_bytes

_SANITIZES: Final = frozenset({Way.SANITIZE_BLOCK, Way.SANITIZE_CRYPTO, Way.SANITIZE_OVERWRITE})
_ERASES: Final = frozenset(
    {Way.FORMAT_CRYPTO, Way.FORMAT_USER_DATA, Way.ATA_ENHANCED, Way.ATA_NORMAL}
)
_MEANT: Final = {
    WipeMethod.DISCARD: frozenset({Way.DISCARD}),
    WipeMethod.ZERO: frozenset({Way.ZERO}),
    WipeMethod.SANITIZE: _SANITIZES,
    WipeMethod.SECURE_ERASE: _ERASES,
}
_WORDS: Final = {
    Way.SANITIZE_CRYPTO: "NVMe sanitize, cryptographic: the drive throws its own key away",
    Way.SANITIZE_BLOCK: "NVMe sanitize, block erase: the drive erases all its flash",
    Way.SANITIZE_OVERWRITE: "NVMe sanitize, overwrite: the drive overwrites all its flash",
    Way.FORMAT_CRYPTO: "NVMe format, cryptographic erase",
    Way.FORMAT_USER_DATA: "NVMe format, user data erase",
    Way.ATA_ENHANCED: "ATA secure erase, enhanced",
    Way.ATA_NORMAL: "ATA secure erase",
    Way.DISCARD: "discard of all blocks",
    Way.ZERO: "zeros over every block that the drive shows; spare blocks are out of reach",
}


def wiped_drives(spec: WipeSpec, drives: Sequence[Drive]) -> tuple[Drive, ...]:
    """Return the disks that `spec` means. Raises PlanRefused with every reason."""
    if spec.all_fixed:
        if found := tuple(drive for drive in drives if _is_fixed(drive)):
            return found
        raise PlanRefused(("this machine shows no fixed disk",))
    chosen: list[Drive] = []
    reasons: list[str] = []
    hint: str | None = None
    for hints in spec.disks:
        try:
            chosen.append(pick_disk(hints, drives))
        except PlanRefused as error:
            reasons += error.objections
            hint = hint or error.hint
    for drive in chosen:
        if chosen.count(drive) > 1:
            reasons.append(f"{drive.path} is meant twice")
    if reasons:
        raise PlanRefused(tuple(dict.fromkeys(reasons)), hint=hint)
    return tuple(chosen)


def _is_fixed(drive: Drive) -> bool:
    odd = drive.removable or drive.read_only or drive.virtual_media
    return not odd and drive.transport is not Transport.USB


def plan_wipe(
    spec: WipeSpec, drives: Sequence[Drive], abilities: Mapping[str, Abilities]
) -> WipePlan:
    """Decide how each of `drives` is wiped; `abilities` is by path. Touches nothing.

    Raises PlanRefused with every objection at once.
    """
    reasons = [reason for drive in drives for reason in _objections(spec, drive)]
    planned = []
    for drive in drives:
        can = abilities[drive.path]
        way = _choose(spec.method, can)
        if way is None:
            why = "; ".join(can.obstacles) or "it says nothing of that"
            reasons.append(f"{drive.path} cannot be wiped by {spec.method.value}: {why}")
            continue
        planned.append(_planned(spec, drive, can, way))
    if reasons:
        raise PlanRefused(tuple(reasons))
    consented = tuple(
        f"{found.what} on {found.path}" for drive in drives for found in valuables(drive)
    )
    return WipePlan(
        disks=tuple(planned),
        method=spec.method,
        verify=spec.verify.value,
        consented=consented,
    )


def _choose(method: WipeMethod, can: Abilities) -> Way | None:
    """Return the strongest way that is meant. A discard that may leave data is never automatic."""
    for way in can.ways:
        if method is WipeMethod.AUTO:
            if way is not Way.DISCARD or can.zeros_after_discard:
                return way
        elif way in _MEANT[method]:
            return way
    return None


def _planned(spec: WipeSpec, drive: Drive, can: Abilities, way: Way) -> PlannedWipe:
    zeros = way is Way.ZERO or (way is Way.DISCARD and can.zeros_after_discard)
    own = way not in (Way.ZERO, Way.DISCARD)
    notes = [] if own and spec.method is not WipeMethod.AUTO else list(can.obstacles)
    if way is Way.DISCARD and not zeros:
        notes.append("the drive does not say that discarded blocks read as zeros")
    if spec.verify is Verify.FULL and not zeros:
        notes.append("a sample is read back, not all: what it will read as is not known")
    return PlannedWipe(
        drive=drive, way=way, zeros=zeros, minutes=can.minutes if own else None, notes=tuple(notes)
    )


def _objections(spec: WipeSpec, drive: Drive) -> Iterator[str]:
    if drive.read_only:
        yield f"{drive.path} is read-only"
    if drive.users:
        yield f"{drive.path} is in use by {', '.join(drive.users)}"
    for found in valuables(drive):
        if found.what not in spec.consent:
            label = f" {found.label!r}" if found.label else ""
            yield (
                f"{found.path} holds {found.what}{label}: it is destroyed only with the "
                f"consent {found.what}"
            )


def render_wipe(plan: WipePlan) -> str:
    """Return the plan as a page for a person, shown before the first write."""
    count = len(plan.disks)
    lines = [f"Wipe {count} disk{'s' if count > 1 else ''} ({plan.method.value})"]
    for disk in plan.disks:
        drive = disk.drive
        lines += [
            "",
            f"{drive.path}  {drive.model or 'no model'}  {format_bytes(drive.size_bytes)}",
            f"  known by  {drive.identity}"
            + (f", serial {drive.serial}" if drive.serial not in (None, drive.identity) else ""),
            "  destroyed:",
            *(f"    {line}" for line in _contents(drive)),
            f"  how       {_WORDS[disk.way]}",
        ]
        if disk.minutes:
            lines.append(f"  takes     {disk.minutes} minutes, the drive thinks")
        lines += [f"  note      {note}" for note in disk.notes]
        lines.append(f"  then      {_verification(plan.verify, disk)}")
    if plan.consented:
        lines += ["", *(f"With consent: {what}" for what in plan.consented)]
    return "\n".join("".join(s if s.isprintable() else "?" for s in line) for line in lines) + "\n"


def _verification(verify: str, disk: PlannedWipe) -> str:
    if verify == Verify.NONE.value:
        return "nothing is read back"
    how = "all of it is read back" if verify == Verify.FULL.value and disk.zeros else ""
    wanted = "it must be zeros" if disk.zeros else "nothing of it may be as before"
    return f"{how or 'both ends and a sample are read back'}: {wanted}"


def _contents(drive: Drive) -> Iterator[str]:
    for found in drive.contents:
        label = f" {found.label!r}" if found.label else ""
        uuid = f" {found.uuid}" if found.uuid else ""
        yield f"{found.path}: {found.what}{label}{uuid}"
    if not drive.contents:
        yield "nothing known"
