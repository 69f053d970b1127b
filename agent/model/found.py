"""What a source is found to be, and the plan that captures it."""

from enum import StrEnum
from hashlib import sha256
from typing import Annotated

import msgspec

from agent.model.layout import Content, Layout
from agent.model.nodes import Bytes, Node, NodeId, SectorBytes
from agent.model.plan import Target
from agent.model.steps import MountPoint, Place, Run
from agent.model.template import Firmware, OsIdentity, Redaction, TemplateName
from agent.model.wire import Value, encode


class CaptureMethod(StrEnum):
    USED_BLOCKS = "used blocks"
    WHOLE = "whole, zeros left out"
    HEADER = "header only"
    BOOT_CODE = "boot code"


class CaptureVolume(Value, frozen=True, kw_only=True):
    """One volume to read: from `place`, by `method`.

    `redacted` is in bytes of the volume: stored as zeros, for they belong to one machine only.
    """

    volume: NodeId
    on: NodeId
    path: str
    """The device that holds it now, and it alone; the disk for boot code and the MBR's gap."""
    others: tuple[str, ...] = ()
    """The other devices of the same btrfs."""
    place: Place
    size_bytes: Bytes
    method: CaptureMethod
    redacted: tuple[Run, ...] = ()
    covered: bool = False
    """`path` is a cover, and what it shows is captured, not what is on the disk."""

    def summary(self) -> str:
        return f"read {self.volume} ({self.size_bytes} bytes, {self.method})"


class CapturePlan(Value, frozen=True, kw_only=True):
    """How the disks of a machine become one template. They are only read."""

    name: TemplateName
    sources: Annotated[tuple[Target, ...], msgspec.Meta(min_length=1)]
    """In the order of the layout's disks."""
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


class FoundContent(Value, frozen=True, kw_only=True):
    """What one carrier (a partition, array, LUKS, logical volume or bare disk) holds."""

    on: NodeId
    path: str
    """The carrier's device today."""
    what: str | None = None
    """libblkid's name for it: `ext4`, `vfat`, `LVM2_member`; None: unknown."""
    content: Content | None = None
    """None: it is a piece of something above, or nothing that we know."""
    content_bytes: Bytes
    used_bytes: Bytes
    minimum_bytes: Bytes
    unfit: tuple[str, ...] = ()
    """Why it cannot be captured as it is, each with the command that fixes it."""
    covered: bool = False
    """`path` is a cover in RAM over the carrier's device."""
    others: tuple[str, ...] = ()
    """Of a btrfs on several devices, or one of these: where the others are."""


class FoundDisk(Value, frozen=True, kw_only=True):
    """What a source disk, or an array with a table, holds outside of its partitions."""

    id: NodeId
    sector_bytes: SectorBytes = 512
    boot_code: bool = False
    """The first 440 bytes hold something, and not our own stub."""
    gap_bytes: Bytes = 0
    """How much of the gap behind an MBR holds something."""


class FoundSystem(Value, frozen=True, kw_only=True):
    """The layout of the source disks as found: what `plan_capture` decides on."""

    disks: tuple[FoundDisk, ...]
    nodes: tuple[Node, ...]
    """Each after what it stands on."""
    paths: dict[NodeId, str]
    """Where each node's device is today."""
    contents: tuple[FoundContent, ...] = ()
    efi_loader: str | None = None
    """The loader on an ESP, `EFI/debian/shimx64.efi`, if there is one."""
    has_fallback_loader: bool | None = None
    """The loader that firmware finds by itself exists; None: there is no ESP."""
    unfit: tuple[str, ...] = ()
    """Why tables, arrays or groups cannot be captured."""
    notes: tuple[str, ...] = ()

    def node(self, node_id: str) -> Node:
        return next(node for node in self.nodes if node.id == node_id)


class RedactedFile(Value, frozen=True, kw_only=True):
    on: NodeId
    """What holds the filesystem with the file."""
    path: str
    size_bytes: Bytes
    runs: tuple[Run, ...]
    """Where its bytes are, in bytes of the volume. None: it is emptied on a cover."""


class Survey(Value, frozen=True, kw_only=True):
    """What the source's own files say, read without writing."""

    os: OsIdentity | None = None
    root: NodeId | None = None
    """What holds `/`."""
    mounts: tuple[MountPoint, ...] = ()
    """What its fstab mounts of these disks."""
    unmounted: dict[NodeId, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Subvolumes of btrfs that it does not mount."""
    mapped: dict[NodeId, str] = msgspec.field(default_factory=dict)
    """What its crypttab calls the LUKS containers."""
    redacted: tuple[RedactedFile, ...] = ()
    unfit: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
