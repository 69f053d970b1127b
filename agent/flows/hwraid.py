"""The volumes of a RAID controller, made as a job wants them before disks are chosen."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.errors import AgentError, DiskState, PlanRefused, StepFailed
from agent.hwraid.plan import (
    as_wanted,
    choose_card,
    disk_of,
    plan_hardware_raid,
    render_hardware_raid,
    volume_name,
)
from agent.hwraid.storcli import find_storcli
from agent.hwraid.tool import RaidTool
from agent.model.event import Level, Logged
from agent.model.hwraid import HardwareRaidPlan, NewVolume, RaidCard, VirtualDrive
from agent.model.inventory import Drive
from agent.model.job import DeploySpec, DiskHints
from agent.probe import probe_drives
from agent.report import Report, silent
from agent.system.command import Runner

POLL_S = 5.0
SHOWN_WITHIN_S = 60.0
"""How soon a new volume must be a disk of the system."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the system's disks are now, and which of them was made for which role."""

    disks: tuple[Drive, ...]
    roles: dict[str, DiskHints]
    """For the roles that the job gave to volumes: hints that mean the volume's disk alone."""


def no_claim() -> None:
    """A deployment that a person started by hand has no claim to lose."""


def prepare_hardware_raid(
    run: Runner,
    spec: DeploySpec,
    disks: Sequence[Drive],
    report: Report = silent,
    confirm_claim: Callable[[], None] = no_claim,
    *,
    tool: RaidTool | None = None,
    look: Callable[[Runner], tuple[Drive, ...]] = probe_drives,
    pause: Callable[[float], None] = time.sleep,
) -> Prepared:
    """Make the volumes that `spec.hardware_raid` asks for; return the disks afterwards.

    `disks` is what the system sees now. What is there already as wanted is left as it is. Raises
    PlanRefused with every objection before anything is changed, StepFailed afterwards.
    """
    if spec.hardware_raid is None:
        return Prepared(tuple(disks), {})
    tool = tool or find_storcli(run)
    if tool is None:
        raise PlanRefused(
            ("hardware RAID is asked for, but the boot image has no tool for controllers",),
            hint="build it with --overlay, usr/sbin/storcli64 or perccli64: docs/hardware-raid.md",
        )
    card = choose_card(spec.hardware_raid, tool.cards())
    plan = plan_hardware_raid(spec.hardware_raid, card, disks, spec.consent)
    report(Logged(level=Level.INFO, message=render_hardware_raid(plan)))
    if plan.delete or plan.create:
        confirm_claim()
    act = _Act(tool, plan, report, pause)
    volumes = act.carry_out()
    seen = act.wait_for_disks(run, volumes, look)
    return Prepared(seen, _role_hints(plan, volumes, seen))


@dataclass(frozen=True, slots=True)
class _Act:
    tool: RaidTool
    plan: HardwareRaidPlan
    report: Report
    pause: Callable[[float], None]

    def carry_out(self) -> tuple[VirtualDrive, ...]:
        """Delete, create and initialize; return the wanted volumes as they are then."""
        controller, state = self.plan.controller, DiskState.UNCHANGED
        step = ""
        try:
            for old in self.plan.delete:
                step = f"delete {volume_name(controller, old)} of the RAID controller"
                self._tell(step)
                state = DiskState.PARTIAL
                self.tool.delete(controller, old.number)
            if self.plan.delete:
                self._confirm_deleted()
            for new in self.plan.create:
                step = f"create {new.name}, {new.level.value}, on the RAID controller"
                self._tell(step)
                state = DiskState.PARTIAL  # a drive that is free may have held something
                self.tool.create(controller, new)
            step = "find what was made on the RAID controller"
            made = self._made() if self.plan.create else ()
            for volume in made:
                step = f"initialize {volume_name(controller, volume)}"
                self.tool.initialize(controller, volume.number, self.plan.initialize)
                self._wait_for_initialization(volume)
            return (*self.plan.keep, *made)
        except AgentError as error:
            raise StepFailed(step, state) from error

    def _confirm_deleted(self) -> None:
        numbers = {volume.number for volume in self.plan.delete}
        left = [one for one in self._card().volumes if one.number in numbers]
        if left:
            names = ", ".join(volume_name(self.plan.controller, one) for one in left)
            raise AgentError(f"the controller said it was done, and still shows {names}")

    def _made(self) -> tuple[VirtualDrive, ...]:
        """Return the new volumes. Raises AgentError if the controller shows others."""
        shown = self._card().volumes
        return tuple(_shown_as(new, shown) for new in self.plan.create)

    def _card(self) -> RaidCard:
        for card in self.tool.cards():
            if card.number == self.plan.controller:
                return card
        raise AgentError(f"controller c{self.plan.controller} is gone")

    def _wait_for_initialization(self, volume: VirtualDrive) -> None:
        told = -1
        while (percent := self.tool.progress(self.plan.controller, volume.number)) is not None:
            if percent != told:
                self._tell(f"{volume.name} is initialized: {percent} %")
                told = percent
            self.pause(POLL_S)

    def wait_for_disks(
        self,
        run: Runner,
        volumes: Sequence[VirtualDrive],
        look: Callable[[Runner], tuple[Drive, ...]],
    ) -> tuple[Drive, ...]:
        """Return the system's disks once every volume is one. Raises StepFailed if one is not."""
        waited = 0.0
        while True:
            run(["udevadm", "settle", "--timeout=30"])
            seen = look(run)
            missing = [one for one in volumes if one.wwn and disk_of(one, seen) is None]
            if not missing:
                return seen
            if waited >= SHOWN_WITHIN_S:
                name = volume_name(self.plan.controller, missing[0])
                raise StepFailed(
                    f"find {name} ({missing[0].wwn}) among the system's disks",
                    DiskState.PARTIAL,
                    hint="is it exposed to the system? (storcli64 /cX/vX show all)",
                )
            self.pause(POLL_S)
            waited += POLL_S

    def _tell(self, text: str) -> None:
        self.report(Logged(level=Level.INFO, message=text))


def _shown_as(new: NewVolume, shown: Sequence[VirtualDrive]) -> VirtualDrive:
    for volume in shown:
        if as_wanted(volume, new.name, new.level, new.drives):
            return volume
    raise AgentError(f"the controller said it was done, and shows no {new.name} as asked for")


def _role_hints(
    plan: HardwareRaidPlan, volumes: Sequence[VirtualDrive], disks: Sequence[Drive]
) -> dict[str, DiskHints]:
    found: dict[str, DiskHints] = {}
    for role, name in plan.roles:
        volume = next(one for one in volumes if one.name == name)
        disk = disk_of(volume, disks)
        if disk is None or disk.wwn is None:
            raise StepFailed(
                f"tell which disk {volume_name(plan.controller, volume)} is: it has no WWN",
                DiskState.PARTIAL,
                hint=f"take `role` off the volume, and give {role} hints of its own",
            )
        found[role] = DiskHints(wwn=disk.wwn)
    return found
