"""RAID that a controller makes: what a job asks of it, and what its tool says that it has."""

from enum import StrEnum
from typing import Annotated

import msgspec

from agent.model.nodes import NodeId
from agent.model.wire import Value

DriveAddress = Annotated[str, msgspec.Meta(pattern=r"^(?:\d{1,5}:)?\d{1,3}$(?!\n)")]
"""`252:0`: enclosure and slot, as the controller counts them; `4` if there is no enclosure."""
VolumeLabel = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,15}$(?!\n)")]
ControllerNumber = Annotated[int, msgspec.Meta(ge=0, le=255)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class RaidLevel(StrEnum):
    RAID0 = "raid0"
    RAID1 = "raid1"
    RAID5 = "raid5"
    RAID6 = "raid6"
    RAID10 = "raid10"


class WriteCache(StrEnum):
    WRITE_THROUGH = "wt"
    WRITE_BACK = "wb"
    """Write-back while the controller's battery is good."""
    ALWAYS_WRITE_BACK = "awb"


class ReadAhead(StrEnum):
    ON = "ra"
    OFF = "nora"


class Initialization(StrEnum):
    """What a new volume is filled with before it is used."""

    FAST = "fast"
    """Zeros at both ends, which takes seconds: no old signature is left there."""
    FULL = "full"
    """Zeros everywhere, which takes hours."""


class VolumeWish(Value, frozen=True, kw_only=True):
    """A volume that a controller is to make: of the drives named, or of `count` that are free."""

    name: VolumeLabel
    level: RaidLevel
    drives: tuple[DriveAddress, ...] = ()
    count: Annotated[int, msgspec.Meta(ge=1, le=64)] | None = None
    drive_size: Annotated[str, msgspec.Meta(pattern=r"^[ -~]{1,64}$(?!\n)")] | None = None
    """With `count`: the size of each, as in a disk hint: `>=400GB`."""
    strip_kib: int | None = None
    """None: as the controller likes."""
    write_cache: WriteCache | None = None
    read_ahead: ReadAhead | None = None
    role: NodeId | None = None
    """The disk of the template's layout that this volume becomes."""

    def __post_init__(self) -> None:
        if bool(self.drives) == (self.count is not None):
            raise ValueError(f"volume {self.name!r}: say `drives` or `count`, one of them")
        if self.drive_size and self.drives:
            raise ValueError(f"volume {self.name!r}: `drive_size` goes with `count`")
        if len(set(self.drives)) < len(self.drives):
            raise ValueError(f"volume {self.name!r}: a drive is named twice")
        if self.strip_kib is not None and self.strip_kib not in STRIPS_KIB:
            raise ValueError(f"volume {self.name!r}: strip_kib is one of {STRIPS_KIB}")


STRIPS_KIB = (8, 16, 32, 64, 128, 256, 512, 1024)


class HardwareRaid(Value, frozen=True, kw_only=True):
    """What a job wants of a RAID controller before disks are chosen."""

    volumes: Annotated[tuple[VolumeWish, ...], msgspec.Meta(min_length=1, max_length=64)]
    controller: ControllerNumber | None = None
    """As the tool counts them. None: there must be just one."""
    replace: bool = False
    """Delete the volumes that hold a drive named here; otherwise they are an objection."""
    initialize: Initialization = Initialization.FAST

    def __post_init__(self) -> None:
        names = [volume.name for volume in self.volumes]
        roles = [volume.role for volume in self.volumes if volume.role]
        drives = [drive for volume in self.volumes for drive in volume.drives]
        for what, given in (("name", names), ("role", roles), ("drive", drives)):
            if twice := sorted({one for one in given if given.count(one) > 1}):
                raise ValueError(f"the {what} {twice[0]!r} is given to two volumes")


class PhysicalDrive(Value, frozen=True, kw_only=True):
    """A drive behind a controller. The system does not see it unless it is in mode JBOD."""

    address: DriveAddress
    state: str
    """In the controller's own words: `UGood`, `Onln`, `JBOD`, `UBad`, `DHS`, …"""
    group: str | None
    """The drive group that it is a member of; `F` is a foreign one, made by another controller."""
    size_bytes: Bytes
    interface: str
    medium: str
    """`SSD` or `HDD`."""
    model: str
    sector_bytes: int = 512


class VirtualDrive(Value, frozen=True, kw_only=True):
    """A volume that a controller shows to the system as a disk."""

    number: Annotated[int, msgspec.Meta(ge=0, le=65535)]
    level: str
    state: str
    """`Optl`, `Dgrd`, `Pdgd`, `OfLn`, …"""
    size_bytes: Bytes
    name: str
    drives: tuple[str, ...]
    wwn: str | None
    """`0x` and hexadecimal digits: what the system's disk has as its WWN."""
    strip_bytes: Bytes | None = None
    operation: str | None = None
    """What the controller is doing with it now."""


class RaidCard(Value, frozen=True, kw_only=True):
    """A controller as its tool shows it."""

    number: ControllerNumber
    model: str
    serial: str | None = None
    firmware: str | None = None
    address: str | None = None
    """PCI, as Linux writes it: `0000:65:00.0`."""
    drives: tuple[PhysicalDrive, ...] = ()
    volumes: tuple[VirtualDrive, ...] = ()


class NewVolume(Value, frozen=True, kw_only=True):
    """A volume to be made, every drive chosen."""

    name: VolumeLabel
    level: RaidLevel
    drives: tuple[DriveAddress, ...]
    strip_kib: int | None = None
    write_cache: WriteCache | None = None
    read_ahead: ReadAhead | None = None
    role: NodeId | None = None


class HardwareRaidPlan(Value, frozen=True, kw_only=True):
    """What is going to be done on one controller, in this order: delete, then create."""

    controller: ControllerNumber
    delete: tuple[VirtualDrive, ...]
    create: tuple[NewVolume, ...]
    keep: tuple[VirtualDrive, ...]
    """Volumes that are already as the job wants them; nothing on them is touched."""
    roles: tuple[tuple[NodeId, str], ...] = ()
    """Disks of the layout, each with the name of the volume that becomes it."""
    initialize: Initialization = Initialization.FAST
