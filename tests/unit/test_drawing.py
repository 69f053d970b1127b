"""Layouts as pictures, and what other layouts are made of."""

import pytest

from agent.errors import PlanRefused
from agent.model.job import DeploySpec
from agent.model.keys import DiskKey
from agent.model.layout import Ext, Xfs
from agent.model.nodes import Array, Luks, MdLevel, VolumeGroup
from agent.model.plan import Plan
from agent.model.steps import CopyFiles, MakeFilesystem, RenewBoot, RestoreVolume
from agent.model.storage import (
    DiskAction,
    Filesystem,
    FormatAction,
    MountAction,
    PartitionAction,
    Shape,
    Storage,
)
from agent.planning.deploy import plan_deploy
from agent.planning.drawing import draw_layout
from agent.units import GiB, KiB
from tests.unit.make_plan import JOB, make_drive, make_inventory, make_os, make_template

RAID1 = """\
disk0  30.0 GiB
[1 |                             md-root                              ]
├─ 1  1.0 MiB
└─ 2  30.0 GiB
   └─ raid1 md-root of 2, 30.0 GiB
      └─ ext /

disk1  30.0 GiB
[1 |                             md-root                              ]
├─ 1  1.0 MiB
└─ 2  30.0 GiB
   └─ raid1 md-root of 2, 30.0 GiB
"""


def plan(layout: Shape | Storage, disks: int = 1, size: int = 30 * GiB) -> Plan:
    drives = {
        f"disk{number}": make_drive(path=f"/dev/vd{'abcdef'[number]}", size_bytes=size)
        for number in range(disks)
    }
    template = make_template(os=make_os(tools=None))
    spec = DeploySpec(template="demo", layout=layout, keys=(DiskKey(passphrase="x"),))
    return plan_deploy(make_inventory(*drives.values()), template, spec, drives, JOB)


def test_a_mirror_is_drawn_on_both_disks() -> None:
    assert draw_layout(plan(Shape.RAID1, 2).layout) == RAID1


@pytest.mark.parametrize("shape", [Shape.SINGLE, Shape.LVM, Shape.LUKS, Shape.RAID5])
def test_no_line_is_wider_than_a_terminal(shape: Shape) -> None:
    made = plan(shape, 3 if shape is Shape.RAID5 else 1)
    assert max(map(len, draw_layout(made.layout).splitlines())) <= 100


@pytest.mark.parametrize(
    ("shape", "disks", "kind"),
    [
        (Shape.RAID0, 2, MdLevel.RAID0),
        (Shape.RAID1, 3, MdLevel.RAID1),
        (Shape.RAID5, 3, MdLevel.RAID5),
        (Shape.RAID6, 4, MdLevel.RAID6),
        (Shape.RAID10, 4, MdLevel.RAID10),
    ],
)
def test_a_raid_takes_all_the_disks_it_is_given(shape: Shape, disks: int, kind: MdLevel) -> None:
    layout = plan(shape, disks).layout
    arrays = {node.id: node for node in layout.nodes if isinstance(node, Array)}
    assert arrays["md-root"].level is kind
    assert len(arrays["md-root"].members) == disks
    assert len(layout.disks_of("md-root")) == disks


def test_files_are_copied_and_nothing_is_restored_by_blocks() -> None:
    steps = plan(Shape.LVM).steps
    assert not [step for step in steps if isinstance(step, RestoreVolume)]
    order = [type(step) for step in steps]
    assert order.index(MakeFilesystem) < order.index(CopyFiles) < order.index(RenewBoot)


def test_groups_and_containers_are_made_where_they_are_asked_for() -> None:
    assert [n for n in plan(Shape.LVM).layout.nodes if isinstance(n, VolumeGroup)]
    assert [n for n in plan(Shape.LUKS).layout.nodes if isinstance(n, Luks)]


def test_auto_keeps_the_layout_where_it_fits_and_leaves_it_where_not() -> None:
    assert [s for s in plan(Shape.AUTO).steps if isinstance(s, RestoreVolume)]
    smaller = plan(Shape.AUTO, size=3 * GiB)
    assert not [s for s in smaller.steps if isinstance(s, RestoreVolume)]


def test_too_few_disks_are_refused_with_what_to_name() -> None:
    with pytest.raises(PlanRefused, match="raid5 needs 3 disks, the job names 2"):
        plan(Shape.RAID5, 2)


def test_a_disk_too_small_for_the_files_is_refused() -> None:
    with pytest.raises(PlanRefused, match="the files of demo need"):
        plan(Shape.SINGLE, size=GiB)


def test_a_storage_configuration_is_taken_by_its_words() -> None:
    storage = Storage(
        config=(
            DiskAction(id="disk0"),
            PartitionAction(id="a", device="disk0", size="25%"),
            PartitionAction(id="b", device="disk0"),
            FormatAction(id="fa", volume="a", fstype=Filesystem.EXT4),
            FormatAction(id="fb", volume="b", fstype=Filesystem.XFS),
            MountAction(id="ma", device="fa", path="/boot"),
            MountAction(id="mb", device="fb", path="/"),
        )
    )
    layout = plan(storage, size=40 * GiB).layout
    boot, root = layout.volume("fa"), layout.volume("fb")
    assert isinstance(boot.content, Ext)
    assert isinstance(root.content, Xfs)
    assert boot.size_bytes == 10 * GiB
    assert 29 * GiB < root.size_bytes < 30 * GiB


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ((PartitionAction(id="a", device="disk7"),), "'disk7' is no disk"),
        ((FormatAction(id="f", volume="gone"),), "'gone', which is not there"),
        ((PartitionAction(id="a", device="disk0", size="900%"),), "a needs"),
        ((PartitionAction(id="a", device="disk0", minimum="99TiB"),), "a needs"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(
    actions: tuple[PartitionAction | FormatAction, ...], expected: str
) -> None:
    with pytest.raises(PlanRefused, match=expected):
        plan(Storage(config=(DiskAction(id="disk0"), *actions)))


def test_a_plan_depends_on_nothing_but_what_it_is_given() -> None:
    assert plan(Shape.LVM).digest == plan(Shape.LVM).digest
    assert plan(Shape.LVM).digest != plan(Shape.LVM, size=30 * GiB + 4 * KiB).digest
