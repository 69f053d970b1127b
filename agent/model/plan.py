"""A plan: everything that will be done to the disks, as a value, complete before the first write.

A plan prints as a page (`agent.planning.review`), saves as JSON and has a digest, so that what a
person read is what is carried out.
"""

from hashlib import sha256
from typing import Annotated

import msgspec

from agent.model.inventory import Drive, Found
from agent.model.job import JobId, TemplateRef
from agent.model.layout import Layout
from agent.model.nodes import Bytes, NodeId, SectorBytes
from agent.model.steps import Commit, DeployStep
from agent.model.table import PlannedTable
from agent.model.template import Firmware
from agent.model.wire import Value, encode


class Target(Value, frozen=True, kw_only=True):
    """A disk that a plan is about, as it was when the plan was made."""

    path: str
    identity: str
    serial: str | None
    wwn: str | None
    model: str | None
    size_bytes: Bytes
    sector_bytes: SectorBytes
    contents: tuple[Found, ...]
    paths: tuple[str, ...] = ()
    """Every path to the disk, `path` among them, if there are several (multipath)."""

    @classmethod
    def of(cls, drive: Drive) -> "Target":
        return cls(
            path=drive.path,
            identity=drive.identity,
            serial=drive.serial,
            wwn=drive.wwn,
            model=drive.model,
            size_bytes=drive.size_bytes,
            sector_bytes=drive.sector_bytes,
            contents=drive.contents,
            paths=drive.paths,
        )

    def differences(self, drive: Drive) -> tuple[str, ...]:
        """Return in words how `drive` is no longer the disk that the plan was made for."""
        now = Target.of(drive)
        found = []
        for field in ("serial", "wwn", "model", "size_bytes", "sector_bytes"):
            then_value, now_value = getattr(self, field), getattr(now, field)
            if then_value != now_value:
                found.append(f"its {field.replace('_', ' ')} was {then_value}, is {now_value}")
        if _signatures(self.contents) != _signatures(now.contents):
            found.append("it holds other things than when the plan was made")
        if drive.users:
            found.append(f"it is in use by {', '.join(drive.users)}")
        return tuple(found)


def _signatures(contents: tuple[Found, ...]) -> frozenset[tuple[str, str, str | None]]:
    return frozenset((found.path, found.what, found.uuid) for found in contents)


class PlannedDisk(Value, frozen=True, kw_only=True):
    """One disk of the target's layout, and the drive that was chosen for it."""

    id: NodeId
    target: Target
    table: PlannedTable | None
    """The table as it will be at the end; the steps say when. None: the disk has none."""


class Plan(Value, frozen=True, kw_only=True):
    """How one template gets onto the disks of one machine, whenever it is carried out."""

    template: TemplateRef
    job: JobId
    firmware: Firmware
    layout: Layout
    """What is there afterwards."""
    disks: Annotated[tuple[PlannedDisk, ...], msgspec.Meta(min_length=1)]
    steps: tuple[DeployStep, ...]
    consented: tuple[str, ...] = ()
    """Valuable things that will be destroyed with consent, in words."""
    notes: tuple[str, ...] = ()
    """What the reader should know: what was asked and cannot be, and why."""

    @property
    def digest(self) -> str:
        return "sha256:" + sha256(encode(self)).hexdigest()

    @property
    def commit(self) -> Commit | None:
        return next((step for step in self.steps if isinstance(step, Commit)), None)

    def disk(self, disk_id: str) -> PlannedDisk:
        return next(disk for disk in self.disks if disk.id == disk_id)

    @property
    def table(self) -> PlannedTable:
        """The table of the first disk. Raises ValueError if it has none."""
        if self.disks[0].table is None:
            raise ValueError("the first disk has no partition table")
        return self.disks[0].table
