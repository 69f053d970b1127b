"""The executor: one `case` for each kind of step, nothing decided here."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
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
from agent.devices import Devices, partition_node
from agent.efi_entry import add_efi_entry
from agent.errors import AgentError, DiskError, DiskState, StepFailed
from agent.identity.boot.array_names import follow_uuids
from agent.identity.configure import NetworkFiles, Touched, configure
from agent.model.event import Level, Logged, StepStarted
from agent.model.inventory import Drive, Inventory
from agent.model.job import Verify
from agent.model.layout import BOOT_CODE_BYTES
from agent.model.nodes import Holder
from agent.model.plan import Plan
from agent.model.steps import (
    CheckFilesystems,
    CloseDevices,
    Commit,
    ConfigureSystem,
    CopyFiles,
    DeployStep,
    EfiEntry,
    EraseSignatures,
    GrowVolume,
    MakeArray,
    MakeFilesystem,
    MakeGroup,
    MakeLogical,
    MakeLuks,
    MakeSwap,
    RenewBoot,
    RestoreVolume,
    VerifyFiles,
    VerifyVolume,
    WritePendingTable,
)
from agent.model.table import PlannedTable
from agent.report import Report, now, silent
from agent.reshape import copy_files, flush, parts_of, renew, say_lifted, take_boot, verify_files
from agent.system import block
from agent.system.command import Runner
from agent.system.hold import held
from agent.system.mount import TARGET_OPTIONS, mounted_system
from agent.tools import boot_sector, efibootmgr, filesystems, wipefs
from agent.tools.mkswap import make_swap
from agent.units import Extent

FILES = "files"
"""Stands among verified volumes for the files that were copied."""


class Source(Protocol):
    """Where the template's data comes from: the stream engine, or a fake in tests."""

    def restore(
        self,
        volume: str,
        device: Path,
        offset_bytes: int,
        withhold: Sequence[Extent],
        report: Report,
    ) -> Mapping[Extent, bytes]:
        """Write the volume; return what was withheld, unused bytes as zeros."""
        ...

    def verify(
        self,
        volume: str,
        device: Path,
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

    def view(self, volume: str) -> AbstractContextManager[Path]:
        """Show the volume as a read-only block device, fetched as it is read."""
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
    partition: Callable[[Path, int], Path] = partition_node
    """Where the device node of a partition is."""
    keys: Mapping[str, bytes] = field(default_factory=dict)
    """The key of each LUKS node of the plan's layout."""

    def confirm_unchanged(self, plan: Plan) -> None:
        """Raise DiskError unless the disks are still those that the plan was made for."""
        for disk in plan.disks:
            drive = self.look(disk.target.path)
            if wrong := disk.target.differences(drive):
                raise DiskError(
                    f"{disk.target.path} ({disk.target.identity}) is not as it was when the plan "
                    f"was made: {'; '.join(wrong)}",
                    hint="look again and make a new plan",
                )


@dataclass(slots=True)
class Done:
    """What `apply` did and learnt on the way."""

    heads: dict[str, bytes] = field(default_factory=dict)
    """What is withheld of each volume until the commit."""
    codes: dict[str, bytes] = field(default_factory=dict)
    """The boot code of each disk."""
    verified: set[str] = field(default_factory=set)
    """Volumes that were read back, and `FILES`."""
    read_back_bytes: int = 0
    """Of files; the source counts those of volumes."""
    filesystems_checked: bool = False
    touched: tuple[Touched, ...] = ()
    warnings: list[str] = field(default_factory=list)
    state: DiskState = DiskState.UNCHANGED


def apply(plan: Plan, host: Host, report: Report = silent) -> Done:
    """Carry out `plan` in order. Raises StepFailed, which says how the disks were left.

    After a failure the disks are made unbootable again and keep a record of what failed.
    """
    done = Done()
    try:
        with ExitStack() as stack:
            for disk in sorted(plan.disks, key=lambda disk: disk.target.path):
                stack.enter_context(held(Path(disk.target.path), disk.target.paths))
            _apply(plan, host, done, report)
    except DiskError as error:
        if done.state is DiskState.UNCHANGED:
            raise StepFailed("take hold of the disk", done.state) from error
        raise
    return done


def _apply(plan: Plan, host: Host, done: Done, report: Report) -> None:
    devices = Devices(
        run=host.run,
        layout=plan.layout,
        paths={disk.id: Path(disk.target.path) for disk in plan.disks},
        partition=host.partition,
        keys=host.keys,
    )
    at = "look at the disk again"
    try:
        host.confirm_claim()
        host.confirm_unchanged(plan)
        for number, step in enumerate(plan.steps, start=1):
            at = step.summary()
            report(StepStarted(index=number, count=len(plan.steps), summary=at))
            if step.destructive:
                done.state = DiskState.PARTIAL
            carry_out(step, plan, host, devices, done, report)
    except BaseException as error:
        if done.state is DiskState.PARTIAL:
            _make_harmless(plan, host, devices, at, error, report)
        if isinstance(error, AgentError):
            raise StepFailed(at, done.state) from error
        raise
    done.state = DiskState.COMPLETE
    _record(plan, DiskRecord(job=plan.job, plan=plan.digest, state=COMMITTED, at=now()), report)


def carry_out(
    step: DeployStep, plan: Plan, host: Host, devices: Devices, done: Done, report: Report
) -> None:
    match step:
        case EraseSignatures():
            erase(step, host, devices.paths[step.disk])
        case WritePendingTable():
            disk = devices.paths[step.disk]
            boot_sector.write_boot_code(disk, boot_sector.PENDING_STUB)
            write_checked_table(host.run, disk, step.table)
            confirm_clean(step.table, disk)
        case MakeArray() | MakeLuks() | MakeGroup() | MakeLogical():
            devices.make(step)
        case RestoreVolume():
            runs = [Extent(*run) for run in step.withhold]
            device, offset = devices.paths[step.place.node], step.place.offset_bytes
            kept = host.source.restore(step.volume, device, offset, runs, report)
            if runs:
                done.heads[step.volume] = b"".join(kept[run] for run in sorted(runs))
        case MakeSwap():
            device = devices.path(step.node)
            make_swap(
                host.run, device, uuid=step.uuid, label=step.label, page_bytes=step.page_bytes
            )
            block.flush(device)
        case VerifyVolume():
            device, offset = devices.paths[step.place.node], step.place.offset_bytes
            block.flush(device)
            skip = [Extent(*run) for run in step.withheld]
            host.source.verify(step.volume, device, offset, step.mode, skip, report)
            done.verified.add(step.volume)
        case GrowVolume():
            device = devices.path(step.node)
            further = [devices.path(node) for node in step.further]
            filesystems.grow(host.run, device, step.content, host.mount_dir, further)
            for one in (device, *further):
                block.flush(one)
        case MakeFilesystem():
            device = devices.path(step.node)
            filesystems.make_filesystem(host.run, device, step.content)
            block.flush(device)
        case CopyFiles():
            copy_files(host.run, step, devices, host.source.view, host.mount_dir, report)
        case VerifyFiles():
            done.read_back_bytes += verify_files(
                host.run, step, plan.digest, devices, host.source.view, host.mount_dir, report
            )
            done.verified.add(FILES)
        case RenewBoot():
            done.touched += renew(host.run, step, plan, devices, host.mount_dir, report)
            done.codes, heads = take_boot(plan, devices)
            done.heads |= heads
        case ConfigureSystem():
            done.touched += configure_system(step, host, devices, report)
        case CheckFilesystems():
            for checked in step.checked:
                filesystems.check(host.run, devices.path(checked.node), checked.content)
            done.filesystems_checked = True
        case EfiEntry():
            if text := add_efi_entry(
                host.run,
                host.efivars,
                host.inventory.arch,
                step,
                devices,
                done.heads.get(step.volume, b""),
            ):
                done.warnings.append(text)
                report(Logged(level=Level.WARNING, message=text))
        case CloseDevices():
            for node in step.nodes:
                devices.close(node)
        case Commit():
            host.confirm_claim()
            for last in step.disks:
                if last.boot_code:
                    done.codes[last.disk] = host.source.small(last.boot_code, BOOT_CODE_BYTES)
            write_commit(
                host.run, plan, step, devices.paths, done.heads, done.codes, _verified(plan, done)
            )
        case _:
            assert_never(step)


def erase(step: EraseSignatures, host: Host, disk: Path) -> None:
    """Erase old signatures, and make the kernel forget the old partitions."""
    wipefs.erase_signatures(host.run, disk, [Extent(*run) for run in step.runs])
    block.reread_table(disk)


def confirm_clean(table: PlannedTable, disk: Path) -> None:
    """Raise DiskError if an old signature shows through one of the new partitions."""
    for part in table.partitions:
        if part.is_extended:
            continue
        if what := wipefs.find_signature_in(disk, part.extent):
            raise DiskError(f"partition {part.number} of {disk} still holds {what} from before")


def configure_system(
    step: ConfigureSystem, host: Host, devices: Devices, report: Report
) -> tuple[Touched, ...]:
    parts = parts_of(devices, step.mounts)
    network = host.network(step)
    with mounted_system(host.run, host.mount_dir, parts, TARGET_OPTIONS) as tree:
        touched = configure(host.run, tree, step.identity, network)
        touched += tuple(follow_uuids(tree, devices.new_uuids()))
    say_lifted(tree.lifted, report)
    flush(parts)
    return touched


def _verified(plan: Plan, done: Done) -> Verified:
    """Return the proof that the commit asks for. Raises DiskError if a step is missing."""
    steps = [step for step in plan.steps if isinstance(step, VerifyVolume | VerifyFiles)]
    wanted = {step.volume if isinstance(step, VerifyVolume) else FILES for step in steps}
    checks = any(isinstance(step, CheckFilesystems) for step in plan.steps)
    if wanted != done.verified or checks != done.filesystems_checked:
        raise DiskError("not everything was verified that the plan says")
    mode = steps[0].mode if steps else Verify.NONE
    return Verified(mode, plan.digest, frozenset(done.verified))


def _make_harmless(
    plan: Plan, host: Host, devices: Devices, step: str, error: BaseException, report: Report
) -> None:
    """After a failure: nothing boots from the disks, and they say why. Never raises."""

    def say(message: str) -> None:
        with contextlib.suppress(Exception):  # the report may be what failed
            report(Logged(level=Level.WARNING, message=message))

    def invalidated(nodes: tuple[Holder, ...]) -> tuple[str, ...]:
        there = {one.id: devices.paths[one.id] for one in nodes if one.id in devices.paths}
        return invalidate(host.run, plan, there)

    layout = plan.layout
    complaints = [*invalidated(layout.tabled_arrays), *devices.close_all()]
    for complaint in (*complaints, *invalidated(layout.disks)):
        say(f"could not undo: {complaint}")
    text = str(error) or type(error).__name__
    record = DiskRecord(
        job=plan.job, plan=plan.digest, state=FAILED, step=step, error=text, at=now()
    )
    _record(plan, record, lambda happening: say(getattr(happening, "message", "")))


def _record(plan: Plan, record: DiskRecord, report: Callable[[Any], None]) -> None:
    for complaint in write_record(plan, record):
        report(Logged(level=Level.WARNING, message=f"no record on the disk: {complaint}"))
