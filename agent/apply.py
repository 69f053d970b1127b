"""The executor: one `case` for each kind of step, nothing decided here."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, assert_never

from agent.commit import (
    COMMITTED,
    FAILED,
    DiskRecord,
    Verified,
    invalidate,
    write_checked_table,
    write_commit,
    write_record,
)
from agent.errors import AgentError, DiskError, DiskState, StepFailed
from agent.identity.configure import NetworkFiles, Touched, configure
from agent.model.event import Level, Logged, StepStarted
from agent.model.inventory import Drive, Inventory
from agent.model.job import Verify
from agent.model.layout import BOOT_CODE_BYTES
from agent.model.plan import (
    CheckFilesystems,
    Commit,
    ConfigureSystem,
    DeployStep,
    EfiEntry,
    EraseSignatures,
    GrowVolume,
    MakeSwap,
    Plan,
    PlannedTable,
    RestoreVolume,
    VerifyVolume,
    WritePendingTable,
)
from agent.report import Report, now, silent
from agent.system import block
from agent.system.command import Runner
from agent.system.hold import held
from agent.system.mount import TARGET_OPTIONS, mounted_system
from agent.tools import boot_sector, efibootmgr, wipefs
from agent.tools.ext import check_ext, grow_ext
from agent.tools.fat_directory import open_fat
from agent.tools.mkswap import make_swap
from agent.units import Extent, MiB


class Source(Protocol):
    """Where the template's data comes from: the stream engine, or a fake in tests."""

    def restore(
        self,
        volume: str,
        disk: Path,
        offset_bytes: int,
        withhold: Sequence[Extent],
        report: Report,
    ) -> Mapping[Extent, bytes]:
        """Write the volume; return what was withheld, unused bytes as zeros."""
        ...

    def verify(
        self,
        volume: str,
        disk: Path,
        offset_bytes: int,
        mode: Verify,
        skip: Sequence[Extent],
        report: Report,
    ) -> None:
        """Read the volume back from the medium. Raises DiskError where it differs."""
        ...

    def small(self, volume: str, max_bytes: int) -> bytes:
        """Return a tiny volume whole."""
        ...


def no_network(_step: ConfigureSystem) -> NetworkFiles:
    """The default: the system's network files stay as they are."""
    return NetworkFiles()


@dataclass(frozen=True, slots=True)
class Host:
    """The machine that a plan is carried out on: all that `apply` may touch."""

    run: Runner
    source: Source
    look: Callable[[str], Drive]
    """Probes the disk at a path again."""
    inventory: Inventory
    network: Callable[[ConfigureSystem], NetworkFiles] = no_network
    """Renders the network files of the system."""
    confirm_claim: Callable[[], None] = lambda: None
    """Raises ClaimRefused unless the job is still ours: asked before the first write and before
    the commit."""
    mount_dir: Path = Path("/run/metalcast/target")
    efivars: Path = efibootmgr.EFIVARS
    partition: Callable[[Path, int], Path] = lambda disk, number: Path(
        block.partition_path(disk, number)
    )
    """Where the device node of a partition is."""

    def confirm_unchanged(self, plan: Plan) -> None:
        """Raise DiskError unless the disk is still the one that the plan was made for."""
        drive = self.look(plan.target.path)
        if wrong := plan.target.differences(drive):
            raise DiskError(
                f"{plan.target.path} ({plan.target.identity}) is not as it was when the plan was "
                f"made: {'; '.join(wrong)}",
                hint="look again and make a new plan",
            )


@dataclass(slots=True)
class Done:
    """What `apply` did and learnt on the way."""

    heads: dict[str, bytes] = field(default_factory=dict)
    verified: set[str] = field(default_factory=set)
    filesystems_checked: bool = False
    touched: tuple[Touched, ...] = ()
    warnings: list[str] = field(default_factory=list)
    state: DiskState = DiskState.UNCHANGED


def apply(plan: Plan, host: Host, report: Report = silent) -> Done:
    """Carry out `plan` in order. Raises StepFailed, which says how the disk was left.

    After a failure the disk is made unbootable again and keeps a record of what failed.
    """
    done = Done()
    try:
        with held(Path(plan.target.path)):
            _apply(plan, host, done, report)
    except DiskError as error:
        if done.state is DiskState.UNCHANGED:
            raise StepFailed("take hold of the disk", done.state) from error
        raise
    return done


def _apply(plan: Plan, host: Host, done: Done, report: Report) -> None:
    commit = next((step for step in plan.steps if isinstance(step, Commit)), None)
    at = "look at the disk again"
    try:
        host.confirm_claim()
        host.confirm_unchanged(plan)
        for number, step in enumerate(plan.steps, start=1):
            at = step.summary()
            report(StepStarted(index=number, count=len(plan.steps), summary=at))
            if step.destructive:
                done.state = DiskState.PARTIAL
            carry_out(step, plan, host, done, report)
    except BaseException as error:
        if done.state is DiskState.PARTIAL:
            _make_harmless(plan, commit, host, at, error, report)
        if isinstance(error, AgentError):
            raise StepFailed(at, done.state) from error
        raise
    done.state = DiskState.COMPLETE
    _record(plan, DiskRecord(job=plan.job, plan=plan.digest, state=COMMITTED, at=now()), report)


def carry_out(step: DeployStep, plan: Plan, host: Host, done: Done, report: Report) -> None:
    disk = Path(plan.target.path)
    match step:
        case EraseSignatures():
            erase(step, host, disk)
        case WritePendingTable():
            boot_sector.write_boot_code(disk, boot_sector.PENDING_STUB)
            write_checked_table(host.run, disk, step.table)
            confirm_clean(step.table, host, disk)
        case RestoreVolume():
            runs = [Extent(*run) for run in step.withhold]
            kept = host.source.restore(step.volume, disk, step.offset_bytes, runs, report)
            if runs:
                done.heads[step.volume] = b"".join(kept[run] for run in sorted(runs))
        case MakeSwap():
            make_swap(
                host.run,
                node_of(host, disk, step.number),
                uuid=step.uuid,
                label=step.label,
                page_bytes=step.page_bytes,
            )
            block.flush(disk)
        case VerifyVolume():
            block.flush(disk)
            skip = [Extent(*run) for run in step.withheld]
            host.source.verify(step.volume, disk, step.offset_bytes, step.mode, skip, report)
            done.verified.add(step.volume)
        case GrowVolume():
            grow_ext(host.run, node_of(host, disk, step.number))
            block.flush(disk)
        case ConfigureSystem():
            done.touched = configure_system(step, host, disk)
            block.flush(disk)
        case CheckFilesystems():
            for number in step.numbers:
                check_ext(host.run, node_of(host, disk, number))
            done.filesystems_checked = True
        case EfiEntry():
            add_efi_entry(step, plan, host, done, report)
        case Commit():
            host.confirm_claim()
            verified = _verified(plan, done)
            code = host.source.small(step.boot_code, BOOT_CODE_BYTES) if step.boot_code else None
            write_commit(host.run, plan, step, done.heads, code, verified)
        case _:
            assert_never(step)


def node_of(host: Host, disk: Path, number: int) -> Path:
    """Return the device node of a partition, with nothing stale in the kernel's cache of it.

    A partition's cache is not the disk's: what the stream engine wrote to the disk, it may have
    missed.
    """
    node = host.partition(disk, number)
    block.flush(node)
    return node


def erase(step: EraseSignatures, host: Host, disk: Path) -> None:
    """Erase what was planned and both ends of every partition that the old table names.

    The old table goes first, and to the medium, so that no half-erased old system boots.
    """
    old = wipefs.find_old_partitions(host.run, disk)
    planned = [Extent(*run) for run in step.runs]
    ends = [end for extent in old for end in wipefs.both_ends(extent)]
    wipefs.erase_runs(disk, wipefs.both_ends(Extent(0, block.size_bytes(disk)), MiB))
    wipefs.erase_runs(disk, [*ends, *planned])
    block.flush(disk)
    if left := wipefs.find_signatures(host.run, disk):
        raise DiskError(f"{disk} still holds {', '.join(left)} after it was erased")
    block.reread_table(disk)


def confirm_clean(table: PlannedTable, host: Host, disk: Path) -> None:
    """Raise DiskError if an old signature shows through one of the new partitions."""
    for part in table.partitions:
        if what := wipefs.find_signature_in(host.run, disk, part.extent):
            raise DiskError(f"partition {part.number} of {disk} still holds {what} from before")


def configure_system(step: ConfigureSystem, host: Host, disk: Path) -> tuple[Touched, ...]:
    parts = [(node_of(host, disk, mount.number), mount.where) for mount in step.mounts]
    network = host.network(step)
    with mounted_system(host.run, host.mount_dir, parts, TARGET_OPTIONS) as tree:
        return configure(host.run, tree, step.identity, network)


def add_efi_entry(step: EfiEntry, plan: Plan, host: Host, done: Done, report: Report) -> None:
    """Make the firmware's entry. Without one only the fallback loader boots: then it must exist.

    Some firmware refuses new variables; that is worth a warning, not the whole deployment.
    """
    disk = Path(plan.target.path)
    head, offset = done.heads.get(step.volume, b""), plan.table.partition(step.number).offset_bytes

    def read(at: int, size: int) -> bytes:
        if at + size <= len(head):
            return head[at : at + size]
        data = boot_sector.read_at(disk, offset + at, size)
        return head[at:] + data[len(head) - at :] if at < len(head) else data

    fat = open_fat(read)
    loader = efibootmgr.find_loader(fat, host.inventory.arch, step.label)
    if loader is None:
        raise DiskError(f"the EFI system partition has no loader for {host.inventory.arch}")
    try:
        if not host.efivars.is_dir():
            raise DiskError(f"the firmware's variables are not at {host.efivars}")
        efibootmgr.write_entry(host.run, disk, step.number, step.partition_uuid, loader, step.label)
    except AgentError as error:
        if not efibootmgr.has_fallback(fat, host.inventory.arch):
            raise DiskError(
                f"the firmware took no boot entry, and there is no fallback loader "
                f"({efibootmgr.FALLBACK.get(host.inventory.arch)})"
            ) from error
        text = f"no boot entry ({error}); the firmware will use the fallback loader"
        done.warnings.append(text)
        report(Logged(level=Level.WARNING, message=text))


def _verified(plan: Plan, done: Done) -> Verified:
    """Return the proof that the commit asks for. Raises DiskError if a step is missing."""
    wanted = {step.volume for step in plan.steps if isinstance(step, VerifyVolume)}
    checks = any(isinstance(step, CheckFilesystems) for step in plan.steps)
    if wanted != done.verified or checks != done.filesystems_checked:
        raise DiskError("not everything was verified that the plan says")
    modes = [step.mode for step in plan.steps if isinstance(step, VerifyVolume)]
    return Verified(modes[0] if modes else Verify.NONE, plan.digest, frozenset(done.verified))


def _make_harmless(
    plan: Plan,
    commit: Commit | None,
    host: Host,
    step: str,
    error: BaseException,
    report: Report,
) -> None:
    """After a failure: nothing boots from the disk, and the disk says why. Never raises."""

    def say(message: str) -> None:
        with contextlib.suppress(Exception):  # the report may be what failed
            report(Logged(level=Level.WARNING, message=message))

    for complaint in invalidate(host.run, plan, commit):
        say(f"could not undo: {complaint}")
    text = str(error) or type(error).__name__
    record = DiskRecord(
        job=plan.job, plan=plan.digest, state=FAILED, step=step, error=text, at=now()
    )
    _record(plan, record, lambda happening: say(getattr(happening, "message", "")))


def _record(plan: Plan, record: DiskRecord, report: Callable[[Any], None]) -> None:
    try:
        write_record(plan, record)
    except AgentError as error:
        report(Logged(level=Level.WARNING, message=f"no record on the disk: {error}"))
