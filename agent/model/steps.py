"""The steps of a deployment, as values. Each names what it works on by its node in the layout."""

from typing import Annotated, Any

import msgspec

from agent.model.job import Identity, Verify
from agent.model.layout import Content, Layout
from agent.model.nodes import (
    Array,
    Bytes,
    Guid,
    LogicalVolume,
    Luks,
    NodeId,
    VolumeGroup,
)
from agent.model.table import PlannedTable
from agent.model.template import NetworkStack
from agent.model.wire import Value
from agent.units import format_bytes

Run = tuple[Bytes, Bytes]
"""(offset, size) in bytes: an `Extent` as it crosses a file."""


class Place(Value, frozen=True, kw_only=True):
    """Where a volume lies: `offset_bytes` into the device of `node`.

    A volume on a partition has its disk as `node`, so that it is written through one device only.
    """

    node: NodeId
    offset_bytes: Bytes = 0


class EraseSignatures(Value, frozen=True, kw_only=True, tag="erase", tag_field="kind"):
    """Old signatures go: both ends of the disk, of its old partitions and of `runs`."""

    disk: NodeId
    runs: tuple[Run, ...]
    destructive = True

    def summary(self) -> str:
        return f"erase old signatures at both ends of {self.disk} and of each partition"


class WritePendingTable(Value, frozen=True, kw_only=True, tag="pending-table", tag_field="kind"):
    """Every partition at its final place, of a type that nothing boots or mounts."""

    disk: NodeId
    table: PlannedTable
    destructive = True

    def summary(self) -> str:
        count = len(self.table.partitions)
        return f"write a pending table with {count} partitions on {self.disk}"


class MakeArray(Value, frozen=True, kw_only=True, tag="make-md", tag_field="kind"):
    array: Array
    destructive = True

    def summary(self) -> str:
        members = ", ".join(member or "missing" for member in self.array.members)
        return f"make the {self.array.words} {self.array.id} of {members}"


class MakeLuks(Value, frozen=True, kw_only=True, tag="make-luks", tag_field="kind"):
    luks: Luks
    destructive = True

    def summary(self) -> str:
        return f"encrypt {self.luks.on} as {self.luks.id} (LUKS{self.luks.version}, a new key)"


class MakeGroup(Value, frozen=True, kw_only=True, tag="make-vg", tag_field="kind"):
    group: VolumeGroup
    destructive = True

    def summary(self) -> str:
        return f"make the volume group {self.group.name} on {', '.join(self.group.below)}"


class MakeLogical(Value, frozen=True, kw_only=True, tag="make-lv", tag_field="kind"):
    group: VolumeGroup
    lv: LogicalVolume
    pool: LogicalVolume | None = None
    destructive = True

    def summary(self) -> str:
        size = format_bytes(self.lv.size_bytes)
        return f"make the {self.lv.lv} volume {self.group.name}/{self.lv.name} ({size})"


class RestoreVolume(Value, frozen=True, kw_only=True, tag="restore", tag_field="kind"):
    """The volume's used bytes, to `place`; not those in `withhold`.

    `withhold` is in bytes of the volume: what would make it bootable is written at the commit.
    """

    volume: NodeId
    place: Place
    size_bytes: Bytes
    used_bytes: Bytes
    what: str
    withhold: tuple[Run, ...] = ()
    destructive = True

    def summary(self) -> str:
        return f"restore {self.what} ({format_bytes(self.used_bytes)})"


class MakeSwap(Value, frozen=True, kw_only=True, tag="swap", tag_field="kind"):
    node: NodeId
    uuid: Guid | None
    label: str
    page_bytes: Bytes
    size_bytes: Bytes
    destructive = True

    def summary(self) -> str:
        return f"make swap on {self.node} ({format_bytes(self.size_bytes)})"


class VerifyVolume(Value, frozen=True, kw_only=True, tag="verify", tag_field="kind"):
    """Read back from the medium and compare with the template's digests."""

    volume: NodeId
    place: Place
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
    """The filesystem on `node` takes all of it."""

    node: NodeId
    content: Content
    what: str
    from_bytes: Bytes
    to_bytes: Bytes
    """At least: what lies below may give a little more."""
    further: tuple[NodeId, ...] = ()
    """What the further devices of a btrfs are on."""
    destructive = True

    def summary(self) -> str:
        return (
            f"grow {self.what} from {format_bytes(self.from_bytes)} to "
            f"{format_bytes(self.to_bytes)}"
        )


class MountPoint(Value, frozen=True, kw_only=True):
    node: NodeId
    where: str
    subvolume: str | None = None
    """Which one, of a btrfs; None: the default one."""


class MakeFilesystem(Value, frozen=True, kw_only=True, tag="mkfs", tag_field="kind"):
    """A new, empty filesystem with features that the captured system can read."""

    node: NodeId
    content: Content
    size_bytes: Bytes
    what: str
    destructive = True

    def summary(self) -> str:
        kind = type(self.content).__name__.lower()
        return f"make {kind} for {self.what} on {self.node} ({format_bytes(self.size_bytes)})"


class CopiedVolume(Value, frozen=True, kw_only=True):
    """A volume of the template, and where the captured system mounts it or a subvolume of it."""

    volume: NodeId
    content: Content
    where: str
    subvolume: str | None = None
    used_bytes: Bytes
    what: str
    further: tuple[NodeId, ...] = ()
    """The volumes that are further devices of a btrfs."""


class CopyFiles(Value, frozen=True, kw_only=True, tag="copy", tag_field="kind"):
    """All files of the system, with every attribute, from read-only views of the template."""

    copied: tuple[CopiedVolume, ...]
    """`/` first."""
    mounts: tuple[MountPoint, ...]
    """Of the target, `/` first."""
    destructive = True

    def summary(self) -> str:
        size = format_bytes(sum(one.used_bytes for one in self.copied))
        return f"copy the files of {', '.join(one.what for one in self.copied)} ({size})"


class VerifyFiles(Value, frozen=True, kw_only=True, tag="verify-files", tag_field="kind"):
    """Read copied files back from the medium and compare them with the template's."""

    copied: tuple[CopiedVolume, ...]
    mounts: tuple[MountPoint, ...]
    mode: Verify
    destructive = False

    def summary(self) -> str:
        how = "all" if self.mode is Verify.FULL else "a sample"
        return f"read back {how} of the files of {', '.join(one.what for one in self.copied)}"


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


class RenewBoot(Value, frozen=True, kw_only=True, tag="renew-boot", tag_field="kind"):
    """fstab, crypttab, mdadm.conf, initramfs and bootloader follow the new layout.

    The system's own programs run in a sandbox. Boot code is taken away again until the commit.
    """

    mounts: tuple[MountPoint, ...]
    """`/` first; the ESP among them."""
    boot_disks: tuple[NodeId, ...]
    was: Layout
    """The template's, which the system's files still speak of."""
    bootloader_id: str = "linux"
    """The folder of its loader below EFI."""
    destructive = True

    def summary(self) -> str:
        return f"make the system boot from its new layout ({', '.join(self.boot_disks)})"


class Checked(Value, frozen=True, kw_only=True):
    node: NodeId
    content: Content


class CheckFilesystems(Value, frozen=True, kw_only=True, tag="check", tag_field="kind"):
    """fsck of every filesystem, read-only: the last look before the commit."""

    checked: tuple[Checked, ...]
    destructive = False

    def summary(self) -> str:
        return f"check the filesystems ({len(self.checked)})"


class EfiEntry(Value, frozen=True, kw_only=True, tag="efi-entry", tag_field="kind"):
    """A boot entry in the firmware. Made before the commit: it points at what is not there yet."""

    volume: NodeId
    partition: NodeId
    label: str
    destructive = False

    def summary(self) -> str:
        return f"add the firmware's boot entry {self.label!r} for {self.partition}"


class CloseDevices(Value, frozen=True, kw_only=True, tag="close", tag_field="kind"):
    """Groups, LUKS and arrays are stopped, so that all that they hold is on the disks."""

    nodes: tuple[NodeId, ...]
    """The highest first."""
    destructive = False

    def summary(self) -> str:
        return f"stop {', '.join(self.nodes)}"


class WithheldHead(Value, frozen=True, kw_only=True):
    volume: NodeId
    offset_bytes: Bytes
    """Where the volume begins on the disk."""


class CommittedDisk(Value, frozen=True, kw_only=True):
    """What is written last on a disk, or on an array that is used as if it were one."""

    disk: NodeId
    table: PlannedTable | None
    heads: tuple[WithheldHead, ...] = ()
    boot_code: NodeId | None = None
    """The volume with the boot code; without one the sector keeps none."""
    renewed: bool = False
    """Boot code and heads are those that the system's own programs made (`RenewBoot`)."""


class Commit(Value, frozen=True, kw_only=True, tag="commit", tag_field="kind"):
    """Final tables, then the withheld heads, the boot code last. After this the disks boot."""

    disks: Annotated[tuple[CommittedDisk, ...], msgspec.Meta(min_length=1)]
    destructive = True

    def summary(self) -> str:
        return "commit: final table, then what makes it boot"


DeployStep = (
    EraseSignatures
    | WritePendingTable
    | MakeArray
    | MakeLuks
    | MakeGroup
    | MakeLogical
    | RestoreVolume
    | MakeSwap
    | VerifyVolume
    | GrowVolume
    | MakeFilesystem
    | CopyFiles
    | VerifyFiles
    | ConfigureSystem
    | RenewBoot
    | CheckFilesystems
    | EfiEntry
    | CloseDevices
    | Commit
)
