"""Disks wiped: choose, ask the drives, plan, show, erase, read back, certify."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from agent.errors import AgentError, ClaimRefused, DiskError, DiskState, StepFailed
from agent.flows.version import version
from agent.flows.workplace import Workplace
from agent.model.event import Level, Logged, PlanMade, StepStarted
from agent.model.inventory import Drive
from agent.model.job import Verify, WipeSpec
from agent.model.wipe import Certificate, PlannedWipe, Verified, Way, WipedDisk
from agent.model.wire import encode
from agent.planning.wipe import plan_wipe, render_wipe, wiped_drives
from agent.probe import probe_drives
from agent.report import now
from agent.stream.progress import Meter, Stages
from agent.system import block
from agent.system.hold import held
from agent.tools import erase_disk
from agent.tools.wipefs import find_signatures
from agent.units import Extent

T = TypeVar("T")


def wipe(place: Workplace, spec: WipeSpec, job: str) -> dict[str, Any]:
    """Wipe the disks that `spec` asks for, one after the other; return the result.

    Raises PlanRefused before the first write, StepFailed after it.
    """
    began = time.monotonic()
    drives = wiped_drives(spec, place.inventory.disks)
    abilities = {drive.path: erase_disk.abilities(drive) for drive in drives}
    plan = plan_wipe(spec, drives, abilities)
    place.report(PlanMade(text=render_wipe(plan), digest=plan.digest))
    place.confirm_claim()
    wiped: list[WipedDisk] = []
    for number, disk in enumerate(plan.disks, start=1):
        place.report(StepStarted(index=number, count=len(plan.disks), summary=disk.summary()))
        wiped.append(_wipe(place, disk, spec.verify))
        line = encode(wiped[-1]).decode()
        place.report(Logged(level=Level.INFO, message=f"wiped: {line}"))
    certificate = Certificate(
        job=job,
        agent_version=version(),
        machine=place.inventory.board,
        asked=spec.method,
        disks=tuple(wiped),
    )
    text = encode(certificate).decode()
    place.report(Logged(level=Level.INFO, message=f"certificate: {text}"))
    return {
        "certificate": msgspec.to_builtins(certificate),
        "plan": plan.digest,
        "wiped_bytes": sum(disk.size_bytes for disk in wiped),
        "seconds": round(time.monotonic() - began, 1),
    }


def _wipe(place: Workplace, disk: PlannedWipe, verify: Verify) -> WipedDisk:
    """Wipe one disk; return its line on the certificate."""
    drive = disk.drive
    device = Path(drive.path)
    state = DiskState.UNCHANGED
    try:
        _check_same(drive, probe_drives(place.run))
        with held(device, drive.paths):
            places, before = _look(device, disk, verify)
            place.confirm_claim()
            started_at = now()
            state = DiskState.PARTIAL
            if disk.way not in (Way.ZERO, Way.DISCARD):
                place.report(
                    Logged(
                        level=Level.INFO, message="the drive erases itself and cannot be stopped"
                    )
                )
            _metered(
                place, "wipe", drive.size_bytes, lambda a: erase_disk.erase(device, disk.way, a)
            )
            verified = _verify(place, disk, places, before, verify)
        block.reread_table(device)
        block.settle(place.run)
        if verify is not Verify.NONE and (left := find_signatures(place.run, device)):
            raise DiskError(f"{device} still shows {', '.join(left)}")
    except ClaimRefused:
        raise
    except AgentError as error:
        raise StepFailed(disk.summary(), state) from error
    return WipedDisk(
        identity=drive.identity,
        path=drive.path,
        serial=drive.serial,
        wwn=drive.wwn,
        model=drive.model,
        vendor=drive.vendor,
        transport=drive.transport.value,
        size_bytes=drive.size_bytes,
        sector_bytes=drive.sector_bytes,
        method=disk.way,
        started_at=started_at,
        ended_at=now(),
        verified=verified,
    )


def _check_same(planned: Drive, drives: Sequence[Drive]) -> None:
    """Raise DiskError unless the disk is still the one that the plan is for, and unused."""
    found = next((drive for drive in drives if drive.path == planned.path), None)
    if found is None:
        raise DiskError(f"{planned.path} is gone")
    if (found.identity, found.serial, found.size_bytes) != (
        planned.identity,
        planned.serial,
        planned.size_bytes,
    ):
        raise DiskError(f"{planned.path} is another disk than it was when this was planned")
    if found.users:
        raise DiskError(f"{planned.path} is in use by {', '.join(found.users)}")


def _look(
    device: Path, disk: PlannedWipe, verify: Verify
) -> tuple[tuple[Extent, ...], tuple[bytes | None, ...]]:
    """Return the places that are read back, and what is there now if it must be known again."""
    size = disk.drive.size_bytes
    if verify is Verify.NONE:
        return (), ()
    if disk.zeros:
        full = verify is Verify.FULL
        return (erase_disk.all_places(size) if full else erase_disk.sample_places(size)), ()
    places = erase_disk.sample_places(size)
    return places, erase_disk.fingerprints(device, places)


def _verify(
    place: Workplace,
    disk: PlannedWipe,
    places: tuple[Extent, ...],
    before: tuple[bytes | None, ...],
    verify: Verify,
) -> Verified | None:
    if verify is Verify.NONE:
        return None
    device = Path(disk.drive.path)
    total = sum(one.size for one in places)
    if disk.zeros:
        return _metered(
            place,
            "read back",
            total,
            lambda added: erase_disk.check_zeros(device, places, verify.value, added),
        )
    return _metered(
        place,
        "read back",
        total,
        lambda added: erase_disk.check_gone(device, places, before, added),
    )


def _metered(
    place: Workplace, what: str, total_bytes: int, work: Callable[[erase_disk.Added], T]
) -> T:
    """Return what `work` returns; what it adds is shown as progress."""
    meter = Meter(what, total_bytes, place.report, Stages())

    def added(count: int) -> None:
        meter.add(count)
        meter.tick()

    meter.tick()
    done = work(added)
    meter.tick(final=True)
    return done
