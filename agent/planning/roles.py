"""Which drive is meant by each role of a layout with several disks. Pure.

Every choice is forced: by a hint, by the very disk that was captured, or because nothing else
fits. Where anything is left to chance, the machine is not touched and a table says how to choose.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from agent.errors import PlanRefused
from agent.model.inventory import Drive
from agent.model.job import DiskHints
from agent.planning.hints import (
    Verdict,
    choosing_hint,
    command_argument,
    describe_hints,
    judge,
    kernel_argument,
    pick_disk,
    render_candidates,
)
from agent.units import format_bytes

_NO_HINTS = DiskHints()


def asked_roles(
    disk: DiskHints, disks: Mapping[str, DiskHints] | None, ids: Sequence[str]
) -> dict[str, DiskHints]:
    """Return the hints of each disk in `ids`, those of a layout: `disk` is about the first.

    Raises PlanRefused for a role that the layout does not have.
    """
    given = dict(disks) if disks is not None else {ids[0]: disk}
    if strange := [role for role in given if role not in ids]:
        raise PlanRefused(
            tuple(f"there is no disk {role} in the layout" for role in strange),
            hint=f"its disks are {', '.join(ids)}",
        )
    return {role: given.get(role, _NO_HINTS) for role in ids}


def pick_disks(
    roles: Mapping[str, DiskHints],
    drives: Sequence[Drive],
    *,
    needs: Mapping[str, int] | None = None,
    sources: Mapping[str, Drive] | None = None,
    interchangeable: Sequence[frozenset[str]] = (),
) -> dict[str, Drive]:
    """Return the drive that becomes each role; no drive twice, none by its place in the list.

    A role with hints gets the one drive that matches them. One without gets the drive with the
    WWN or serial of its disk in `sources`, else the only one left that has what `needs` says (in
    bytes) and turns, or not, as the source did. Roles in one set of `interchangeable` may have as
    many candidates as roles: they get them in the order of WWN and serial. Raises PlanRefused
    with a table for each role that has none or several; UsageError for an unreadable hint.
    """
    if not drives or (len(roles) == 1 and not needs and not sources):
        return {role: pick_disk(hints, drives) for role, hints in roles.items()}
    choice = _Choice(roles, drives, needs or {}, sources or {}, interchangeable)
    hinted = [role for role, hints in roles.items() if hints != _NO_HINTS]
    others = [role for role in roles if role not in hinted]
    choice.settle({role: _matching(choice.verdicts(role)) for role in hinted})
    known = {role: choice.source_again(role) for role in others}
    choice.settle({role: found for role, found in known.items() if found})
    rest = [role for role in others if role not in choice.chosen]
    choice.settle({role: choice.alike(role) for role in rest})
    if missing := [role for role in roles if role not in choice.chosen]:
        raise choice.refusal(missing)
    return {role: choice.chosen[role] for role in roles}


@dataclass(slots=True)
class _Choice:
    roles: Mapping[str, DiskHints]
    drives: Sequence[Drive]
    needs: Mapping[str, int]
    sources: Mapping[str, Drive]
    interchangeable: Sequence[frozenset[str]]
    chosen: dict[str, Drive] = field(default_factory=dict)

    def settle(self, candidates: Mapping[str, Sequence[Drive]]) -> None:
        """Choose, again and again, for the roles that have no choice left; leave the others."""
        while True:
            forced = next(self._forced(candidates), None)
            if forced is None:
                return
            self.chosen.update(forced)

    def _forced(self, candidates: Mapping[str, Sequence[Drive]]) -> Iterator[dict[str, Drive]]:
        free = {
            role: self._free(found) for role, found in candidates.items() if role not in self.chosen
        }
        for role, found in free.items():
            paths = {drive.path for drive in found}
            together = [
                other
                for other, theirs in free.items()
                if other == role
                or (self._same_group(role, other) and {one.path for one in theirs} == paths)
            ]
            if len(found) == len(together):
                ordered = sorted(found, key=_lasting)
                yield dict(zip(sorted(together), ordered, strict=True))

    def _free(self, found: Iterable[Drive]) -> list[Drive]:
        taken = {drive.path for drive in self.chosen.values()}
        return [drive for drive in found if drive.path not in taken]

    def _same_group(self, one: str, other: str) -> bool:
        return any(one in group and other in group for group in self.interchangeable)

    def source_again(self, role: str) -> list[Drive]:
        """Return the very drive that was captured, if it is here and nobody has it."""
        source = self.sources.get(role)
        found = [
            drive
            for drive in self._free(_matching(self.verdicts(role)))
            if source is not None
            and (
                (source.wwn is not None and drive.wwn == source.wwn)
                or (source.wwn is None and source.serial and drive.serial == source.serial)
            )
        ]
        return found if len(found) == 1 else []

    def alike(self, role: str) -> list[Drive]:
        """Return the free drives that a role without hints could get."""
        fitting = self._free(_matching(self.verdicts(role)))
        source = self.sources.get(role)
        same = [one for one in fitting if source and one.rotational == source.rotational]
        return same or fitting

    def verdicts(self, role: str) -> tuple[Verdict, ...]:
        hints = self.roles[role]
        verdicts = judge(hints, self.drives)
        need = self.needs.get(role, 0)
        if hints != _NO_HINTS or not need:
            return verdicts  # a named disk that is too small is an objection of the plan
        return tuple(
            Verdict(one.drive, (*one.reasons, f"has less than {format_bytes(need)}"))
            if one.drive.size_bytes < need
            else one
            for one in verdicts
        )

    def refusal(self, missing: Sequence[str]) -> PlanRefused:
        lines: list[str] = []
        several = len(self.roles) > 1
        for role in missing:
            verdicts = self._with_taken(self.verdicts(role))
            found = _matching(verdicts)
            asked = describe_hints(self.roles[role])
            if found:
                names = ", ".join(drive.path for drive in found)
                text = f"{len(found)} disks match ({asked}), one is wanted: {names}"
            else:
                text = f"none of {len(self.drives)} disks is the one meant ({asked})"
            lines.append(f"{role}: {text}" if several else text)
            lines.extend(render_candidates(verdicts, role if several else None))
        role = missing[0]
        candidates = _matching(self._with_taken(self.verdicts(role))) or list(self.drives)
        spelled = " or ".join(
            _spelled(*choosing_hint(drive, self.drives), role if several else None)
            for drive in candidates[:4]
        )
        return PlanRefused(tuple(lines), hint=f"name the disk: {spelled}" if spelled else None)

    def _with_taken(self, verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
        owner = {drive.path: role for role, drive in self.chosen.items()}
        return tuple(
            Verdict(one.drive, (*one.reasons, f"becomes {owner[one.drive.path]}"))
            if one.drive.path in owner
            else one
            for one in verdicts
        )


def _spelled(name: str, value: str, role: str | None) -> str:
    return command_argument(name, value, role) if role else kernel_argument(name, value)


def _matching(verdicts: Iterable[Verdict]) -> list[Drive]:
    return [verdict.drive for verdict in verdicts if not verdict.reasons]


def _lasting(drive: Drive) -> tuple[str, str, str, str]:
    return (drive.wwn or "", drive.serial or "", drive.by_path or "", drive.path)
