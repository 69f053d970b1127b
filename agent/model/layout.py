"""The layout graph: disk → partition table → partition → … → volume.

A node names what it stands on by id. The same graph says what a source was (in a template) and what
a target is to become (in a plan).
"""

from typing import Annotated

import msgspec

from agent.model.nodes import Array, Bytes, Disk, Guid, Holder, Node, NodeId, Partition
from agent.model.wire import Value


class Ext(Value, frozen=True, kw_only=True, tag="ext", tag_field="kind"):
    """ext2, ext3 or ext4."""

    uuid: Guid
    label: str
    block_bytes: Bytes
    features: tuple[str, ...]


class Xfs(Value, frozen=True, kw_only=True, tag="xfs", tag_field="kind"):
    """XFS with its log inside and no realtime device. It is restored at its size."""

    uuid: Guid
    label: str
    block_bytes: Bytes
    features: tuple[str, ...] = ()
    """By the names of mkfs.xfs: `crc`, `reflink`; without `crc` it is of version 4."""
    sector_bytes: Bytes = 0
    """No disk with larger sectors can carry it. 0: not recorded; so below."""


class Subvolume(Value, frozen=True, kw_only=True):
    """A subvolume that the captured system mounts by its fstab."""

    path: Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f,\\]{1,255}$(?!\n)")]
    mount: str


class Btrfs(Value, frozen=True, kw_only=True, tag="btrfs", tag_field="kind"):
    """A btrfs, or the first device of one, by used blocks; subvolumes come along as they are."""

    uuid: Guid
    label: str
    block_bytes: Bytes
    """The size of its sectors."""
    features: tuple[str, ...] = ()
    subvolumes: tuple[Subvolume, ...] = ()
    unmounted: tuple[str, ...] = ()
    """Paths of the subvolumes that its fstab does not mount, at most `MOST_UNMOUNTED`."""


MOST_UNMOUNTED = 1000


class BtrfsDevice(Value, frozen=True, kw_only=True, tag="btrfs-device", tag_field="kind"):
    """A further device of the `Btrfs` with this UUID, by used blocks. Of no use without it."""

    uuid: Guid
    block_bytes: Bytes


class F2fs(Value, frozen=True, kw_only=True, tag="f2fs", tag_field="kind"):
    uuid: Guid
    label: str
    block_bytes: Bytes


class Ntfs(Value, frozen=True, kw_only=True, tag="ntfs", tag_field="kind"):
    uuid: str
    label: str
    block_bytes: Bytes
    """The size of its clusters."""
    sector_bytes: Bytes = 0


class Exfat(Value, frozen=True, kw_only=True, tag="exfat", tag_field="kind"):
    uuid: str
    label: str
    block_bytes: Bytes
    """The size of its clusters."""
    sector_bytes: Bytes = 0


class Vfat(Value, frozen=True, kw_only=True, tag="vfat", tag_field="kind"):
    uuid: str
    label: str
    bits: int = 0
    """12, 16 or 32 a cluster in its table; 0: not recorded."""
    sector_bytes: Bytes = 0


class Swap(Value, frozen=True, kw_only=True, tag="swap", tag_field="kind"):
    """Swap by header: made anew on the target, no data is kept."""

    uuid: Guid | None
    label: str
    page_bytes: Bytes


class Raw(Value, frozen=True, kw_only=True, tag="raw", tag_field="kind"):
    """Bytes that we do not interpret: kept whole, without runs of zeros."""


class BootCode(Value, frozen=True, kw_only=True, tag="boot-code", tag_field="kind"):
    """The first 440 bytes of a disk's first sector: what a BIOS jumps to. Written last."""


class MbrGap(Value, frozen=True, kw_only=True, tag="mbr-gap", tag_field="kind"):
    """What lies between an MBR and the first partition: GRUB embeds its core image there.

    It begins at the disk's second sector.
    """


Content = (
    Ext | Xfs | Btrfs | BtrfsDevice | F2fs | Ntfs | Exfat | Vfat | Swap | Raw | BootCode | MbrGap
)
BOOT_CODE_BYTES = 440


class Volume(Value, frozen=True, kw_only=True):
    """One thing that holds data. `on` is the node that carries it."""

    id: NodeId
    on: NodeId
    content: Content
    size_bytes: Bytes
    used_bytes: Bytes
    minimum_bytes: Bytes
    """The smallest size that this content can be restored to."""
    mount: str | None = None
    """Where the captured system mounts it, by its fstab: `/`, `/boot/efi`."""

    @property
    def mounts(self) -> tuple[tuple[str, str | None], ...]:
        """Where the system mounts it, and the subvolumes in it, each with its subvolume's path."""
        plain: list[tuple[str, str | None]] = [(self.mount, None)] if self.mount else []
        below = self.content.subvolumes if isinstance(self.content, Btrfs) else ()
        return (*plain, *((one.mount, one.path) for one in below))

    @property
    def mount_points(self) -> tuple[str, ...]:
        return tuple(where for where, _subvolume in self.mounts)


class Layout(Value, frozen=True, kw_only=True):
    nodes: tuple[Node, ...]
    """Each after what it stands on."""
    volumes: tuple[Volume, ...]

    def __post_init__(self) -> None:
        ids = [node.id for node in self.nodes] + [volume.id for volume in self.volumes]
        if len(ids) != len(set(ids)):
            raise ValueError("two nodes or volumes of the layout have one id")
        known: set[str] = set()
        for node in self.nodes:
            for on in node.below:
                if on not in known:
                    raise ValueError(f"{node.id} stands on {on!r}, which is not before it")
            known.add(node.id)
        for volume in self.volumes:
            if volume.on not in known:
                raise ValueError(f"the layout has no node {volume.on!r}")

    def node(self, node_id: str) -> Node:
        return next(node for node in self.nodes if node.id == node_id)

    def volume(self, volume_id: str) -> Volume:
        return next(volume for volume in self.volumes if volume.id == volume_id)

    def further(self, volume: Volume) -> tuple[Volume, ...]:
        """Return the volumes that are further devices of the btrfs whose first `volume` is."""
        if not isinstance(volume.content, Btrfs):
            return ()
        return tuple(
            other
            for other in self.volumes
            if isinstance(other.content, BtrfsDevice) and other.content.uuid == volume.content.uuid
        )

    def nodes_of(self, volume: Volume) -> tuple[NodeId, ...]:
        """Return what `volume` lies on: one node, or one for each device of a btrfs."""
        return (volume.on, *(other.on for other in self.further(volume)))

    def above(self, node_id: str) -> tuple[Node, ...]:
        """Return the nodes that stand on `node_id` itself."""
        return tuple(node for node in self.nodes if node_id in node.below)

    def carriers(self, node_id: str) -> tuple[Node, ...]:
        """Return `node_id` and all that it stands on, from the disks upwards, each once.

        One pass, whatever a hostile layout has stand on what.
        """
        needed = {node_id}
        for node in reversed(self.nodes):
            if node.id in needed:
                needed.update(node.below)
        return tuple(node for node in self.nodes if node.id in needed)

    def disks_of(self, node_id: str) -> tuple[Disk, ...]:
        """Return the disks that `node_id` ends on, in the order of the layout."""
        return tuple(node for node in self.carriers(node_id) if isinstance(node, Disk))

    @property
    def disks(self) -> tuple[Disk, ...]:
        return tuple(node for node in self.nodes if isinstance(node, Disk))

    @property
    def tabled_arrays(self) -> tuple[Array, ...]:
        """Return the arrays that are used as if they were disks."""
        return tuple(
            node
            for node in self.nodes
            if isinstance(node, Array) and (node.table or self.partitions(node.id))
        )

    def sector_bytes(self, holder: Holder) -> int:
        """Return the size of the sectors that a table on `holder` counts in."""
        return max((disk.sector_bytes for disk in self.disks_of(holder.id)), default=512)

    def partitions(self, disk_id: str) -> tuple[Partition, ...]:
        """Return the partitions of one disk or array, in the order of their places."""
        found = (n for n in self.nodes if isinstance(n, Partition) and n.on == disk_id)
        return tuple(sorted(found, key=lambda part: part.offset_bytes))
