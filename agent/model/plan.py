"""A plan: everything that will be done to a disk, as a value, complete before the first write.

A plan prints as a page (`agent.planning.review`), saves as JSON and has a digest, so that what a
person read is what is carried out.
"""

from enum import StrEnum
from hashlib import sha256
from typing import Annotated, Any

import msgspec

from agent.model.inventory import Drive, Found
from agent.model.job import Identity, JobId, TemplateRef, Verify
from agent.model.layout import Layout
from agent.model.nodes import (
    Bytes,
    Guid,
    NodeId,
    SectorBytes,
)
from agent.model.template import (
    Firmware,
    NetworkStack,
    OsIdentity,
    Redaction,
    TemplateName,
)
from agent.model.wire import Value, encode
from agent.units import Extent, format_bytes

Run = tuple[Bytes, Bytes]
"""(offset, size) in bytes: an `Extent` as it crosses a file."""


class PlannedPartition(Value, frozen=True, kw_only=True):
    """One partition as it will be written."""

    number: Annotated[int, msgspec.Meta(ge=1, le=128)]
    offset_bytes: Bytes
    size_bytes: Annotated[int, msgspec.Meta(gt=0, le=2**63 - 1)]
    type: Guid
    uuid: Guid
    name: Annotated[str, msgspec.Meta(max_length=36)] = ""
    attributes: tuple[str, ...] = ()

    @property
    def extent(self) -> Extent:
        return Extent(self.offset_bytes, self.size_bytes)


class PlannedTable(Value, frozen=True, kw_only=True):
    """A GUID partition table as it will be written."""

    uuid: Guid
    sector_bytes: SectorBytes
    partitions: tuple[PlannedPartition, ...]

    def partition(self, number: int) -> PlannedPartition:
        return next(part for part in self.partitions if part.number == number)


class Target(Value, frozen=True, kw_only=True):
    """The disk that a plan is about, as it was when the plan was made."""

    path: str
    identity: str
    serial: str | None
    wwn: str | None
    model: str | None
    size_bytes: Bytes
    sector_bytes: SectorBytes
    contents: tuple[Found, ...]

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


class EraseSignatures(Value, frozen=True, kw_only=True, tag="erase", tag_field="kind"):
    """Old signatures go: both ends of the disk, of its old partitions and of `runs`."""

    runs: tuple[Run, ...]
    destructive = True

    def summary(self) -> str:
        return "erase old signatures at both ends of the disk and of each partition"


class WritePendingTable(Value, frozen=True, kw_only=True, tag="pending-table", tag_field="kind"):
    """Every partition at its final place, of a type that nothing boots or mounts."""

    table: PlannedTable
    destructive = True

    def summary(self) -> str:
        return f"write a pending table with {len(self.table.partitions)} partitions"


class RestoreVolume(Value, frozen=True, kw_only=True, tag="restore", tag_field="kind"):
    """The volume's used bytes, to `offset_bytes` of the disk; not those in `withhold`.

    `withhold` is in bytes of the volume: what would make it bootable is written at the commit.
    """

    volume: NodeId
    offset_bytes: Bytes
    size_bytes: Bytes
    used_bytes: Bytes
    what: str
    withhold: tuple[Run, ...] = ()
    destructive = True

    def summary(self) -> str:
        return f"restore {self.what} ({format_bytes(self.used_bytes)})"


class MakeSwap(Value, frozen=True, kw_only=True, tag="swap", tag_field="kind"):
    number: int
    uuid: Guid | None
    label: str
    page_bytes: Bytes
    size_bytes: Bytes
    destructive = True

    def summary(self) -> str:
        return f"make swap on partition {self.number} ({format_bytes(self.size_bytes)})"


class VerifyVolume(Value, frozen=True, kw_only=True, tag="verify", tag_field="kind"):
    """Read back from the medium and compare with the template's digests."""

    volume: NodeId
    offset_bytes: Bytes
    mode: Verify
    what: str
    withheld: tuple[Run, ...] = ()
    destructive = False

    def summary(self) -> str:
        how = {
            Verify.NONE: "do not read back",
            Verify.SAMPLE: "read back a sample of",
            Verify.FULL: "read back all of",
        }
        return f"{how[self.mode]} {self.what}"


class GrowVolume(Value, frozen=True, kw_only=True, tag="grow", tag_field="kind"):
    """The ext filesystem on a partition takes all of the partition."""

    number: int
    what: str
    from_bytes: Bytes
    to_bytes: Bytes
    destructive = True

    def summary(self) -> str:
        return (
            f"grow {self.what} from {format_bytes(self.from_bytes)} to "
            f"{format_bytes(self.to_bytes)}"
        )


class MountPoint(Value, frozen=True, kw_only=True):
    number: int
    where: str


class ConfigureSystem(Value, frozen=True, kw_only=True, tag="configure", tag_field="kind"):
    """The system becomes this machine's own: identity and network.

    `mounts` begins with `/`; filesystems without Unix files (the ESP) are not among them.
    """

    mounts: tuple[MountPoint, ...]
    identity: Identity
    network: dict[str, Any] | None
    stack: NetworkStack | None
    boot_nic: str | None
    """MAC of the interface that booted: DHCP goes there if `network` says nothing."""
    destructive = True

    def summary(self) -> str:
        name = self.identity.hostname
        return f"make the system {name}'s own" if name else "make the system this machine's own"


class CheckFilesystems(Value, frozen=True, kw_only=True, tag="check", tag_field="kind"):
    """fsck of every ext filesystem, read-only: the last look before the commit."""

    numbers: tuple[int, ...]
    destructive = False

    def summary(self) -> str:
        return f"check the ext filesystems ({len(self.numbers)})"


class EfiEntry(Value, frozen=True, kw_only=True, tag="efi-entry", tag_field="kind"):
    """A boot entry in the firmware. Made before the commit: it points at what is not there yet."""

    volume: NodeId
    number: int
    partition_uuid: Guid
    label: str
    destructive = False

    def summary(self) -> str:
        return f"add the firmware's boot entry {self.label!r}"


class WithheldHead(Value, frozen=True, kw_only=True):
    volume: NodeId
    offset_bytes: Bytes
    """Where the volume begins on the disk."""


class Commit(Value, frozen=True, kw_only=True, tag="commit", tag_field="kind"):
    """The final table, the withheld heads, the boot code last. After this the disk boots."""

    table: PlannedTable
    heads: tuple[WithheldHead, ...]
    boot_code: NodeId | None
    """The volume with the boot code; without one the sector keeps none."""
    destructive = True

    def summary(self) -> str:
        return "commit: final table, then what makes it boot"


DeployStep = (
    EraseSignatures
    | WritePendingTable
    | RestoreVolume
    | MakeSwap
    | VerifyVolume
    | GrowVolume
    | ConfigureSystem
    | CheckFilesystems
    | EfiEntry
    | Commit
)


class Plan(Value, frozen=True, kw_only=True):
    """How one template gets onto one disk. Nothing in it depends on when it is carried out."""

    template: TemplateRef
    job: JobId
    firmware: Firmware
    target: Target
    table: PlannedTable
    """The table as it will be at the end; the steps say when."""
    steps: tuple[DeployStep, ...]
    consented: tuple[str, ...] = ()
    """Valuable things that will be destroyed with consent, in words."""
    notes: tuple[str, ...] = ()
    """What the reader should know: what was asked and cannot be, and why."""

    @property
    def digest(self) -> str:
        return "sha256:" + sha256(encode(self)).hexdigest()


class CaptureMethod(StrEnum):
    USED_BLOCKS = "used blocks"
    WHOLE = "whole, zeros left out"
    HEADER = "header only"
    BOOT_CODE = "boot code"


class CaptureVolume(Value, frozen=True, kw_only=True):
    """One volume to read: from `offset_bytes` of the disk, by `method`.

    `redacted` is in bytes of the volume: stored as zeros, for they belong to one machine only.
    """

    volume: NodeId
    number: int | None
    """The partition; None for the boot code."""
    offset_bytes: Bytes
    size_bytes: Bytes
    method: CaptureMethod
    redacted: tuple[Run, ...] = ()

    def summary(self) -> str:
        return f"read {self.volume} ({format_bytes(self.size_bytes)}, {self.method})"


class CapturePlan(Value, frozen=True, kw_only=True):
    """How one disk becomes one template. The disk is only read."""

    name: TemplateName
    source: Target
    firmware: Firmware
    boots: tuple[Firmware, ...]
    os: OsIdentity | None
    layout: Layout
    volumes: tuple[CaptureVolume, ...]
    redactions: tuple[Redaction, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        return "sha256:" + sha256(encode(self)).hexdigest()


class FoundPartition(Value, frozen=True, kw_only=True):
    """One partition of a source disk and what it holds, as found."""

    number: int
    offset_bytes: Bytes
    size_bytes: Bytes
    type: str
    uuid: str
    name: str
    attributes: tuple[str, ...] = ()
    what: str | None = None
    """libblkid's name for the content: `ext4`, `vfat`, `swap`, `crypto_LUKS`; None: unknown."""
    content_uuid: str | None = None
    label: str = ""
    block_bytes: Bytes = 0
    features: tuple[str, ...] = ()
    content_bytes: Bytes = 0
    """How long the filesystem says it is; 0 if it does not say."""
    used_bytes: Bytes = 0
    minimum_bytes: Bytes = 0
    unfit: tuple[str, ...] = ()
    """Why its content cannot be captured as it is, each with the command that fixes it."""


class FoundLayout(Value, frozen=True, kw_only=True):
    """A source disk's table and contents, as found: what `plan_capture` decides on."""

    table: str | None
    """`gpt`, `dos`, or None: the disk has no table."""
    uuid: str | None
    partitions: tuple[FoundPartition, ...] = ()
    boot_code: bool = False
    """The first 440 bytes hold something, and not our own stub."""
    efi_loader: str | None = None
    """The loader on the ESP, `EFI/debian/shimx64.efi`, if there is one."""
    has_fallback_loader: bool | None = None
    """The loader that firmware finds by itself exists; None: there is no ESP."""
    is_hybrid: bool = False
    """The MBR names partitions beside the protective one."""


class RedactedFile(Value, frozen=True, kw_only=True):
    number: int
    """The partition that holds the file."""
    path: str
    size_bytes: Bytes
    runs: tuple[Run, ...]
    """Where its bytes are, in bytes of the volume."""


class Survey(Value, frozen=True, kw_only=True):
    """What the source's own files say, read without writing."""

    os: OsIdentity | None = None
    root: int | None = None
    """The partition that holds `/`."""
    mounts: tuple[MountPoint, ...] = ()
    """What its fstab mounts of this disk."""
    redacted: tuple[RedactedFile, ...] = ()
    unfit: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
