"""Layouts by name, written out in the storage vocabulary. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final, Literal

from agent.errors import PlanRefused
from agent.model.layout import Layout, Swap
from agent.model.nodes import Array, Luks, VolumeGroup
from agent.model.storage import (
    Action,
    CryptAction,
    DiskAction,
    Filesystem,
    FormatAction,
    GroupAction,
    LogicalAction,
    MountAction,
    PartitionAction,
    PartitionFlag,
    RaidAction,
    Shape,
    Storage,
)
from agent.model.template import Firmware

_BOOT_SIZE: Final = "1GiB"
_ESP_SIZE: Final = "256MiB"
_BIOS_SIZE: Final = "1MiB"
LEAST_DISKS: Final = {
    Shape.RAID0: 2,
    Shape.RAID1: 2,
    Shape.RAID5: 3,
    Shape.RAID6: 4,
    Shape.RAID10: 4,
}
_LEVELS: Final[dict[Shape, Literal["0", "1", "5", "6", "10"]]] = {
    Shape.RAID0: "0",
    Shape.RAID1: "1",
    Shape.RAID5: "5",
    Shape.RAID6: "6",
    Shape.RAID10: "10",
}


def storage_for(
    shape: Shape, template: Layout, disks: Sequence[str], firmware: Firmware
) -> Storage:
    """Return the storage that a named layout means on `disks` (ids of roles).

    Every disk gets what `firmware` boots from; root takes the rest. The template's swap is taken
    over where there is a plain place for it. Raises PlanRefused for too few disks.
    """
    least = LEAST_DISKS.get(shape, 1)
    if len(disks) < least:
        raise PlanRefused(
            (f"the layout {shape} needs {least} disks, the job names {len(disks)}",),
            hint="name each: --disk disk0:serial=… --disk disk1:serial=…",
        )
    if shape in _LEVELS:
        actions = list(_arrays(shape, disks, firmware))
    else:
        actions = list(_one_disk(shape, template, disks[0], firmware))
    return Storage(config=tuple(actions))


def _one_disk(shape: Shape, template: Layout, disk: str, firmware: Firmware) -> Iterator[Action]:
    yield from _boot_area(disk, firmware)
    swap = sum(volume.size_bytes for volume in template.volumes if isinstance(volume.content, Swap))
    match shape:
        case Shape.LUKS:
            yield PartitionAction(id=f"{disk}-boot", device=disk, size=_BOOT_SIZE)
            yield from _mounted("boot", f"{disk}-boot", "/boot")
            yield PartitionAction(id=f"{disk}-crypt", device=disk)
            yield CryptAction(id="crypt0", volume=f"{disk}-crypt", dm_name="root_crypt")
            yield from _mounted("root", "crypt0", "/")
        case Shape.LVM:
            yield PartitionAction(id=f"{disk}-boot", device=disk, size=_BOOT_SIZE)
            yield from _mounted("boot", f"{disk}-boot", "/boot")
            yield PartitionAction(id=f"{disk}-pv", device=disk)
            yield GroupAction(id="vg0", name="system", devices=(f"{disk}-pv",))
            if swap:
                yield LogicalAction(id="lv-swap", volgroup="vg0", name="swap", size=str(swap))
                yield FormatAction(id="swap", volume="lv-swap", fstype=Filesystem.SWAP)
            yield LogicalAction(id="lv-root", volgroup="vg0", name="root")
            yield from _mounted("root", "lv-root", "/")
        case _:
            if swap:
                yield PartitionAction(id=f"{disk}-swap", device=disk, size=str(swap))
                yield FormatAction(id="swap", volume=f"{disk}-swap", fstype=Filesystem.SWAP)
            yield PartitionAction(id=f"{disk}-root", device=disk)
            yield from _mounted("root", f"{disk}-root", "/")


def _arrays(shape: Shape, disks: Sequence[str], firmware: Firmware) -> Iterator[Action]:
    for disk in disks:
        yield from _boot_area(disk, firmware, first=disk == disks[0])
    if shape is not Shape.RAID1:
        for disk in disks:
            yield PartitionAction(id=f"{disk}-boot", device=disk, size=_BOOT_SIZE)
        yield RaidAction(
            id="md-boot",
            name="boot",
            raidlevel="1",
            devices=tuple(f"{disk}-boot" for disk in disks),
        )
        yield from _mounted("boot", "md-boot", "/boot")
    for disk in disks:
        yield PartitionAction(id=f"{disk}-root", device=disk)
    yield RaidAction(
        id="md-root",
        name="root",
        raidlevel=_LEVELS[shape],
        devices=tuple(f"{disk}-root" for disk in disks),
    )
    yield from _mounted("root", "md-root", "/")


def _boot_area(disk: str, firmware: Firmware, *, first: bool = True) -> Iterator[Action]:
    yield DiskAction(id=disk)
    if firmware is Firmware.BIOS:
        flag = PartitionFlag.BIOS_GRUB
        yield PartitionAction(id=f"{disk}-bios", device=disk, size=_BIOS_SIZE, flag=flag)
        return
    yield PartitionAction(id=f"{disk}-esp", device=disk, size=_ESP_SIZE, flag=PartitionFlag.BOOT)
    yield FormatAction(id=f"esp-{disk}", volume=f"{disk}-esp", fstype=Filesystem.VFAT)
    if first:
        yield MountAction(id="mount-esp", device=f"esp-{disk}", path="/boot/efi")


def _mounted(name: str, volume: str, path: str) -> Iterator[Action]:
    yield FormatAction(id=name, volume=volume)
    yield MountAction(id=f"mount-{name}", device=name, path=path)


def nearest_shape(template: Layout, disks: int) -> Shape:
    """Return the named layout that keeps most of what `template` is, on so many disks."""
    root = next((v.on for v in template.volumes if v.mount == "/"), None)
    below = template.node(root) if root else None
    levels: dict[str, Shape] = {level: shape for shape, level in _LEVELS.items()}
    while below is not None:
        if isinstance(below, Array):
            shape = levels.get(below.level.removeprefix("raid"), Shape.SINGLE)
            return shape if disks >= LEAST_DISKS.get(shape, 1) else Shape.SINGLE
        if isinstance(below, Luks):
            return Shape.LUKS
        if isinstance(below, VolumeGroup):
            return Shape.LVM
        below = template.node(below.below[0]) if below.below else None
    return Shape.SINGLE
