"""An array that is used as if it were a disk: planned, grown, drawn, refused if it cannot be."""

import msgspec
import pytest

from agent.errors import PlanRefused
from agent.model.layout import BootCode, Ext, Layout, Raw, Vfat, Volume
from agent.model.nodes import (
    ESP_TYPE,
    LINUX_TYPE,
    Array,
    Disk,
    Gpt,
    Luks,
    MdLevel,
    MdMetadata,
    Partition,
)
from agent.model.plan import Plan
from agent.model.steps import (
    CloseDevices,
    Commit,
    EfiEntry,
    GrowVolume,
    MakeArray,
    RestoreVolume,
    WritePendingTable,
)
from agent.planning.deploy import plan_deploy
from agent.planning.drawing import draw_layout
from agent.planning.review import render_plan
from agent.planning.soundness import about_layout
from agent.planning.stack import erasing
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

SIZE = 4 * GiB - MiB
DISKS = ("disk0", "disk1")


def part(number: int, at: int, size: int, kind: str) -> Partition:
    return make_partition(number, at, size, id=f"md0p{number}", on="md0", type=kind)


def volume(name: str, on: str, content: Ext | Vfat | Raw | BootCode, size: int) -> Volume:
    mounts = {"root": "/", "esp": "/boot/efi"}
    return make_volume(name, on, content, size, mount=mounts.get(name))


LAYOUT = Layout(
    nodes=(
        *(
            Disk(
                id=disk,
                size_bytes=4 * GiB,
                sector_bytes=512,
                physical_sector_bytes=512,
                table=None,
            )
            for disk in DISKS
        ),
        Array(
            id="md0",
            members=DISKS,
            level=MdLevel.RAID1,
            metadata=MdMetadata.V1_0,
            uuid="11111111:22222222:33333333:44444444",
            size_bytes=SIZE,
            table=Gpt(uuid=guid(9)),
        ),
        part(1, MiB, 64 * MiB, ESP_TYPE),
        part(2, 65 * MiB, 3 * GiB, LINUX_TYPE),
    ),
    volumes=(
        volume("boot-code", "md0", BootCode(), 440),
        volume("esp", "md0p1", Vfat(uuid="ABCD-1234", label=""), 64 * MiB),
        volume("root", "md0p2", Ext(uuid=guid(5), label="", block_bytes=4096, features=()), GiB),
    ),
)


def plan(size: int = 8 * GiB, firmware: str = "uefi") -> Plan:
    drives = {disk: make_drive(path=f"/dev/{disk}", serial=disk, size_bytes=size) for disk in DISKS}
    inventory = make_inventory(*drives.values(), firmware=firmware)
    return plan_deploy(inventory, make_template(LAYOUT), make_spec(), drives)


def test_what_is_in_it_grows_with_it() -> None:
    made = plan()
    array, root = made.layout.node("md0"), made.layout.node("md0p2")
    assert isinstance(array, Array)
    assert isinstance(root, Partition)
    assert 8 * GiB - 2 * MiB <= array.size_bytes < 8 * GiB
    assert array.size_bytes - 2 * MiB <= root.extent.end < array.size_bytes
    (grown,) = [step for step in made.steps if isinstance(step, GrowVolume)]
    assert (grown.node, grown.to_bytes) == ("md0p2", root.size_bytes)


def test_its_table_is_pending_from_its_making_to_the_commit() -> None:
    made = plan()
    kinds = [type(step) for step in made.steps]
    assert kinds.index(MakeArray) < kinds.index(WritePendingTable) < kinds.index(RestoreVolume)
    assert kinds.count(WritePendingTable) == 1
    assert kinds[-2:] == [Commit, CloseDevices]
    assert kinds.count(CloseDevices) == 1  # it is not stopped before its table is final
    assert made.commit is not None
    disks = {disk.disk: disk for disk in made.commit.disks}
    assert list(disks) == ["disk0", "disk1", "md0"]
    assert disks["disk0"].table is None
    assert disks["md0"].boot_code == "boot-code"
    assert [(head.volume, head.offset_bytes) for head in disks["md0"].heads] == [("esp", MiB)]
    assert disks["md0"].table is not None
    assert [one.type for one in disks["md0"].table.partitions] == [ESP_TYPE, LINUX_TYPE]
    (entry,) = [step for step in made.steps if isinstance(step, EfiEntry)]
    assert entry.partition == "md0p1"


def test_what_it_held_before_is_erased_where_its_partitions_begin() -> None:
    made = plan()
    array = made.layout.node("md0")
    assert isinstance(array, Array)
    step = erasing(made.layout, array)
    assert step in made.steps
    for at in (0, MiB, 65 * MiB, array.size_bytes - 512):
        assert any(offset <= at < offset + size for offset, size in step.runs), at


def test_page_and_drawing_show_it() -> None:
    text = render_plan(plan())
    assert "Partitions on md0 afterwards:" in text
    assert "a table" in text
    assert "md0" in draw_layout(LAYOUT)
    assert "└─ ext /" in draw_layout(LAYOUT).replace("│  ", "").replace("   ", "")


def changed(node_id: str, **fields: object) -> Layout:
    nodes = tuple(
        msgspec.structs.replace(node, **fields) if node.id == node_id else node
        for node in LAYOUT.nodes
    )
    return msgspec.structs.replace(LAYOUT, nodes=nodes)


LUKS = Luks(
    id="luks0",
    on="md0p2",
    version=2,
    uuid=guid(7),
    cipher="aes-xts-plain64",
    key_bytes=64,
    size_bytes=GiB,
)
INSIDE = msgspec.structs.replace(part(1, MiB, MiB, LINUX_TYPE), id="luks0p1", on="luks0")


@pytest.mark.parametrize(
    ("layout", "why"),
    [
        (changed("md0", table=None), "md0 has partitions but no table"),
        (changed("md0p2", size_bytes=5 * GiB), "md0 is too small for its partitions and its table"),
        (changed("md0", size_bytes=65 * MiB + 3 * GiB), "md0 is too small for its partitions"),
        (changed("md0", level=MdLevel.LINEAR), "a linear array has no table"),
        (changed("md0", metadata=MdMetadata.IMSM, level=MdLevel.RAID4), "Intel's RAID has levels"),
        (changed("md0", metadata=MdMetadata.IMSM, name="web1:a"), "Intel's RAID gives no volume"),
        (changed("md0", metadata=MdMetadata.IMSM, spares=("disk1",)), "spare"),
        (changed("md0p2", offset_bytes=MiB), "the partitions at 1048576 and 1048576 overlap"),
        (
            msgspec.structs.replace(LAYOUT, volumes=(volume("all", "md0", Raw(), GiB),)),
            "md0 has a table and is used as a whole",
        ),
        (
            Layout(nodes=(*LAYOUT.nodes, LUKS, INSIDE), volumes=()),
            "luks0p1 is a partition of luks0, which is neither disk nor array",
        ),
    ],
)
def test_what_cannot_be_is_refused(layout: Layout, why: str) -> None:
    assert any(why in one for one in about_layout("demo", layout))


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("size", [1, 4096, 34 * 512 + 512, 100 * 1024])
def test_a_table_without_room_is_refused_in_words(size: int, sector: int) -> None:
    small = msgspec.structs.replace(part(1, 34 * 512, 512, LINUX_TYPE), id="md0p1")
    array = changed("md0", size_bytes=size).nodes[2]
    layout = Layout(nodes=(*LAYOUT.nodes[:2], array, small), volumes=())
    drives = {
        disk: make_drive(path=f"/dev/{disk}", serial=disk, sector_bytes=sector) for disk in DISKS
    }
    inventory = make_inventory(*drives.values())
    if size == 100 * 1024 and sector == 512:
        plan_deploy(inventory, make_template(layout), make_spec(), drives)
        return
    with pytest.raises(PlanRefused, match="md0|begins"):
        plan_deploy(inventory, make_template(layout), make_spec(), drives)


def test_as_it_is_it_is_sound() -> None:
    assert list(about_layout("demo", LAYOUT)) == []
