"""A system on a btrfs of several devices: planned, grown, drawn, copied to another layout."""

from pathlib import Path

from msgspec.structs import replace

from agent.model.layout import BootCode, Btrfs, BtrfsDevice, Layout, Subvolume
from agent.model.nodes import LINUX_TYPE, Disk, Gpt, Partition
from agent.model.plan import Plan
from agent.model.steps import CheckFilesystems, ConfigureSystem, CopyFiles, GrowVolume
from agent.model.storage import Shape
from agent.model.template import Firmware
from agent.planning.deploy import plan_deploy
from agent.planning.drawing import draw_layout
from agent.planning.reshape import reshape_objections
from agent.system.mount import Part
from agent.units import GiB, MiB
from tests.unit.make_plan import (
    guid,
    make_drive,
    make_inventory,
    make_partition,
    make_spec,
    make_template,
    make_volume,
)

SIZE = 3 * GiB
UUID = guid(5)
DISKS = ("disk0", "disk1")


def make_two_disks() -> Layout:
    top = Subvolume(path="@rootfs", mount="/")
    root = Btrfs(uuid=UUID, label="", block_bytes=4096, subvolumes=(top,))
    more = BtrfsDevice(uuid=UUID, block_bytes=4096)
    disks = [
        Disk(
            id=disk,
            size_bytes=4 * GiB,
            sector_bytes=512,
            physical_sector_bytes=512,
            table=Gpt(uuid=guid(number)),
        )
        for number, disk in enumerate(DISKS, start=10)
    ]
    parts = [
        make_partition(number, MiB, SIZE, id=f"{disk}p1", on=disk, type=LINUX_TYPE)
        for number, disk in enumerate(DISKS, start=1)
    ]
    return Layout(
        nodes=(*disks, *(replace(part, number=1) for part in parts)),
        volumes=(
            make_volume("boot-code", "disk0", BootCode(), 440),
            make_volume("root", "disk0p1", root, SIZE, used_bytes=GiB),
            make_volume("part1", "disk1p1", more, SIZE, used_bytes=GiB),
        ),
    )


LAYOUT = make_two_disks()


def plan(**changes: object) -> Plan:
    count = 1 if changes else 2
    drives = {
        disk: make_drive(path=f"/dev/{disk}", serial=disk, size_bytes=8 * GiB)
        for disk in DISKS[:count]
    }
    inventory = make_inventory(*drives.values(), firmware="bios")
    template = make_template(LAYOUT, boots=(Firmware.BIOS,))
    return plan_deploy(inventory, template, make_spec(**changes), drives)


def test_all_of_its_devices_grow() -> None:
    made = plan()
    parts = [made.layout.node(f"{disk}p1") for disk in DISKS]
    sizes = [part.size_bytes for part in parts if isinstance(part, Partition)]
    assert all(size > 7 * GiB for size in sizes)
    (grown,) = [step for step in made.steps if isinstance(step, GrowVolume)]
    assert (grown.node, grown.further) == ("disk0p1", ("disk1p1",))
    assert (grown.from_bytes, grown.to_bytes) == (2 * SIZE, sum(sizes))


def test_it_is_mounted_and_checked_as_one() -> None:
    made = plan()
    (configured,) = [step for step in made.steps if isinstance(step, ConfigureSystem)]
    assert [mount.node for mount in configured.mounts] == ["disk0p1"]
    (checked,) = [step for step in made.steps if isinstance(step, CheckFilesystems)]
    assert [one.node for one in checked.checked] == ["disk0p1"]


def test_another_btrfs_has_no_part_in_it() -> None:
    root, more = LAYOUT.volume("root"), LAYOUT.volume("part1")
    assert LAYOUT.nodes_of(root) == ("disk0p1", "disk1p1")
    assert LAYOUT.further(more) == ()
    other = replace(more, content=BtrfsDevice(uuid=guid(6), block_bytes=4096))
    assert replace(LAYOUT, volumes=(root, other)).further(root) == ()


def test_its_files_are_copied_from_all_of_it() -> None:
    made = plan(layout=Shape.SINGLE)
    (copied,) = [step for step in made.steps if isinstance(step, CopyFiles)]
    assert [(one.volume, one.further) for one in copied.copied] == [("root", ("part1",))]
    assert copied.copied[0].used_bytes == 2 * GiB
    assert "left behind" not in " ".join(made.notes)


def test_no_copy_is_refused_for_what_is_there_twice() -> None:
    one = plan(layout=Shape.SINGLE).layout
    volumes = tuple(replace(volume, size_bytes=1200 * MiB) for volume in one.volumes)
    assert list(reshape_objections(make_template(LAYOUT), replace(one, volumes=volumes))) == []


def test_the_drawing_says_what_the_second_device_is() -> None:
    drawn = draw_layout(LAYOUT)
    assert "btrfs /" in drawn
    assert "more of a btrfs" in drawn


def test_the_kernel_is_told_of_the_further_devices() -> None:
    part = Part(Path("/dev/a1"), "/", "btrfs", "@rootfs", (Path("/dev/b1"), Path("/dev/c1")))
    assert part.options("rw") == "rw,subvol=@rootfs,device=/dev/b1,device=/dev/c1"
    assert part.options("ro") == "ro,norecovery,subvol=@rootfs,device=/dev/b1,device=/dev/c1"
