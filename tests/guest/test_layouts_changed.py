"""A template onto another layout: files equal, checked, source untouched."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.model.job import DeploySpec
from agent.model.layout import BootCode
from agent.model.md_size import is_redundant
from agent.model.nodes import Array
from agent.model.storage import (
    DiskAction,
    Filesystem,
    FormatAction,
    MountAction,
    PartitionAction,
    PartitionFlag,
    RaidAction,
    Shape,
    Storage,
)
from tests.guest import in_step, layouts
from tests.guest.whole_way import KEYS, bench, captured, deployed, on_targets, shortened
from tests.guest.workbench import Bench, Source, drive_of

__all__ = ["bench"]
SHORT = (
    "xfs to a smaller xfs",
    "RAID 1 to one smaller disk",
)


def ext4_root() -> Storage:
    """The whole system on one ext4."""
    return Storage(
        config=(
            DiskAction(id="disk0"),
            PartitionAction(id="bios", device="disk0", size="1MiB", flag=PartitionFlag.BIOS_GRUB),
            PartitionAction(id="large", device="disk0"),
            FormatAction(id="root", volume="large", fstype=Filesystem.EXT4),
            MountAction(id="m0", device="root", path="/"),
        )
    )


def xfs_root() -> Storage:
    """An ext4 system on an xfs root, with a /boot of its own."""
    return Storage(
        config=(
            DiskAction(id="disk0"),
            PartitionAction(id="bios", device="disk0", size="1MiB", flag=PartitionFlag.BIOS_GRUB),
            PartitionAction(id="small", device="disk0", size="64MiB"),
            PartitionAction(id="large", device="disk0"),
            FormatAction(id="boot", volume="small", fstype=Filesystem.EXT4),
            FormatAction(id="root", volume="large", fstype=Filesystem.XFS),
            MountAction(id="m0", device="root", path="/"),
            MountAction(id="m1", device="boot", path="/boot"),
        )
    )


def raid5_root() -> Storage:
    """Root on a small RAID 5; the layout of that name has a /boot of 1 GiB on each disk."""
    disks = ("disk0", "disk1", "disk2")
    parts = [
        action
        for disk in disks
        for action in (
            DiskAction(id=disk),
            PartitionAction(id=f"{disk}-b", device=disk, size="1MiB", flag=PartitionFlag.BIOS_GRUB),
            PartitionAction(id=f"{disk}-r", device=disk),
        )
    ]
    members = tuple(f"{disk}-r" for disk in disks)
    return Storage(
        config=(
            *parts,
            RaidAction(id="md-root", name="root", raidlevel="5", devices=members),
            FormatAction(id="root", volume="md-root"),
            MountAction(id="m0", device="root", path="/"),
        )
    )


@dataclass(frozen=True)
class Other:
    source: Callable[[Bench], Source]
    layout: Shape | Storage
    sizes_mib: tuple[int, ...]
    sector_bytes: int = 512


OTHER = {
    "a smaller disk": Other(layouts.gpt(), Shape.SINGLE, (200,)),
    "xfs to a smaller xfs": Other(layouts.gpt("xfs"), Shape.SINGLE, (400,)),
    "ext4 to xfs and a /boot": Other(layouts.gpt(), xfs_root(), (450,)),
    "xfs to ext4": Other(layouts.gpt("xfs"), ext4_root(), (300,)),
    "btrfs subvolumes to ext4": Other(layouts.btrfs_subvolumes, ext4_root(), (300,)),
    "LUKS2 to plain": Other(layouts.luks(), Shape.SINGLE, (300,)),
    "4096 to 512": Other(layouts.gpt(sector_bytes=4096), Shape.SINGLE, (300,)),
    "LVM on LUKS on RAID 1 to one plain disk": Other(
        layouts.lvm_on_luks_on_md, Shape.SINGLE, (400,)
    ),
    "one disk to RAID 1": Other(layouts.gpt(), Shape.RAID1, (300, 300)),
    "one disk to RAID 5": Other(layouts.gpt(), raid5_root(), (160, 160, 160)),
    "RAID 1 to one smaller disk": Other(layouts.md("1", 2), Shape.SINGLE, (200,)),
    "Intel's RAID 5 to one smaller disk": Other(layouts.imsm("5", 3), Shape.SINGLE, (200,)),
    "partitions to LVM": Other(layouts.gpt(), Shape.LVM, (1400,)),
    "plain to LUKS": Other(layouts.gpt(), Shape.LUKS, (1300,)),
    "512 to 4096": Other(layouts.gpt(), Shape.SINGLE, (300,), 4096),
    "LVM of two disks to one": Other(layouts.lvm(), Shape.SINGLE, (450,)),
    "btrfs of two disks to ext4": Other(layouts.btrfs_of_two, ext4_root(), (300,)),
    "btrfs subvolumes to one btrfs": Other(layouts.btrfs_subvolumes, Shape.SINGLE, (350,)),
}


@pytest.mark.parametrize("name", shortened(OTHER, SHORT))
def test_another_layout(name: str, bench: Bench, tmp_path: Path) -> None:
    case = OTHER[name]
    with captured(bench, case.source(bench), tmp_path / "mnt") as taken:
        targets = {
            f"disk{number}": drive_of(bench.disk(size, case.sector_bytes))
            for number, size in enumerate(case.sizes_mib)
        }
        spec = DeploySpec(template="demo:latest", layout=case.layout, keys=KEYS)
        plan, _ = deployed(taken.template, targets, spec, tmp_path / "mnt")
    bench.stop()
    if any(isinstance(node, Array) and is_redundant(node.level) for node in plan.layout.nodes):
        assert in_step.checked([Path(disk.path) for disk in targets.values()]) == 0
    assert on_targets(plan, targets, tmp_path / "mnt") == taken.tree
    root = next(volume for volume in plan.layout.volumes if volume.mount == "/")
    assert not isinstance(root.content, BootCode)
    for disk in targets.values():
        with Path(disk.path).open("rb") as file:
            assert file.read(6) == b"boots\n"
