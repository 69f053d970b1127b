"""The storage that a deployment asks for, where it is not the template's own.

The vocabulary is curtin's storage configuration, version 1 (curtin's documentation, "Storage"):
a flat list of actions that name each other by id. Sizes are bytes or text: `20GiB`, `50%` of what
it stands on, or `rest`.
"""

from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from agent.model.nodes import NodeId, VolumeName
from agent.model.wire import Value

Size = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(?:rest|[0-9]{1,3}%|[0-9]{1,15}(?:\.[0-9]{1,3})?[KMGTP]?(?:i?B)?)$(?!\n)"
    ),
]
REST = "rest"


class PartitionTable(StrEnum):
    GPT = "gpt"
    MSDOS = "msdos"


class PartitionFlag(StrEnum):
    """What a partition is for, beside what is formatted on it."""

    BOOT = "boot"
    """The EFI system partition."""
    BIOS_GRUB = "bios_grub"


class Filesystem(StrEnum):
    EXT4 = "ext4"
    XFS = "xfs"
    BTRFS = "btrfs"
    VFAT = "vfat"
    SWAP = "swap"
    KEEP = "keep"
    """The kind that the template has there."""


class DiskAction(Value, frozen=True, kw_only=True, tag="disk", tag_field="type"):
    """A disk of the target: `id` is the role that the job's disk hints name."""

    id: NodeId
    ptable: PartitionTable | None = PartitionTable.GPT
    """None: the disk is used whole."""


class PartitionAction(Value, frozen=True, kw_only=True, tag="partition", tag_field="type"):
    id: NodeId
    device: NodeId
    size: Size = REST
    minimum: Size | None = None
    flag: PartitionFlag | None = None


class RaidAction(Value, frozen=True, kw_only=True, tag="raid", tag_field="type"):
    id: NodeId
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.:+-]{1,32}$(?!\n)")]
    raidlevel: Literal["0", "1", "4", "5", "6", "10", "linear"]
    devices: Annotated[tuple[NodeId, ...], msgspec.Meta(min_length=1)]
    spare_devices: tuple[NodeId, ...] = ()
    metadata: Literal["0.90", "1.0", "1.1", "1.2"] = "1.2"


class CryptAction(Value, frozen=True, kw_only=True, tag="dm_crypt", tag_field="type"):
    """LUKS2; the key is one of the job's `keys`."""

    id: NodeId
    volume: NodeId
    dm_name: VolumeName


class GroupAction(Value, frozen=True, kw_only=True, tag="lvm_volgroup", tag_field="type"):
    id: NodeId
    name: VolumeName
    devices: Annotated[tuple[NodeId, ...], msgspec.Meta(min_length=1)]


class LogicalAction(Value, frozen=True, kw_only=True, tag="lvm_partition", tag_field="type"):
    id: NodeId
    volgroup: NodeId
    name: VolumeName
    size: Size = REST
    minimum: Size | None = None


class FormatAction(Value, frozen=True, kw_only=True, tag="format", tag_field="type"):
    id: NodeId
    volume: NodeId
    fstype: Filesystem = Filesystem.KEEP
    label: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{0,12}$(?!\n)")] = ""


class MountAction(Value, frozen=True, kw_only=True, tag="mount", tag_field="type"):
    id: NodeId
    device: NodeId
    """The id of a format action."""
    path: Annotated[str, msgspec.Meta(pattern=r"^/[ -~]{0,255}$(?!\n)")]


Action = (
    DiskAction
    | PartitionAction
    | RaidAction
    | CryptAction
    | GroupAction
    | LogicalAction
    | FormatAction
    | MountAction
)


class Storage(Value, frozen=True, kw_only=True):
    """All of a target's storage. Each action comes after those that it names."""

    version: Literal[1] = 1
    config: Annotated[tuple[Action, ...], msgspec.Meta(min_length=1, max_length=512)]


class Shape(StrEnum):
    """A layout by its name."""

    SAME = "same"
    """The template's own."""
    AUTO = "auto"
    """The template's own where it fits, else the nearest that does."""
    SINGLE = "single"
    """One disk, plain partitions."""
    LVM = "lvm"
    LUKS = "luks"
    RAID0 = "raid0"
    RAID1 = "raid1"
    RAID5 = "raid5"
    RAID6 = "raid6"
    RAID10 = "raid10"


WantedLayout = Shape | Storage
