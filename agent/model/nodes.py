"""What a layout is made of: disks, tables, partitions, md arrays, LUKS and LVM."""

from enum import StrEnum
from typing import Annotated, Final

import msgspec

from agent.model.wire import Value
from agent.units import Extent

NodeId = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,63}$(?!\n)")]
"""`disk0`, `disk0p1`, `md0`: unique in one layout."""

Guid = Annotated[
    str,
    msgspec.Meta(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$(?!\n)"),
]
PartitionType = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[1-9a-f][0-9a-f]?)$(?!\n)"
    ),
]
PartitionUuid = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[0-9a-f]{8}-(?:[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{2,4})$(?!\n)"
    ),
]
VolumeName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_+.][A-Za-z0-9_+.-]{0,126}$(?!\n)")]
"""What LVM allows as the name of a group or a logical volume."""
MD_UUID: Final = r"[0-9a-f]{8}(?::[0-9a-f]{8}){3}"
"""As mdadm writes one."""
MdUuid = Annotated[str, msgspec.Meta(pattern=rf"^{MD_UUID}$(?!\n)")]
LvmUuid = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z0-9]{6}(?:-[A-Za-z0-9]{4}){5}-[A-Za-z0-9]{6}$(?!\n)")
]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
SectorBytes = Annotated[int, msgspec.Meta(ge=512, le=65536)]

ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
BIOS_BOOT_TYPE = "21686148-6449-6e6f-744e-656564454649"
LINUX_TYPE = "0fc63daf-8483-4772-8e79-3d69d8477de4"
SWAP_TYPE = "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"
MD_TYPE = "a19d880f-05fc-4d3b-a006-743f0f84911e"
LVM_TYPE = "e6d6d379-f507-44c2-a23c-238f2a3df928"
LUKS_TYPE = "ca7d7ccb-63ed-4c53-861c-1742536059cc"
PENDING_TYPE = "6d657461-6c63-4173-9470-656e64696e67"
"""The type of every partition between step 4 and step 8 of a deployment."""


MBR_PENDING_TYPE = "7f"
"""The same for an MBR: a number that no system uses."""
MBR_EXTENDED_TYPES = frozenset({"5", "f", "85"})


class Gpt(Value, frozen=True, kw_only=True, tag="gpt", tag_field="kind"):
    """A GUID partition table. Partitions are nodes of their own."""

    uuid: Guid
    hybrid: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{128}$(?!\n)")] | None = None
    """The four entries of a hybrid MBR, 64 bytes as on the disk; None: a protective one."""


class Mbr(Value, frozen=True, kw_only=True, tag="mbr", tag_field="kind"):
    """A DOS partition table. Logical partitions lie in the extended one and begin at number 5."""

    disk_id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8}$(?!\n)")]


Table = Gpt | Mbr


class Disk(Value, frozen=True, kw_only=True, tag="disk", tag_field="kind"):
    """A whole drive, known by its role (`id`) and never by an enumeration name."""

    id: NodeId
    size_bytes: Bytes
    sector_bytes: SectorBytes
    physical_sector_bytes: SectorBytes
    table: Table | None
    """None: the disk itself carries a volume, or is a member of an array or group."""

    @property
    def below(self) -> tuple[str, ...]:
        return ()


class Partition(Value, frozen=True, kw_only=True, tag="partition", tag_field="kind"):
    """One partition; `offset_bytes` counts from the start of the disk or array that it is `on`."""

    id: NodeId
    on: NodeId
    number: Annotated[int, msgspec.Meta(ge=1, le=128)]
    offset_bytes: Bytes
    size_bytes: Annotated[int, msgspec.Meta(gt=0, le=2**63 - 1)]
    type: PartitionType
    uuid: PartitionUuid
    name: Annotated[str, msgspec.Meta(max_length=36)]
    attributes: tuple[str, ...] = ()
    """As sfdisk names them: `LegacyBIOSBootable`, `GUID:63`; of an MBR: `bootable`."""

    @property
    def extent(self) -> Extent:
        return Extent(self.offset_bytes, self.size_bytes)

    @property
    def below(self) -> tuple[str, ...]:
        return (self.on,)

    @property
    def is_extended(self) -> bool:
        """It holds no data of its own, but the logical partitions of an MBR."""
        return self.type in MBR_EXTENDED_TYPES


class MdLevel(StrEnum):
    LINEAR = "linear"
    RAID0 = "raid0"
    RAID1 = "raid1"
    RAID4 = "raid4"
    RAID5 = "raid5"
    RAID6 = "raid6"
    RAID10 = "raid10"


class MdMetadata(StrEnum):
    """Where md keeps its superblock: 0.90 and 1.0 at the end of a member, the others in front."""

    V0_90 = "0.90"
    V1_0 = "1.0"
    V1_1 = "1.1"
    V1_2 = "1.2"
    IMSM = "imsm"


class Array(Value, frozen=True, kw_only=True, tag="md", tag_field="kind"):
    """A Linux software RAID."""

    id: NodeId
    members: Annotated[tuple[NodeId | None, ...], msgspec.Meta(min_length=1, max_length=128)]
    """By slot. None: the source was degraded, nothing was there."""
    spares: tuple[NodeId, ...] = ()
    level: MdLevel
    metadata: MdMetadata
    chunk_bytes: Bytes = 0
    """0: the level has none."""
    layout: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9=-]{0,32}$(?!\n)")] = ""
    """As mdadm names it: `left-symmetric`, `near=2`; empty: the level has none."""
    uuid: MdUuid
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.:+-]{0,32}$(?!\n)")] = ""
    bitmap: bool = False
    size_bytes: Bytes
    table: Table | None = None
    """A partition table inside it: the array is used as if it were a disk."""

    @property
    def words(self) -> str:
        """What it is called before a person: `raid1`, `Intel's raid1`."""
        return f"Intel's {self.level}" if self.metadata is MdMetadata.IMSM else self.level

    @property
    def below(self) -> tuple[str, ...]:
        return (*(member for member in self.members if member), *self.spares)


Holder = Disk | Array
"""What a partition table can be on."""


class LuksKdf(StrEnum):
    """What makes a key of a passphrase. LUKS1 and GRUB know only the first."""

    PBKDF2 = "pbkdf2"
    ARGON2I = "argon2i"
    ARGON2ID = "argon2id"


class Luks(Value, frozen=True, kw_only=True, tag="luks", tag_field="kind"):
    """An encrypted container. Its master key is made anew on every target."""

    id: NodeId
    on: NodeId
    version: Annotated[int, msgspec.Meta(ge=1, le=2)]
    uuid: Guid
    label: Annotated[str, msgspec.Meta(max_length=47)] = ""
    cipher: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9:_-]{1,64}$(?!\n)")]
    """As cryptsetup names it: `aes-xts-plain64`."""
    key_bytes: Annotated[int, msgspec.Meta(ge=8, le=512)]
    sector_bytes: SectorBytes = 512
    name: VolumeName | None = None
    """What the captured system's crypttab calls it."""
    tokens: tuple[Annotated[str, msgspec.Meta(max_length=64)], ...] = ()
    """The kinds of token that the source's header had: `systemd-tpm2`, `clevis`."""
    kdf: LuksKdf = LuksKdf.ARGON2ID
    offset_bytes: Bytes = 0
    """Where its data begin, counted from the start of what it is `on`; 0: as our own have it."""
    size_bytes: Bytes
    """What is inside."""

    @property
    def below(self) -> tuple[str, ...]:
        return (self.on,)


class PhysicalVolume(Value, frozen=True, kw_only=True):
    """One member of a volume group."""

    on: NodeId
    uuid: LvmUuid
    size_bytes: Bytes
    """Its extents, metadata not counted."""


class VolumeGroup(Value, frozen=True, kw_only=True, tag="vg", tag_field="kind"):
    id: NodeId
    physical: Annotated[tuple[PhysicalVolume, ...], msgspec.Meta(min_length=1)]
    name: VolumeName
    uuid: LvmUuid
    extent_bytes: Annotated[int, msgspec.Meta(ge=1024)]

    @property
    def below(self) -> tuple[str, ...]:
        return tuple(one.on for one in self.physical)


class LvKind(StrEnum):
    """The segment types of LVM that a template can hold."""

    LINEAR = "linear"
    STRIPED = "striped"
    MIRROR = "mirror"
    RAID0 = "raid0"
    RAID1 = "raid1"
    RAID5 = "raid5"
    RAID6 = "raid6"
    RAID10 = "raid10"
    THIN_POOL = "thin-pool"
    THIN = "thin"


class LogicalVolume(Value, frozen=True, kw_only=True, tag="lv", tag_field="kind"):
    id: NodeId
    on: NodeId
    """Its volume group."""
    name: VolumeName
    uuid: LvmUuid
    lv: LvKind
    size_bytes: Bytes
    """Whole extents; of a thin volume, what it shows."""
    stripes: Annotated[int, msgspec.Meta(ge=1, le=128)] = 1
    """Data stripes, parity and mirror legs not counted."""
    stripe_bytes: Bytes = 0
    mirrors: Annotated[int, msgspec.Meta(ge=0, le=8)] = 0
    """Copies beside the first."""
    region_bytes: Bytes = 0
    pool: NodeId | None = None
    """Of a thin volume, the thin pool."""
    chunk_bytes: Bytes = 0
    """Of a thin pool."""
    metadata_bytes: Bytes = 0
    """Of a thin pool."""

    @property
    def below(self) -> tuple[str, ...]:
        return (self.on, self.pool) if self.pool else (self.on,)


Node = Disk | Partition | Array | Luks | VolumeGroup | LogicalVolume


def mapped_name(group: str, volume: str) -> str:
    """Return what device-mapper calls a logical volume: hyphens of the names are doubled."""
    return f"{group.replace('-', '--')}-{volume.replace('-', '--')}"
