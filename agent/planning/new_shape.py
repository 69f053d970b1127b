"""A layout made from the storage that a job asks for. Pure.

Sizes are decided here and are what the lower layer surely gives; what it gives beyond is used when
the filesystem is made. Names that must be new (UUIDs) follow from the job, so that one job has one
plan.
"""

import uuid as uuids
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from agent.errors import PlanRefused
from agent.model.inventory import Drive
from agent.model.layout import (
    Layout,
)
from agent.model.luks import payload_bytes
from agent.model.lvm_size import physical_bytes
from agent.model.md_size import usable_bytes
from agent.model.nodes import (
    BIOS_BOOT_TYPE,
    ESP_TYPE,
    LINUX_TYPE,
    LUKS_TYPE,
    LVM_TYPE,
    MD_TYPE,
    SWAP_TYPE,
    Array,
    Disk,
    Gpt,
    LogicalVolume,
    Luks,
    LvKind,
    Mbr,
    MdLevel,
    MdMetadata,
    Node,
    Partition,
    PhysicalVolume,
    VolumeGroup,
)
from agent.model.storage import (
    REST,
    CryptAction,
    DiskAction,
    Filesystem,
    FormatAction,
    GroupAction,
    LogicalAction,
    MountAction,
    PartitionAction,
    PartitionFlag,
    PartitionTable,
    RaidAction,
    Storage,
)
from agent.model.template import TemplateConfig
from agent.planning.free_space import ALIGNMENT
from agent.planning.new_volume import new_volume
from agent.planning.tables import Room
from agent.units import KiB, MiB, align_down, align_up, parse_bytes

_MBR_TYPES: Final = {
    ESP_TYPE: "ef",
    SWAP_TYPE: "82",
    MD_TYPE: "fd",
    LVM_TYPE: "8e",
}
EXTENT_BYTES: Final = 4 * MiB
_PAGE: Final = 4096
_LEVELS: Final = {
    "0": MdLevel.RAID0,
    "1": MdLevel.RAID1,
    "4": MdLevel.RAID4,
    "5": MdLevel.RAID5,
    "6": MdLevel.RAID6,
    "10": MdLevel.RAID10,
    "linear": MdLevel.LINEAR,
}
_MD_LAYOUTS: Final = {
    MdLevel.RAID5: "left-symmetric",
    MdLevel.RAID6: "left-symmetric",
    MdLevel.RAID10: "near=2",
}


@dataclass(slots=True)
class _Making:
    """The layout as far as it is decided."""

    job: str
    drives: Mapping[str, Drive]
    nodes: dict[str, Node] = field(default_factory=dict)
    free: dict[str, int] = field(default_factory=dict)
    """Bytes that a disk or group has left."""
    place: dict[str, int] = field(default_factory=dict)
    """Where the next partition of a disk begins."""
    wrong: list[str] = field(default_factory=list)

    def guid(self, of: str) -> str:
        return str(uuids.uuid5(uuids.NAMESPACE_OID, f"{self.job}:{of}"))

    def lvm_uuid(self, of: str) -> str:
        digits = uuids.uuid5(uuids.NAMESPACE_OID, f"{self.job}:{of}").hex
        return (
            "-".join(
                (
                    digits[:6],
                    digits[6:10],
                    digits[10:14],
                    digits[14:18],
                    digits[18:22],
                    digits[22:26],
                )
            )
            + "-"
            + digits[26:32]
        )

    def md_uuid(self, of: str) -> str:
        digits = uuids.uuid5(uuids.NAMESPACE_OID, f"{self.job}:{of}").hex
        return ":".join(digits[at : at + 8] for at in range(0, 32, 8))


def new_shape(
    storage: Storage, template: TemplateConfig, drives: Mapping[str, Drive], job: str
) -> Layout:
    """Return the layout that `storage` asks for on `drives`, for the files of `template`.

    Raises PlanRefused with every reason why it cannot be made.
    """
    making = _Making(job, drives)
    formats = {action.id: action for action in storage.config if isinstance(action, FormatAction)}
    mounts = {
        action.device: action.path for action in storage.config if isinstance(action, MountAction)
    }
    for action in _rest_last(storage):
        match action:
            case DiskAction():
                _disk(making, action)
            case PartitionAction():
                _partition(making, action, _type_of(storage, action))
            case RaidAction():
                _array(making, action)
            case CryptAction():
                _crypt(making, action)
            case GroupAction():
                _group(making, action)
            case LogicalAction():
                _logical(making, action)
            case _:
                pass
    volumes = []
    for action in formats.values():
        if action.volume not in making.nodes:
            making.wrong.append(f"{action.id} formats {action.volume!r}, which is not there")
            continue
        node = making.nodes[action.volume]
        fresh = making.guid(f"{action.id}:filesystem")
        volumes.append(new_volume(node, fresh, template, action, mounts.get(action.id)))
    if "/" not in [volume.mount for volume in volumes]:
        making.wrong.append("nothing is mounted at /")
    if making.wrong:
        raise PlanRefused(tuple(making.wrong))
    return Layout(nodes=tuple(_ordered(making.nodes)), volumes=tuple(volumes))


def _rest_last(storage: Storage) -> Iterator[object]:
    """Yield the actions in order, those that take the rest of something after their siblings."""
    waiting: list[PartitionAction | LogicalAction] = []
    for action in storage.config:
        if isinstance(action, PartitionAction | LogicalAction) and action.size == REST:
            waiting.append(action)
            continue
        if isinstance(action, RaidAction | CryptAction | GroupAction):
            named = getattr(action, "devices", ()) or (getattr(action, "volume", ""),)
            for one in [one for one in waiting if one.id in named]:
                waiting.remove(one)
                yield one
        yield action
    yield from waiting


def _ordered(nodes: Mapping[str, Node]) -> Iterator[Node]:
    """Yield nodes, each after what it stands on, partitions in disk order."""
    done: set[str] = set()
    waiting = list(nodes.values())
    while waiting:
        ready = [node for node in waiting if set(node.below) <= done]
        assert ready  # actions name only what comes before them
        yield from ready
        done |= {node.id for node in ready}
        waiting = [node for node in waiting if node.id not in done]


def _size(making: _Making, text: str, whole: int, free: int, name: str) -> int:
    """Return what a size means: of `whole` bytes, `free` of which are left."""
    if text == REST:
        return free
    if text.endswith("%"):
        return whole * int(text[:-1]) // 100
    try:
        return parse_bytes(text)
    except ValueError:
        making.wrong.append(f"{name}: {text!r} is no size")
        return 0


def _disk(making: _Making, action: DiskAction) -> None:
    drive = making.drives[action.id]
    table: Gpt | Mbr | None = None
    if action.ptable is PartitionTable.GPT:
        table = Gpt(uuid=making.guid(action.id))
    elif action.ptable is PartitionTable.MSDOS:
        table = Mbr(disk_id=making.guid(action.id)[:8])
    making.nodes[action.id] = Disk(
        id=action.id,
        size_bytes=drive.size_bytes,
        sector_bytes=drive.sector_bytes,
        physical_sector_bytes=drive.physical_sector_bytes,
        table=table,
    )
    if table is not None:
        room = Room(drive.size_bytes, drive.sector_bytes, is_mbr=isinstance(table, Mbr))
        making.place[action.id] = ALIGNMENT
        making.free[action.id] = align_down(room.usable.end, ALIGNMENT) - ALIGNMENT


def _partition(making: _Making, action: PartitionAction, kind: str) -> None:
    disk = making.nodes.get(action.device)
    if not isinstance(disk, Disk) or disk.table is None:
        making.wrong.append(f"{action.id}: {action.device!r} is no disk with a partition table")
        return
    free = making.free[disk.id]
    size = _size(making, action.size, disk.size_bytes, free, action.id)
    size = align_up(size, ALIGNMENT) if action.size != REST else align_down(size, ALIGNMENT)
    least = _size(making, action.minimum or "0", disk.size_bytes, free, action.id)
    if size > free or size < max(least, 1):
        making.wrong.append(
            f"{action.id} needs {max(size, least)} bytes on {disk.id}, {free} are left"
        )
        return
    number = 1 + sum(
        isinstance(node, Partition) and node.on == disk.id for node in making.nodes.values()
    )
    is_mbr = isinstance(disk.table, Mbr)
    if is_mbr and number > 4:
        making.wrong.append(f"{action.id}: an MBR made here has at most 4 partitions")
        return
    making.nodes[action.id] = Partition(
        id=action.id,
        on=disk.id,
        number=number,
        offset_bytes=making.place[disk.id],
        size_bytes=size,
        type=_MBR_TYPES.get(kind, "83") if is_mbr else kind,
        uuid=f"{disk.table.disk_id}-{number:02x}"
        if isinstance(disk.table, Mbr)
        else making.guid(action.id),
        name="",
    )
    making.place[disk.id] += size
    making.free[disk.id] -= size


def _type_of(storage: Storage, part: PartitionAction) -> str:
    if part.flag is PartitionFlag.BOOT:
        return ESP_TYPE
    if part.flag is PartitionFlag.BIOS_GRUB:
        return BIOS_BOOT_TYPE
    for action in storage.config:
        match action:
            case RaidAction() if part.id in (*action.devices, *action.spare_devices):
                return MD_TYPE
            case GroupAction() if part.id in action.devices:
                return LVM_TYPE
            case CryptAction() if part.id == action.volume:
                return LUKS_TYPE
            case FormatAction() if part.id == action.volume:
                return SWAP_TYPE if action.fstype is Filesystem.SWAP else LINUX_TYPE
            case _:
                pass
    return LINUX_TYPE


def _sizes(making: _Making, name: str, ids: tuple[str, ...]) -> list[int] | None:
    """Return how large each of `ids` is, None (and a reason) if one is not there."""
    missing = [one for one in ids if one not in making.nodes]
    if missing:
        making.wrong.append(f"{name} names {', '.join(missing)}, which is not there before it")
        return None
    found = [making.nodes[one] for one in ids]
    return [0 if isinstance(node, VolumeGroup) else node.size_bytes for node in found]


def _array(making: _Making, action: RaidAction) -> None:
    sizes = _sizes(making, action.id, (*action.devices, *action.spare_devices))
    if sizes is None:
        return
    level = _LEVELS[action.raidlevel]
    if level is MdLevel.LINEAR:
        making.wrong.append(
            f"{action.id}: kernels from 6.8 to 6.13 run no linear array: take raid0, or a group"
        )
        return
    plain = Array(
        id=action.id,
        members=action.devices,
        spares=action.spare_devices,
        level=level,
        metadata=MdMetadata(action.metadata),
        chunk_bytes=0 if level in (MdLevel.RAID1, MdLevel.LINEAR) else 512 * KiB,
        layout=_MD_LAYOUTS.get(level, ""),
        uuid=making.md_uuid(action.id),
        name=action.name,
        bitmap=level not in (MdLevel.RAID0, MdLevel.LINEAR),
        size_bytes=0,
    )
    size = usable_bytes(plain, sizes[: len(action.devices)])
    if size <= 0:
        making.wrong.append(f"{action.id}: {level} of {len(action.devices)} disks cannot be")
        return
    making.nodes[action.id] = replace(plain, size_bytes=size)


def _crypt(making: _Making, action: CryptAction) -> None:
    sizes = _sizes(making, action.id, (action.volume,))
    if sizes is None:
        return
    plain = Luks(
        id=action.id,
        on=action.volume,
        version=2,
        uuid=making.guid(action.id),
        cipher="aes-xts-plain64",
        key_bytes=64,
        name=action.dm_name,
        size_bytes=0,
    )
    making.nodes[action.id] = replace(plain, size_bytes=payload_bytes(plain, sizes[0]))


def _group(making: _Making, action: GroupAction) -> None:
    sizes = _sizes(making, action.id, action.devices)
    if sizes is None:
        return
    making.nodes[action.id] = VolumeGroup(
        id=action.id,
        physical=tuple(
            PhysicalVolume(
                on=on,
                uuid=making.lvm_uuid(f"{action.id}:{on}"),
                size_bytes=physical_bytes(size, EXTENT_BYTES),
            )
            for on, size in zip(action.devices, sizes, strict=True)
        ),
        name=action.name,
        uuid=making.lvm_uuid(action.id),
        extent_bytes=EXTENT_BYTES,
    )
    making.free[action.id] = sum(physical_bytes(size, EXTENT_BYTES) for size in sizes)


def _logical(making: _Making, action: LogicalAction) -> None:
    group = making.nodes.get(action.volgroup)
    if not isinstance(group, VolumeGroup):
        making.wrong.append(f"{action.id}: {action.volgroup!r} is no volume group before it")
        return
    free = making.free[group.id]
    whole = sum(one.size_bytes for one in group.physical)
    size = _size(making, action.size, whole, free, action.id)
    size = align_up(size, EXTENT_BYTES) if action.size != REST else align_down(size, EXTENT_BYTES)
    least = _size(making, action.minimum or "0", whole, free, action.id)
    if size > free or size < max(least, 1):
        making.wrong.append(
            f"{action.id} needs {max(size, least)} bytes of {group.name}, {free} are left"
        )
        return
    making.nodes[action.id] = LogicalVolume(
        id=action.id,
        on=group.id,
        name=action.name,
        uuid=making.lvm_uuid(action.id),
        lv=LvKind.LINEAR,
        size_bytes=size,
    )
    making.free[group.id] -= size
