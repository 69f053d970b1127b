"""The commit: the one moment at which disks become bootable, and the way back from it.

Order, with a flush between: final tables · withheld heads but their first sector · the first
sector of each head · boot code. Whatever is cut off, the machine either does not boot from the
disk or finds all of it.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from agent.errors import AgentError, DiskError
from agent.model.job import Verify
from agent.model.layout import Layout, MbrGap
from agent.model.nodes import Gpt
from agent.model.plan import Plan, PlannedDisk
from agent.model.steps import Commit, CommittedDisk
from agent.model.table import PlannedTable
from agent.model.wire import Value, encode
from agent.planning.stack import HEAD_BYTES
from agent.planning.tables import pending
from agent.system import block
from agent.system.command import Runner
from agent.tools import boot_sector, sfdisk
from agent.tools.boot_sector import RECORD_BYTES, RECORD_MAGIC, RECORD_OFFSET


@dataclass(frozen=True, slots=True)
class Verified:
    """Proof that what was written was read back as the job asked, and all filesystems checked.

    Only `agent.apply`'s verifying steps make one; `write_commit` cannot be called without it.
    """

    mode: Verify
    plan_digest: str
    volumes: frozenset[str]


COMMITTED: Final = "committed"
FAILED: Final = "failed"


class DiskRecord(Value, frozen=True, kw_only=True):
    """What the gap behind the partition entries says about the last deployment."""

    job: str
    plan: str
    state: str
    """`committed` or `failed`."""
    step: str = ""
    error: str = ""
    at: str = ""


def write_commit(
    run: Runner,
    plan: Plan,
    commit: Commit,
    devices: Mapping[str, Path],
    heads: Mapping[str, bytes],
    codes: Mapping[str, bytes],
    verified: Verified,
) -> None:
    """Make the disks of `plan` boot. `heads` has the first bytes of each withheld volume.

    `devices` is where each disk is, and each array with a table; `codes` has the boot code of each
    that gets some. Raises DiskError; then `invalidate` must follow.
    """
    if verified.plan_digest != plan.digest:
        raise DiskError("what was verified is not what is to be committed")
    wanted = {head.volume for disk in commit.disks for head in disk.heads}
    missing = sorted(wanted - set(heads))
    missing += [
        disk.disk
        for disk in commit.disks
        if disk.boot_code is not None and not codes.get(disk.disk)
    ]
    if missing:
        raise DiskError(f"there is nothing to commit for {', '.join(missing)}")
    for disk in commit.disks:
        if disk.table:
            write_checked_table(run, devices[disk.disk], disk.table)
    places = [(devices[disk.disk], head) for disk in commit.disks for head in disk.heads]
    for device, head in places:
        sector = block.sector_bytes(device)
        boot_sector.write_at(device, head.offset_bytes + sector, heads[head.volume][sector:])
    for device, head in places:
        sector = block.sector_bytes(device)
        boot_sector.write_at(device, head.offset_bytes, heads[head.volume][:sector])
    for disk in commit.disks:
        device = devices[disk.disk]
        if disk.table:
            boot_sector.write_boot_code(device, codes.get(disk.disk, b""))
            if isinstance(disk.table.table, Gpt) and disk.table.table.hybrid:
                boot_sector.write_hybrid_entries(device, disk.table.table.hybrid)
        block.flush(device)


def write_checked_table(run: Runner, device: Path, table: PlannedTable) -> None:
    """Write `table`, flush, let the kernel read it again and compare with what is there now."""
    sfdisk.write_table(run, device, table)
    block.flush(device)
    if wrong := sfdisk.differences(table, sfdisk.read_table(run, device)):
        raise DiskError(f"the table on {device} is not what was written: {'; '.join(wrong)}")
    block.reread_table(device)


def invalidate(run: Runner, plan: Plan, devices: Mapping[str, Path]) -> tuple[str, ...]:
    """Make sure that nothing boots from `devices`: disks of `plan`, or arrays with a table.

    Returns what could not be done. Boot code first, then the heads, then the table: each alone
    already stops one firmware.
    """
    return tuple(
        f"{what} of {device}: {complaint}"
        for device, what, attempt in _undoing(run, plan, devices)
        if (complaint := _attempted(attempt))
    )


def _undoing(
    run: Runner, plan: Plan, devices: Mapping[str, Path]
) -> Iterator[tuple[Path, str, Callable[[], None]]]:
    committed = {disk.disk: disk for disk in plan.commit.disks} if plan.commit else {}
    tables = {disk.id: disk.table for disk in plan.disks}
    for node, device in devices.items():
        disk = committed.get(node) or CommittedDisk(disk=node, table=tables.get(node))
        stub = partial(boot_sector.write_boot_code, device, boot_sector.PENDING_STUB)
        yield device, "boot code", stub
        for head in disk.heads:
            blank = partial(boot_sector.write_at, device, head.offset_bytes, bytes(HEAD_BYTES))
            yield device, f"head at {head.offset_bytes}", blank
        if disk.table:
            table = pending(disk.table, plan.job)
            yield device, "table", partial(sfdisk.write_table, run, device, table)
        yield device, "flush", partial(block.flush, device)


def _attempted(attempt: Callable[[], None]) -> str | None:
    """Try; return what was wrong, None if nothing."""
    try:
        attempt()
    except (AgentError, OSError) as error:
        return str(error)
    return None


def has_room_for_record(disk: PlannedDisk, layout: Layout) -> bool:
    """Return whether the gap in front of the first partition holds a record."""
    if disk.table is None:
        return False
    first = min((part.offset_bytes for part in disk.table.partitions), default=0)
    gap = max(
        (
            disk.table.sector_bytes + volume.size_bytes
            for volume in layout.volumes
            if volume.on == disk.id and isinstance(volume.content, MbrGap)
        ),
        default=0,
    )
    return gap <= RECORD_OFFSET and first >= RECORD_OFFSET + RECORD_BYTES


def write_record(plan: Plan, record: DiskRecord) -> tuple[str, ...]:
    """Leave `record` on the disks of `plan` that have room in front of the partitions.

    Returns what could not be done.
    """
    data = RECORD_MAGIC + encode(record)
    if len(data) > RECORD_BYTES:
        short = msgspec.structs.replace(record, error=record.error[:500], step=record.step[:200])
        data = RECORD_MAGIC + encode(short)
    block_of_it = data[:RECORD_BYTES].ljust(RECORD_BYTES, b"\0")
    complaints = []
    for disk in plan.disks:
        if has_room_for_record(disk, plan.layout):
            device = Path(disk.target.path)
            write = partial(boot_sector.write_at, device, RECORD_OFFSET, block_of_it)
            complaints.append(_attempted(write))
    return tuple(complaint for complaint in complaints if complaint)


def read_record(device: Path) -> DiskRecord | None:
    """Return what the last deployment left on `device`, None if nothing."""
    with contextlib.suppress(AgentError):
        data = boot_sector.read_at(device, RECORD_OFFSET, RECORD_BYTES)
        if data.startswith(RECORD_MAGIC):
            with contextlib.suppress(msgspec.DecodeError):
                text = data[len(RECORD_MAGIC) :].rstrip(b"\0")
                return msgspec.json.decode(text, type=DiskRecord)
    return None
