"""Exactly one disk must be meant; the first one is never taken for the right one."""

import pytest

from agent.errors import PlanRefused, UsageError, hint_of
from agent.model.inventory import Drive, Found, Transport
from agent.model.job import DiskHints
from agent.planning.hint_words import size_test
from agent.planning.hints import pick_disk
from agent.units import GiB


def make_drive(path: str = "/dev/sda", **changes: object) -> Drive:
    values: dict[str, object] = {
        "path": path,
        "size_bytes": 480 * 10**9,
        "sector_bytes": 512,
        "physical_sector_bytes": 4096,
        "model": "MZ7LH480  Samsung",
        "vendor": "Samsung",
        "serial": f"S-{path[-3:]}",
        "wwn": f"0x5002538e0000{path[-1] * 4}".replace("s", "0"),
        "transport": Transport.SATA,
    }
    return Drive(**{**values, **changes})  # type: ignore[arg-type]


SDA, SDB = make_drive("/dev/sda"), make_drive("/dev/sdb")


def test_the_only_fixed_disk_needs_no_hint() -> None:
    stick = make_drive("/dev/sdc", transport=Transport.USB)
    assert pick_disk(DiskHints(), [stick, SDA]) is SDA


@pytest.mark.parametrize(
    "changes",
    [
        {"transport": Transport.USB},
        {"transport": Transport.USB, "virtual_media": True},
        {"removable": True},
        {"read_only": True},
    ],
)
def test_what_can_be_pulled_out_is_taken_only_by_its_own_name(changes: dict[str, object]) -> None:
    drive = make_drive("/dev/sda", **changes)
    with pytest.raises(PlanRefused, match="none of 1 disks"):
        pick_disk(DiskHints(), [drive])
    with pytest.raises(PlanRefused):
        pick_disk(DiskHints(name="sda"), [drive])
    assert pick_disk(DiskHints(serial="S-sda"), [drive]) is drive


def test_two_that_match_are_refused_with_all_candidates() -> None:
    with pytest.raises(PlanRefused) as refused:
        pick_disk(DiskHints(), [SDA, SDB])
    headline, *rows = refused.value.objections
    assert headline == (
        "2 disks match (no hint given, fixed disks only), one is wanted: /dev/sda, /dev/sdb"
    )
    assert rows[0].startswith("/dev/sda  447.0 GiB  sata  MZ7LH480  Samsung  --disk-wwn 0x500")
    assert all(row.endswith("matches") for row in rows)
    assert "metalcast.disk.wwn=0x5002538e0000bbbb" in (hint_of(refused.value) or "")


def test_none_that_matches_says_why_of_each() -> None:
    raid = make_drive(
        "/dev/sdb", contents=(Found(path="/dev/sdb", what="linux_raid_member", usage="raid"),)
    )
    with pytest.raises(PlanRefused) as refused:
        pick_disk(DiskHints(serial="nobody", size=">=1TiB"), [SDA, raid])
    assert "serial is S-sda; size is 447.0 GiB" in refused.value.objections[1]
    assert "linux_raid_member" in refused.value.objections[2]


def test_twins_with_one_serial_are_told_apart_by_slot() -> None:
    twins = [
        make_drive(f"/dev/sd{letter}", serial="SAME", wwn=None, by_path=f"/dev/disk/by-path/p{n}")
        for n, letter in enumerate("ab")
    ]
    with pytest.raises(PlanRefused, match="2 disks match") as refused:
        pick_disk(DiskHints(serial="SAME"), twins)
    assert "--disk-by-path /dev/disk/by-path/p1" in refused.value.objections[2]
    assert pick_disk(DiskHints(by_path="p1"), twins) is twins[1]


def test_no_disk_at_all_points_at_the_driver() -> None:
    with pytest.raises(PlanRefused, match="driver"):
        pick_disk(DiskHints(), [])


@pytest.mark.parametrize(
    "hints",
    [
        DiskHints(wwn="5002538E0000AAAA"),
        DiskHints(wwn="naa.5002538e0000aaaa"),
        DiskHints(model="mz7lh480 samsung", serial="s-sda"),
        DiskHints(model="<in> LH480", name="/dev/sda"),
        DiskHints(name="sda", rotational=False, transport="sata", size="==480GB"),
        DiskHints(name="sda", size="447"),
    ],
)
def test_every_hint_must_match(hints: DiskHints) -> None:
    assert pick_disk(hints, [SDA, SDB]) is SDA


@pytest.mark.parametrize(
    ("text", "size", "fits"),
    [
        (">=100GiB", 100 * GiB, True),
        (">=100GiB", 100 * GiB - 1, False),
        ("> 100GiB", 100 * GiB, False),
        ("<=2TiB", 2048 * GiB, True),
        ("<2TiB", 2048 * GiB, False),
        ("==480GB", 480_103_981_056, True),
        ("480GB", 500_107_862_016, False),
        ("447", 480_103_981_056, True),
        ("448", 480_103_981_056, False),
    ],
)
def test_sizes(text: str, size: int, fits: bool) -> None:
    assert size_test(text)(size) is fits


@pytest.mark.parametrize("text", ["", "big", ">=", "=>1GiB", "10XB", "-5"])
def test_a_size_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        size_test(text)


def test_a_disk_is_known_by_each_of_its_paths() -> None:
    both = make_drive("/dev/sda", paths=("/dev/sda", "/dev/sdc"))
    other = make_drive("/dev/sdb")
    assert pick_disk(DiskHints(name="/dev/sdc"), [both, other]) == both
    assert pick_disk(DiskHints(name="/dev/sda"), [both, other]) == both
    assert pick_disk(DiskHints(name="/dev/sdb"), [both, other]) == other
