"""The commit: the one moment at which a disk becomes bootable, and the way back from it.

Order, with a flush between: final table · withheld heads but their first sector · the first
sector of each head · boot code. Whatever is cut off, the machine either does not boot from the
disk or finds all of it.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from agent.errors import AgentError, DiskError
from agent.model.job import Verify
from agent.model.plan import Commit, Plan, PlannedTable
from agent.model.wire import Value, encode
from agent.planning.deploy import HEAD_BYTES, pending
from agent.system import block
from agent.system.command import Runner
from agent.tools import boot_sector, sfdisk
from agent.units import KiB

RECORD_OFFSET: Final = 512 * KiB
RECORD_BYTES: Final = 4 * KiB
_MAGIC: Final = b"METALCAST RECORD\n"


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
    heads: Mapping[str, bytes],
    boot_code: bytes | None,
    verified: Verified,
) -> None:
    """Make the disk of `plan` boot. `heads` has the first bytes of each withheld volume.

    Raises DiskError; then `invalidate` must follow.
    """
    if verified.plan_digest != plan.digest:
        raise DiskError("what was verified is not what is to be committed")
    missing = [head.volume for head in commit.heads if head.volume not in heads]
    if missing or (commit.boot_code is not None and not boot_code):
        raise DiskError(f"there is nothing to commit for {', '.join(missing) or 'the boot code'}")
    device = Path(plan.target.path)
    write_checked_table(run, device, commit.table)
    sector = commit.table.sector_bytes
    for head in commit.heads:
        boot_sector.write_at(device, head.offset_bytes + sector, heads[head.volume][sector:])
    for head in commit.heads:
        boot_sector.write_at(device, head.offset_bytes, heads[head.volume][:sector])
    boot_sector.write_boot_code(device, boot_code or b"")
    block.flush(device)


def write_checked_table(run: Runner, device: Path, table: PlannedTable) -> None:
    """Write `table`, flush, let the kernel read it again and compare with what is there now."""
    sfdisk.write_table(run, device, table)
    block.flush(device)
    if wrong := sfdisk.differences(table, sfdisk.read_table(run, device)):
        raise DiskError(f"the table on {device} is not what was written: {'; '.join(wrong)}")
    block.reread_table(device)


def invalidate(run: Runner, plan: Plan, commit: Commit | None) -> tuple[str, ...]:
    """Make sure that nothing boots from the disk of `plan`. Returns what could not be done.

    Boot code first, then the heads, then the table: each alone already stops one firmware.
    """
    device = Path(plan.target.path)
    places = [head.offset_bytes for head in commit.heads] if commit else []
    attempts: list[tuple[str, Callable[[], None]]] = [
        ("boot code", partial(boot_sector.write_boot_code, device, boot_sector.PENDING_STUB)),
        *(
            (f"head at {place}", partial(boot_sector.write_at, device, place, bytes(HEAD_BYTES)))
            for place in places
        ),
        ("table", partial(sfdisk.write_table, run, device, pending(plan.table, plan.job))),
        ("flush", partial(block.flush, device)),
    ]
    complaints = []
    for what, attempt in attempts:
        try:
            attempt()
        except (AgentError, OSError) as error:
            complaints.append(f"{what}: {error}")
    return tuple(complaints)


def has_room_for_record(table: PlannedTable) -> bool:
    """Return whether the gap in front of the first partition holds a record."""
    first = min((part.offset_bytes for part in table.partitions), default=0)
    return first >= RECORD_OFFSET + RECORD_BYTES


def write_record(plan: Plan, record: DiskRecord) -> None:
    """Leave `record` on the disk of `plan`, if there is room in front of the partitions."""
    if not has_room_for_record(plan.table):
        return
    data = _MAGIC + encode(record)
    if len(data) > RECORD_BYTES:
        short = msgspec.structs.replace(record, error=record.error[:500], step=record.step[:200])
        data = _MAGIC + encode(short)
    boot_sector.write_at(
        Path(plan.target.path), RECORD_OFFSET, data[:RECORD_BYTES].ljust(RECORD_BYTES, b"\0")
    )


def read_record(device: Path) -> DiskRecord | None:
    """Return what the last deployment left on `device`, None if nothing."""
    with contextlib.suppress(AgentError):
        data = boot_sector.read_at(device, RECORD_OFFSET, RECORD_BYTES)
        if data.startswith(_MAGIC):
            with contextlib.suppress(msgspec.DecodeError):
                text = data[len(_MAGIC) :].rstrip(b"\0")
                return msgspec.json.decode(text, type=DiskRecord)
    return None
