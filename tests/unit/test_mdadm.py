"""md arrays: how they are made, which members make one, what speaks against reading it."""

import dataclasses
from pathlib import Path

import msgspec
import pytest

from agent.errors import DiskError
from agent.model.md_size import earlier_offset, held_bytes
from agent.model.nodes import Array, MdLevel, MdMetadata
from agent.tools import mdadm
from agent.units import GiB, KiB, MiB

UUID = "11111111:22222222:33333333:4444abcd"
ARRAY = Array(
    id="md0",
    members=("disk0p1", "disk1p1", None),
    level=MdLevel.RAID5,
    metadata=MdMetadata.V1_2,
    chunk_bytes=64 * KiB,
    layout="left-symmetric",
    uuid=UUID,
    name="web1:root",
    bitmap=True,
    size_bytes=20 * MiB,
)
MEMBER = mdadm.MdMember(
    uuid=UUID,
    name="web1:root",
    level=MdLevel.RAID5,
    metadata=MdMetadata.V1_2,
    chunk_bytes=64 * KiB,
    layout="left-symmetric",
    raid_devices=3,
    slot=0,
    array_bytes=20 * MiB,
    area_bytes=10 * MiB,
    data_offset_bytes=MiB,
    device_bytes=12 * MiB,
    events=40,
    clean=True,
    bitmap=True,
    reshaping=False,
    recovering=False,
)


def words(array: Array, devices: int = 3, **options: object) -> str:
    paths = [Path(f"/dev/sd{letter}1") for letter in "abcdefgh"[:devices]]
    every = {
        "size_bytes": None,
        "data_offset_bytes": None,
        "zeroes": False,
        "equal": True,
        "spares": (),
        **options,
    }
    made = mdadm.make_words(array, Path("/dev/md100"), paths, **every)  # type: ignore[arg-type]
    return " ".join(str(word) for word in made)


def changed(array: Array, **fields: object) -> Array:
    return msgspec.structs.replace(array, **fields)


def members(*slots: int | None, **fields: object) -> list[tuple[str, mdadm.MdMember]]:
    base = dataclasses.replace(MEMBER, **fields)  # type: ignore[arg-type]
    return [
        (f"disk{number}p1", dataclasses.replace(base, slot=slot))
        for number, slot in enumerate(slots)
    ]


def only(found: tuple[mdadm.FoundArray, ...]) -> mdadm.FoundArray:
    assert len(found) == 1
    return found[0]


def test_an_array_keeps_all_that_is_known_of_it() -> None:
    made = words(ARRAY, size_bytes=10 * MiB, data_offset_bytes=MiB, zeroes=True)
    assert made == (
        "mdadm --create /dev/md100 --config=none --run --level raid5 --metadata 1.2 "
        f"--uuid {UUID} --homehost=web1 --name=root --chunk=64 --layout=left-symmetric "
        "--bitmap=internal --size=10240K --data-offset=1024K --write-zeroes --raid-devices=3 "
        "/dev/sda1 /dev/sdb1 /dev/sdc1"
    )


def test_a_missing_member_and_a_spare() -> None:
    made = mdadm.make_words(
        ARRAY,
        Path("/dev/md100"),
        [Path("/dev/sda"), None, Path("/dev/sdb")],
        [Path("/dev/sdc")],
        size_bytes=None,
        data_offset_bytes=None,
        zeroes=False,
        equal=True,
    )
    assert made[-6:] == [
        "--raid-devices=3",
        "--spare-devices=1",
        Path("/dev/sda"),
        "missing",
        Path("/dev/sdb"),
        Path("/dev/sdc"),
    ]
    assert "--write-zeroes" not in made
    assert "--assume-clean" not in made


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("web1:root", "--homehost=web1 --name=root "),
        ("root", "--homehost=<none> --name=root "),
        ("", "--homehost=<none> "),
    ],
)
def test_the_name_is_kept_to_the_letter(name: str, expected: str) -> None:
    assert expected in words(changed(ARRAY, name=name))


@pytest.mark.parametrize("name", ["a+b", "web1:.hidden", ":0", "a:b:c", "x" * 32])
def test_a_name_that_mdadm_refuses_is_refused_first(name: str) -> None:
    with pytest.raises(DiskError):
        words(changed(ARRAY, name=name))


def test_layouts() -> None:
    ten = changed(ARRAY, level=MdLevel.RAID10, layout="far=2")
    assert "--layout=f2 " in words(ten)
    striped = changed(ARRAY, level=MdLevel.RAID0, layout="", bitmap=False)
    assert "--layout=dangerous " in words(striped)
    assert "--layout=alternate " in words(striped, equal=False)
    assert "--layout=original " in words(changed(striped, layout="original"), equal=False)
    assert "--bitmap" not in words(striped)
    with pytest.raises(DiskError, match="members of one size"):
        words(changed(striped, metadata=MdMetadata.V0_90), equal=False)


def test_a_mirror_of_one() -> None:
    one = changed(ARRAY, level=MdLevel.RAID1, members=("disk0",), layout="", chunk_bytes=0)
    assert words(one, 1).endswith("--bitmap=internal --force --raid-devices=1 /dev/sda1")


@pytest.mark.parametrize(
    ("level", "layout", "slots", "areas", "expected"),
    [
        (MdLevel.LINEAR, "", 2, [10, 7], 17 * 64),
        (MdLevel.RAID0, "", 2, [10, 7], 17 * 64),
        (MdLevel.RAID1, "", 2, [10, 7], 7 * 64),
        (MdLevel.RAID5, "", 3, [10, 7, 9], 14 * 64),
        (MdLevel.RAID6, "", 4, [10, 7, 9], 14 * 64),
        (MdLevel.RAID10, "near=2", 3, [7, 7, 7], 10 * 64),
        (MdLevel.RAID10, "far=2", 4, [7, 7, 7, 7], 6 * 128),
    ],
)
def test_what_an_array_holds(
    level: MdLevel, layout: str, slots: int, areas: list[int], expected: int
) -> None:
    areas = [area * 64 * KiB for area in areas]
    assert held_bytes(level, layout, 64 * KiB, slots, areas) == expected * KiB


def test_members_too_small_hold_nothing() -> None:
    for metadata in MdMetadata:
        assert mdadm.usable_bytes(changed(ARRAY, metadata=metadata), [60 * KiB] * 3) == 0


def test_most_of_a_large_member_is_used() -> None:
    sizes = [4000 * GiB] * 3
    assert mdadm.usable_bytes(ARRAY, sizes) > 2 * 3999 * GiB
    old = changed(ARRAY, metadata=MdMetadata.V0_90)
    assert mdadm.usable_bytes(old, sizes) == 2 * 2048 * GiB


def test_members_are_put_in_the_order_of_their_slots() -> None:
    found = only(mdadm.find_arrays(members(2, None, 0, 1)))
    assert found.array is not None
    assert found.array.members == ("disk2p1", "disk3p1", "disk0p1")
    assert found.array.spares == ("disk1p1",)
    assert found.array.size_bytes == 20 * MiB
    assert found.unfit == ()
    assert found.notes == ()
    assert found.data_offset_bytes == MiB


def test_one_missing_is_worth_a_note_two_are_too_many() -> None:
    found = only(mdadm.find_arrays(members(0, 2)))
    assert found.array is not None
    assert found.array.members == ("disk0p1", None, "disk1p1")
    assert found.unfit == ()
    assert found.notes == ("the array web1:root is degraded: 1 of its members are missing",)
    found = only(mdadm.find_arrays(members(1)))
    assert found.unfit == (
        "the array web1:root cannot run: of its 3 members those numbered 0, 2 are missing",
    )


def test_two_mirrors_side_by_side_may_each_lose_a_leg() -> None:
    ten = {"level": MdLevel.RAID10, "layout": "near=2", "raid_devices": 4}
    assert only(mdadm.find_arrays(members(0, 3, **ten))).unfit == ()
    (why,) = only(mdadm.find_arrays(members(0, 1, **ten))).unfit
    assert "cannot run" in why


def test_an_older_generation_is_left_out_and_told() -> None:
    both = members(0, 1, 2)
    both[1] = (both[1][0], dataclasses.replace(both[1][1], events=12))
    found = only(mdadm.find_arrays(both))
    assert found.array is not None
    assert found.array.members == ("disk0p1", None, "disk2p1")
    assert found.unfit == (
        "disk1p1 is an older state of the array web1:root (12 events, the newest has 40): it "
        "dropped out, or was exchanged",
    )
    assert found.parts == ("disk0p1", "disk1p1", "disk2p1")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"clean": False}, "was not stopped cleanly"),
        ({"reshaping": True}, "is being reshaped"),
        ({"recovering": True}, "is being rebuilt"),
        ({"trouble": ("has known bad blocks",)}, "disk0p1 has known bad blocks"),
    ],
)
def test_what_is_unfit_is_told(fields: dict[str, object], words: str) -> None:
    unfit = only(mdadm.find_arrays(members(0, 1, 2, **fields))).unfit
    assert words in unfit[0]


def test_two_members_in_one_slot() -> None:
    (why,) = only(mdadm.find_arrays(members(0, 1, 2, 2))).unfit
    assert why == "disk3p1 and disk2p1 both say that they are member 2"


def test_an_old_superblock_of_the_last_partition_is_not_the_disks() -> None:
    """0.90 lies at the end: the disk and its last partition end at one place."""
    old = members(0, 1, 2, metadata=MdMetadata.V0_90)
    disk = ("disk1", dataclasses.replace(old[1][1], device_bytes=50 * MiB))
    found = only(mdadm.find_arrays([disk, *old]))
    assert found.array is not None
    assert found.array.members == ("disk0p1", "disk1p1", "disk2p1")
    assert found.unfit == ()


def test_a_striped_array_of_unequal_members_needs_a_layout() -> None:
    zero = {"level": MdLevel.RAID0, "layout": "", "raid_devices": 2}
    two = members(0, 1, **zero)
    assert only(mdadm.find_arrays(two)).unfit == ()
    two[1] = (two[1][0], dataclasses.replace(two[1][1], area_bytes=30 * MiB))
    (why,) = only(mdadm.find_arrays(two)).unfit
    assert "layout is not recorded" in why


@pytest.mark.parametrize(
    ("metadata", "missing", "expected"),
    [
        (MdMetadata.V1_2, 2 * MiB, 64 * MiB),
        (MdMetadata.V1_2, 2 * 20 * MiB + 5 * KiB, 44 * MiB),
        (MdMetadata.V1_1, 2 * 64 * MiB, MiB),
        (MdMetadata.V1_1, 2 * 64 * MiB + KiB, 256 * KiB),
        (MdMetadata.V1_2, 2 * 65 * MiB, None),
        (MdMetadata.V1_0, MiB, None),
    ],
)
def test_where_the_data_must_begin_to_hold_more(
    metadata: MdMetadata, missing: int, expected: int | None
) -> None:
    array = changed(ARRAY, metadata=metadata, size_bytes=200 * GiB)
    assert earlier_offset(array, [100 * GiB] * 3, 65 * MiB, missing) == expected
