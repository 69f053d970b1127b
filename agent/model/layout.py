"""The layout graph: disk → partition table → partition → … → volume.

A node names what it stands `on` by id, so md arrays, LUKS, physical volumes, groups and logical
volumes become further kinds of node without changing those that exist.
"""

from typing import Annotated

import msgspec

from agent.model.wire import Value
from agent.units import Extent

NodeId = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,63}$(?!\n)")]
"""`disk0`, `disk0p1`, `md0`: unique in one layout."""

Guid = Annotated[
    str,
    msgspec.Meta(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$(?!\n)"),
]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
SectorBytes = Annotated[int, msgspec.Meta(ge=512, le=65536)]

ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
BIOS_BOOT_TYPE = "21686148-6449-6e6f-744e-656564454649"
LINUX_TYPE = "0fc63daf-8483-4772-8e79-3d69d8477de4"
SWAP_TYPE = "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"
PENDING_TYPE = "6d657461-6c63-4173-9470-656e64696e67"
"""The type of every partition between step 4 and step 8 of a deployment."""


class Gpt(Value, frozen=True, kw_only=True, tag="gpt", tag_field="kind"):
    """A GUID partition table. Partitions are nodes of their own."""

    uuid: Guid


Table = Gpt


class Disk(Value, frozen=True, kw_only=True, tag="disk", tag_field="kind"):
    """A whole drive, known by its role (`id`) and never by an enumeration name."""

    id: NodeId
    size_bytes: Bytes
    sector_bytes: SectorBytes
    physical_sector_bytes: SectorBytes
    table: Gpt | None


class Partition(Value, frozen=True, kw_only=True, tag="partition", tag_field="kind"):
    """One partition; `offset_bytes` counts from the start of the disk that it is `on`."""

    id: NodeId
    on: NodeId
    number: Annotated[int, msgspec.Meta(ge=1, le=128)]
    offset_bytes: Bytes
    size_bytes: Annotated[int, msgspec.Meta(gt=0, le=2**63 - 1)]
    type: Guid
    uuid: Guid
    name: Annotated[str, msgspec.Meta(max_length=36)]
    attributes: tuple[str, ...] = ()
    """As sfdisk names them: `LegacyBIOSBootable`, `RequiredPartition`, `GUID:63`."""

    @property
    def extent(self) -> Extent:
        return Extent(self.offset_bytes, self.size_bytes)


Node = Disk | Partition


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


class Vfat(Value, frozen=True, kw_only=True, tag="vfat", tag_field="kind"):
    uuid: str
    label: str


class Swap(Value, frozen=True, kw_only=True, tag="swap", tag_field="kind"):
    """Swap by header: made anew on the target, no data is kept."""

    uuid: Guid | None
    label: str
    page_bytes: Bytes


class Raw(Value, frozen=True, kw_only=True, tag="raw", tag_field="kind"):
    """Bytes that we do not interpret: kept whole, without runs of zeros."""


class BootCode(Value, frozen=True, kw_only=True, tag="boot-code", tag_field="kind"):
    """The first 440 bytes of a disk's first sector: what a BIOS jumps to. Written last."""


Content = Ext | Xfs | Vfat | Swap | Raw | BootCode
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


class Layout(Value, frozen=True, kw_only=True):
    nodes: tuple[Node, ...]
    volumes: tuple[Volume, ...]

    def __post_init__(self) -> None:
        ids = [node.id for node in self.nodes] + [volume.id for volume in self.volumes]
        if len(ids) != len(set(ids)):
            raise ValueError("two nodes or volumes of the layout have one id")
        known = {node.id for node in self.nodes}
        stands = [n.on for n in self.nodes if isinstance(n, Partition)]
        stands += [v.on for v in self.volumes]
        for on in stands:
            if on not in known:
                raise ValueError(f"the layout has no node {on!r}")

    def node(self, node_id: str) -> Node:
        return next(node for node in self.nodes if node.id == node_id)

    def volume(self, volume_id: str) -> Volume:
        return next(volume for volume in self.volumes if volume.id == volume_id)

    @property
    def disks(self) -> tuple[Disk, ...]:
        return tuple(node for node in self.nodes if isinstance(node, Disk))

    def partitions(self, disk_id: str) -> tuple[Partition, ...]:
        """Return the partitions of one disk, in disk order."""
        found = (n for n in self.nodes if isinstance(n, Partition) and n.on == disk_id)
        return tuple(sorted(found, key=lambda part: part.offset_bytes))
