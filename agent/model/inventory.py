"""What a machine is, as far as its agent can see."""

from enum import StrEnum

from agent.model.wire import Value


class SecureBoot(StrEnum):
    ON = "on"
    OFF = "off"
    SETUP = "setup"
    UNSUPPORTED = "unsupported"


class Transport(StrEnum):
    SATA = "sata"
    SAS = "sas"
    SCSI = "scsi"
    NVME = "nvme"
    VIRTIO = "virtio"
    USB = "usb"
    IDE = "ide"
    MMC = "mmc"
    RAID = "raid"
    ISCSI = "iscsi"
    FC = "fc"
    UNKNOWN = "unknown"


class Found(Value, frozen=True, kw_only=True):
    """Something that a disk or partition holds, by its signature."""

    path: str
    what: str
    """libblkid's name: `ext4`, `LVM2_member`, `linux_raid_member`, `gpt`, `dos`."""
    usage: str
    """`filesystem`, `raid`, `crypto`, `other`, `table`."""
    label: str | None = None
    uuid: str | None = None


class Drive(Value, frozen=True, kw_only=True):
    """One whole disk. Known by `wwn` or `serial`; `path` is only where it is found today."""

    path: str
    size_bytes: int
    sector_bytes: int
    physical_sector_bytes: int
    model: str | None = None
    vendor: str | None = None
    serial: str | None = None
    wwn: str | None = None
    hctl: str | None = None
    by_path: str | None = None
    transport: Transport = Transport.UNKNOWN
    rotational: bool = False
    removable: bool = False
    read_only: bool = False
    virtual_media: bool = False
    users: tuple[str, ...] = ()
    """What keeps the disk busy now: mount points, md arrays, swap, holders."""
    contents: tuple[Found, ...] = ()
    paths: tuple[str, ...] = ()
    """Every path to the disk, `path` among them, if there are several (multipath)."""

    @property
    def identity(self) -> str:
        """The most lasting name that the disk has, for messages."""
        return self.wwn or self.serial or self.by_path or self.path


class RaidController(Value, frozen=True, kw_only=True):
    """A PCI storage controller of the RAID class, or one that runs a RAID driver."""

    address: str
    vendor_device: str
    driver: str | None
    name: str | None = None


class MdArray(Value, frozen=True, kw_only=True):
    path: str
    level: str
    metadata: str
    uuid: str | None
    state: str
    members: tuple[str, ...]


class LldpNeighbour(Value, frozen=True, kw_only=True):
    chassis: str
    port: str
    system: str | None = None


class Nic(Value, frozen=True, kw_only=True):
    name: str
    mac: str
    """Lower case, colons."""
    driver: str | None
    link: bool
    speed_mbps: int | None = None
    address: str | None = None
    """PCI or other bus address."""
    addresses: tuple[str, ...] = ()
    """Now configured, CIDR."""
    boot: bool = False
    """The interface that the machine was booted from (BOOTIF=)."""
    lldp: LldpNeighbour | None = None


class Board(Value, frozen=True, kw_only=True):
    """SMBIOS. Serials and UUID name the machine; they prove nothing."""

    vendor: str | None = None
    product: str | None = None
    serial: str | None = None
    uuid: str | None = None
    board_vendor: str | None = None
    board_product: str | None = None
    bios_vendor: str | None = None
    bios_version: str | None = None


class Inventory(Value, frozen=True, kw_only=True):
    firmware: str
    """`bios` or `uefi`."""
    secure_boot: SecureBoot
    arch: str
    kernel: str
    board: Board
    cpu_model: str
    cpus: int
    memory_bytes: int
    disks: tuple[Drive, ...]
    raid_controllers: tuple[RaidController, ...] = ()
    imsm: bool = False
    """The firmware knows Intel's RAID (RST, VROC), and may boot from a volume of it."""
    md_arrays: tuple[MdArray, ...] = ()
    nics: tuple[Nic, ...] = ()
