"""Intel's RAID: what `mdadm --examine` (4.4) said of real members, and what becomes of it."""

from pathlib import Path

import msgspec
import pytest

from agent.model.md_size import usable_bytes, why_not
from agent.model.nodes import Array, MdLevel, MdMetadata
from agent.planning.refusals import objections
from agent.tools import imsm, mdadm
from agent.units import KiB, MiB
from tests.unit.fake_run import FakeRun
from tests.unit.make_plan import (
    make_drive,
    make_inventory,
    make_layout,
    make_spec,
    make_template,
)

RECORDED = Path(__file__).parent / "recorded_imsm"
UUID = "56fa3718:cb8b976c:e4eef90c:225b45a0"


def member(name: str, *changes: tuple[str, str]) -> mdadm.MdMember:
    text = (RECORDED / f"{name}.txt").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    found = mdadm.parse_examine(text, 128 * MiB)
    assert found is not None
    return found


def test_a_member_of_a_raid_10() -> None:
    assert member("raid10") == mdadm.MdMember(
        uuid=UUID,
        name="Volume0",
        level=MdLevel.RAID10,
        metadata=MdMetadata.IMSM,
        chunk_bytes=128 * KiB,
        layout="near=2",
        raid_devices=4,
        slot=2,
        array_bytes=244 * MiB,
        area_bytes=123 * MiB,
        data_offset_bytes=0,
        device_bytes=128 * MiB,
        events=2,
        clean=True,
        bitmap=False,
        reshaping=False,
        recovering=False,
    )


def test_a_volume_is_an_array_of_its_members() -> None:
    two = [
        ("disk0", member("raid1")),
        ("disk1", member("raid1", ("This Slot : 0", "This Slot : 1"))),
    ]
    (found,) = mdadm.find_arrays(two)
    assert found.unfit == ()
    assert found.array is not None
    assert found.array.members == ("disk0", "disk1")
    assert (found.array.level, found.array.chunk_bytes) == (MdLevel.RAID1, 0)
    assert why_not(found.array) is None
    odd = msgspec.structs.replace(found.array, name="a volume")
    assert "no volume the name 'a volume'" in (why_not(odd) or "")
    (half,) = mdadm.find_arrays(two[:1])
    assert half.array is not None
    assert "with a member missing" in (why_not(half.array) or "")


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [
        ("spare", (), "as a spare or without a volume"),
        ("raid1", (("Migrate State : idle", "Migrate State : rebuild"),), "is being rebuilt"),
        (
            "raid1",
            (("Migrate State : idle", "Migrate State : general migration"),),
            "is being reshaped",
        ),
        ("raid1", (("Dirty State : clean", "Dirty State : dirty"),), "was not stopped cleanly"),
        ("raid1", (("4ce927ab correct", "4ce927ab incorrect"),), "whose checksum is wrong"),
        ("raid1", (("State : active", "State : active failed"),), "thrown out of its array"),
        ("raid10", (("Policy : off", "Policy : PPL distributed"),), "PPL distributed"),
        ("raid10", (("RAID Level : 10", "RAID Level : 3"),), "level 'raid3'"),
    ],
)
def test_what_cannot_be_captured_says_why(
    name: str, changes: tuple[tuple[str, str], ...], why: str
) -> None:
    (found,) = mdadm.find_arrays([("disk0", member(name, *changes))])
    assert any(why in one for one in found.unfit), found.unfit


def test_two_volumes_in_one_container() -> None:
    text = (RECORDED / "raid1.txt").read_text()
    begin, end = text.index("[Volume0]"), text.index("  Disk01")
    doubled = text[:end] + text[begin:end].replace("Volume0", "Data") + text[end:]
    found = mdadm.parse_examine(doubled, 128 * MiB)
    assert found is not None
    assert found.level is None
    assert "with several volumes (Volume0, Data)" in found.trouble[0]


def test_in_the_middle_of_its_first_step_it_is_read() -> None:
    """What a number was before and is to be stand side by side then."""
    found = member(
        "raid10",
        ("Chunk Size : 128 KiB", "Chunk Size : 128 KiB <-- 128 KiB"),
        ("Members : 4", "Members : 4 <-- 4"),
        ("Migrate State : idle", "Migrate State : init"),
    )
    assert (found.chunk_bytes, found.raid_devices) == (128 * KiB, 4)
    assert (found.recovering, found.reshaping) == (True, False)


ARRAY = Array(
    id="md0",
    members=("disk0", "disk1"),
    level=MdLevel.RAID0,
    metadata=MdMetadata.IMSM,
    chunk_bytes=64 * KiB,
    uuid=UUID,
    name="Volume0",
    size_bytes=200 * MiB,
)


def test_it_is_made_in_a_container_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.system.block.wait_for_node", lambda _: None)
    run = FakeRun()
    disks = [Path("/dev/sda"), Path("/dev/sdb")]
    imsm.make(run, ARRAY, Path("/dev/md101"), Path("/dev/md100"), disks)
    assert run.lines == [
        "mdadm --create --config=none --run /dev/md101 --metadata=imsm --raid-devices=2 "
        "/dev/sda /dev/sdb",
        "mdadm --create --config=none --run /dev/md100 --level=raid0 --raid-devices=2 "
        "--name=Volume0 --chunk=64 /dev/md101",
    ]


def test_no_more_is_promised_than_was_made() -> None:
    """The recorded ones have 122 MiB of each disk of 128 MiB, and 506 of 512."""
    assert usable_bytes(ARRAY, [128 * MiB]) == 122 * MiB
    assert usable_bytes(ARRAY, [512 * MiB]) == 506 * MiB
    for gigabytes in (120, 240, 256, 480, 500):  # as drives are sold: no whole MiB
        size = 97_696_368 * 512 + 1_953_504 * 512 * (gigabytes - 50)
        assert usable_bytes(ARRAY, [size]) == (size - 10402 * 512) // MiB * MiB


def test_the_firmware_is_asked() -> None:
    """The words of a machine that has it, as mdadm's manual page and source give them."""
    says = (
        " Platform : Intel(R) Rapid Storage Technology\n RAID Levels : raid0 raid1 raid10 raid5\n"
    )
    assert imsm.has_firmware(FakeRun({"mdadm --detail-platform": says}))
    assert not imsm.has_firmware(FakeRun({"mdadm --detail-platform": 1}))
    assert not imsm.has_firmware(FakeRun({"mdadm --detail-platform": 127}))


@pytest.mark.parametrize("has_it", [True, False])
def test_a_machine_without_it_is_told_so_before_the_first_write(has_it: bool) -> None:
    layout = make_layout()
    template = make_template(type(layout)(nodes=(*layout.nodes, ARRAY_ON_ITS_OWN), volumes=()))
    drive = make_drive()
    inventory = make_inventory(drive, imsm=has_it)
    said = list(objections(inventory, template, make_spec(), {"disk0": drive}))
    assert any("md0 of demo is a volume of Intel's RAID" in one for one in said) is not has_it


ARRAY_ON_ITS_OWN = Array(
    id="md0",
    members=("disk0",),
    level=MdLevel.RAID0,
    metadata=MdMetadata.IMSM,
    uuid=UUID,
    size_bytes=MiB,
)
