"""What a RAID controller is to be told: volumes wanted, drives that are there, all objections."""

from typing import Any

import pytest

from agent.errors import CommandFailed, PlanRefused, hint_of
from agent.hwraid.plan import choose_card, plan_hardware_raid, render_hardware_raid
from agent.hwraid.storcli import (
    create_words,
    failure_sentence,
    parse_address,
    parse_answer,
    parse_drives,
    parse_pci,
    parse_progress,
    parse_size,
    parse_volumes,
    parse_wwn,
)
from agent.model.hwraid import (
    HardwareRaid,
    NewVolume,
    PhysicalDrive,
    RaidCard,
    RaidLevel,
    VirtualDrive,
)
from agent.model.inventory import Drive, Found
from agent.model.job import DeploySpec
from agent.model.wire import BadDocument, convert
from agent.units import GiB

WWN = "0x600605b010e943702a3372bf4d29f6a7"


def make_drive(slot: int, **changes: Any) -> PhysicalDrive:
    values = {
        "address": f"252:{slot}",
        "state": "UGood",
        "group": None,
        "size_bytes": 446 * GiB,
        "interface": "SATA",
        "medium": "SSD",
        "model": "EXAMPLE",
    }
    return PhysicalDrive(**{**values, **changes})


def make_volume(number: int, *slots: int, **changes: Any) -> VirtualDrive:
    values: dict[str, Any] = {
        "number": number,
        "level": "RAID1",
        "state": "Optl",
        "size_bytes": 446 * GiB,
        "name": f"v{number}",
        "drives": tuple(f"252:{slot}" for slot in slots),
        "wwn": WWN[:-1] + str(number),
    }
    return VirtualDrive(**{**values, **changes})


def make_card(*drives: PhysicalDrive, volumes: tuple[VirtualDrive, ...] = ()) -> RaidCard:
    return RaidCard(number=0, model="MegaRAID", drives=drives, volumes=volumes)


def make_disk(volume: VirtualDrive, **changes: Any) -> Drive:
    values = {"path": "/dev/sda", "size_bytes": 1, "sector_bytes": 512, "wwn": volume.wwn}
    return Drive(**{**values, "physical_sector_bytes": 512, **changes})


def wanted(*volumes: dict[str, Any], **more: Any) -> HardwareRaid:
    made: HardwareRaid = convert({"volumes": volumes, **more}, HardwareRaid, "raid")
    return made


def of(*slots: int, level: str = "raid1", name: str = "os") -> dict[str, Any]:
    return {"name": name, "level": level, "drives": [f"252:{slot}" for slot in slots]}


def refused(asked: HardwareRaid, card: RaidCard, *disks: Drive, consent: str = "") -> list[str]:
    with pytest.raises(PlanRefused) as caught:
        plan_hardware_raid(asked, card, disks, consent.split())
    return list(caught.value.objections)


FOUR = tuple(make_drive(slot) for slot in range(4))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"state": "JBOD"}, "os: drive 252:1 is shown to the system as a disk of its own (JBOD)"),
        ({"state": "UBad"}, "os: drive 252:1 is bad, the controller says"),
        ({"state": "Xyz"}, "os: drive 252:1 is in the state Xyz, not UGood"),
        ({"state": "GHS"}, "os: drive 252:1 is a global hot spare"),
        (
            {"group": "F"},
            "os: drive 252:1 belongs to a foreign configuration, made by another controller: "
            "import or delete that by hand",
        ),
        ({"group": "3"}, "os: drive 252:1 is in drive group 3"),
        (
            {"size_bytes": 931 * GiB},
            "os: its drives have different sizes: 446.0 GiB, 931.0 GiB",
        ),
        ({"medium": "HDD"}, "os: its drives have different kinds: SATA HDD, SATA SSD"),
        ({"sector_bytes": 4096}, "os: its drives have different sectors: 512 bytes, 4096 bytes"),
    ],
)
def test_a_drive_that_will_not_do_is_refused(change: dict[str, Any], says: str) -> None:
    card = make_card(make_drive(0), make_drive(1, **change))
    assert refused(wanted(of(0, 1)), card) == [says]


@pytest.mark.parametrize(
    ("level", "count", "says"),
    [
        ("raid1", 1, "needs 2 drives or more, not 1"),
        ("raid1", 3, "needs an even number of drives, not 3"),
        ("raid5", 2, "needs 3 drives or more, not 2"),
        ("raid6", 3, "needs 4 drives or more, not 3"),
        ("raid10", 2, "needs 4 drives or more, not 2"),
    ],
)
def test_each_level_has_its_least_drives(level: str, count: int, says: str) -> None:
    assert refused(wanted(of(*range(count), level=level)), make_card(*FOUR)) == [
        f"os: {level} {says}"
    ]


def test_a_drive_in_a_volume_needs_replace_and_the_rest_of_the_controller_stays() -> None:
    used = [make_drive(slot, state="Onln", group=str(slot // 2)) for slot in range(4)]
    first, second = make_volume(0, 0, 1), make_volume(1, 2, 3)
    card = make_card(*used, volumes=(first, second))
    disks = [make_disk(first), make_disk(second, path="/dev/sdb")]
    assert refused(wanted(of(0, 1)), card, *disks) == [
        "c0/v0 (v0) holds drives that are wanted: say replace to have it deleted"
    ]
    plan = plan_hardware_raid(wanted(of(0, 1), replace=True), card, disks, ())
    assert (plan.delete, [new.name for new in plan.create]) == ((first,), ["os"])


def test_a_slice_of_the_same_drives_goes_with_its_brother() -> None:
    used = [make_drive(slot, state="Onln", group="0") for slot in range(2)]
    slices = (make_volume(0, 0, 1), make_volume(1, 0, 1))
    card = make_card(*used, volumes=slices)
    disks = [make_disk(slices[0]), make_disk(slices[1], path="/dev/sdb")]
    assert plan_hardware_raid(wanted(of(0, 1), replace=True), card, disks, ()).delete == slices


def test_consent_is_asked_for_what_a_volume_holds() -> None:
    used = [make_drive(slot, state="Onln", group="0") for slot in range(2)]
    volume = make_volume(0, 0, 1)
    card = make_card(*used, volumes=(volume,))
    held = [Found(path="/dev/sda2", what="crypto_LUKS", usage="crypto")]
    disk = make_disk(volume, contents=tuple(held))
    asked = wanted(of(0, 1), replace=True)
    assert refused(asked, card, disk) == [
        "c0/v0 (v0) is /dev/sda and holds crypto_LUKS (/dev/sda2): it is deleted only with the "
        "consent crypto_LUKS or c0/v0"
    ]
    for consent in ("crypto_LUKS", "c0/v0"):
        assert plan_hardware_raid(asked, card, [disk], [consent]).delete == (volume,)
    assert refused(asked, card, consent="crypto_LUKS") == [
        "c0/v0 (v0) is no disk that the system sees, so what it holds is unknown: it is deleted "
        "only with the consent c0/v0"
    ]


def test_a_volume_in_use_is_never_deleted() -> None:
    used = [make_drive(slot, state="Onln", group="0") for slot in range(2)]
    volume = make_volume(0, 0, 1)
    disk = make_disk(volume, users=("/mnt",))
    card = make_card(*used, volumes=(volume,))
    assert refused(wanted(of(0, 1), replace=True), card, disk, consent="c0/v0") == [
        "c0/v0 is /dev/sda, in use by /mnt"
    ]


def test_a_failed_member_is_not_used_again() -> None:
    used = (make_drive(0, state="Onln", group="0"), make_drive(1, state="Failed", group="0"))
    volume = make_volume(0, 0, 1, state="Dgrd")
    card = make_card(*used, volumes=(volume,))
    assert refused(wanted(of(0, 1), replace=True), card, make_disk(volume)) == [
        "os: drive 252:1 has failed"
    ]


def test_what_is_as_wanted_stays() -> None:
    used = [make_drive(slot, state="Onln", group="0") for slot in range(2)]
    volume = make_volume(5, 0, 1, name="os")
    card = make_card(*used, volumes=(volume,))
    plan = plan_hardware_raid(wanted(of(1, 0), replace=True), card, (), ())
    assert (plan.delete, plan.create, plan.keep) == ((), (), (volume,))
    assert render_hardware_raid(plan).endswith("keep    c0/v5 os, as wanted")


def test_a_name_that_another_volume_has_is_refused() -> None:
    used = [make_drive(slot, state="Onln", group="0") for slot in range(2)]
    card = make_card(*used, *FOUR[2:], volumes=(make_volume(0, 0, 1, name="os"),))
    assert refused(wanted(of(2, 3)), card) == [
        "c0/v0 is called os already, and is not as it is wanted"
    ]


def test_free_drives_are_taken_by_count_from_the_lowest_slots() -> None:
    card = make_card(*reversed(FOUR), make_drive(9, state="JBOD"))
    asked = wanted({"name": "os", "level": "raid1", "count": 2}, of(0, level="raid0", name="x"))
    plan = plan_hardware_raid(asked, card, (), ())
    assert [new.drives for new in plan.create] == [("252:1", "252:2"), ("252:0",)]


def test_a_count_that_could_mean_two_kinds_is_refused() -> None:
    large = [make_drive(slot, size_bytes=931 * GiB) for slot in (4, 5)]
    card = make_card(*FOUR, *large)
    count = {"name": "os", "level": "raid1", "count": 2}
    assert refused(wanted(count), card) == [
        "os: 2 free drives could be 446.0 GiB SATA SSD, 931.0 GiB SATA SSD: say drive_size, or "
        "name them"
    ]
    plan = plan_hardware_raid(wanted({**count, "drive_size": ">=900GiB"}), card, (), ())
    assert plan.create[0].drives == ("252:4", "252:5")
    assert refused(wanted({**count, "count": 5}), card) == [
        "os needs 5 free drives that are alike, there are 6 free; name drives to take them from "
        "volumes"
    ]


def test_all_drives_are_listed_with_a_refusal() -> None:
    with pytest.raises(PlanRefused) as caught:
        plan_hardware_raid(wanted(of(0, 9)), make_card(*FOUR), (), ())
    assert "252:3  UGood  446.0 GiB  SATA SSD  EXAMPLE  -" in (hint_of(caught.value) or "")


def test_the_controller_is_named_if_there_are_several() -> None:
    cards = [make_card(), RaidCard(number=1, model="PERC")]
    with pytest.raises(PlanRefused, match="2 controllers"):
        choose_card(wanted(of(0, 1)), cards)
    assert choose_card(wanted(of(0, 1), controller=1), cards) is cards[1]
    with pytest.raises(PlanRefused, match="no controller c7"):
        choose_card(wanted(of(0, 1), controller=7), cards)
    with pytest.raises(PlanRefused, match="no controller was found"):
        choose_card(wanted(of(0, 1)), [])


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({**of(0, 1), "count": 2}, "say `drives` or `count`"),
        ({"name": "os", "level": "raid1"}, "say `drives` or `count`"),
        ({**of(0, 0)}, "named twice"),
        ({**of(0, 1), "strip_kib": 100}, "strip_kib"),
        ({**of(0, 1), "name": "a name"}, "name"),
        ({**of(0, 1), "name": "os drives=252:5"}, "name"),
        ({**of(0, 1), "level": "raid50"}, "level"),
        ({**of(0, 1), "drives": ["252:0;reboot", "252:1"]}, "drives"),
    ],
)
def test_a_wish_outside_the_grammar(document: dict[str, Any], says: str) -> None:
    with pytest.raises(BadDocument, match=says):
        wanted(document)
    with pytest.raises(BadDocument, match="given to two volumes"):
        wanted(of(0, 1), of(1, 2, name="other"))


def test_words_of_a_new_volume() -> None:
    new = NewVolume(name="os", level=RaidLevel.RAID5, drives=("252:0", "252:1", "4"))
    assert " ".join(create_words(new)) == (
        "add vd type=raid5 size=all name=os drives=252:0,252:1,4"
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("446.625 GB", int(446.625 * GiB)),
        ("1.090 TB", int(1.090 * 1024 * GiB)),
        ("256 KB", 256 * 1024),
        ("64KB", 64 * 1024),
        ("1.5 PB", int(1.5 * 1024**2 * GiB)),
    ],
)
def test_sizes_of_the_tool(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-", "big", None, "1.2.3 GB", "5 XB", "1e5 GB"])
def test_sizes_that_are_none(text: str | None) -> None:
    with pytest.raises(CommandFailed, match="gives a size"):
        parse_size(text)


def test_addresses_and_names() -> None:
    assert [parse_address(text) for text in ("252:0", " :4", "8:11")] == ["252:0", "4", "8:11"]
    with pytest.raises(CommandFailed, match="no ENCLOSURE:SLOT"):
        parse_address("252:0 reboot")
    assert parse_pci("00:af:00:00") == "0000:af:00.0"
    assert parse_pci("somewhere") is None
    assert parse_wwn("naa.600605B010E943702A3372BF4D29F6A7") == WWN
    assert parse_wwn("N/A") is None
    assert parse_wwn(None) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not json",
        b"{",
        b"[]",
        b'{"Controllers": 5}',
        b'{"Controllers": [{}]}',
        b'{"Controllers": [7]}',
        b'{"Controllers": [{"Command Status": 7}]}',
        b'{"Controllers": [{"Command Status": {"Controller": "x", "Status": "Success"}}]}',
        b"[" * 100_000,
    ],
)
def test_what_is_not_the_tools_json_is_an_error(data: bytes) -> None:
    with pytest.raises(CommandFailed, match="not the JSON that we know"):
        parse_answer("storcli64 /call show", data)


def test_a_greeting_before_the_json_is_passed_over() -> None:
    answer = (
        b'Hello.\n{"Controllers": [{"Command Status": {"Controller": 3, "Status": "Success"}}]}'
    )
    assert parse_answer("x", answer) == [(3, {})]


@pytest.mark.parametrize(
    ("details", "sentence"),
    [
        (None, "Delete VD failed"),
        ([{"VD": 0, "Status": "Failed", "ErrCd": 255, "ErrMsg": "busy."}],
         "Delete VD failed: VD 0: busy (error 255)"),
        ([{"Drive": "/c0/e4/s3", "Status": "Failure", "ErrCd": 45, "ErrMsg": "-"}],
         "Delete VD failed: Drive /c0/e4/s3: (error 45)"),
        ([{"VD": 0, "Status": "Success"}, {"VD": 1, "Status": "Failed"}],
         "Delete VD failed: VD 1: Failed"),
        (["nonsense"], "Delete VD failed"),
    ],
)  # fmt: skip
def test_a_failure_is_a_sentence(details: Any, sentence: str) -> None:
    status = {"Status": "Failure", "Description": "Delete VD failed.", "Detailed Status": details}
    assert failure_sentence(status) == sentence


def test_rows_that_are_none_are_passed_over() -> None:
    assert parse_drives({}) == ()
    assert parse_drives({"Drive Information": ["x"]}) == ()
    assert parse_volumes({"/c0/v0": [], "VD0 Properties": {}}) == ()
    bare = {"/c0/v0": [{"TYPE": "RAID0", "State": "Optl", "Size": "1.000 TB", "Name": ""}]}
    (volume,) = parse_volumes(bare)
    assert (volume.size_bytes, volume.wwn, volume.drives) == (1024 * GiB, None, ())


@pytest.mark.parametrize(
    ("row", "percent"),
    [
        ({"Progress%": 39, "Status": "In progress"}, 39),
        ({"Progress%": "-", "Status": "In progress"}, 0),
        ({"Progress%": "-", "Status": "Not in progress"}, None),
    ],
)
def test_progress(row: dict[str, Any], percent: int | None) -> None:
    assert parse_progress([row]) == percent
    assert parse_progress({}) is None


def test_a_volume_that_becomes_a_disk_leaves_no_room_for_hints_about_it() -> None:
    job = {"kind": "deploy", "template": "a", "hardware_raid": {"volumes": [of(0, 1)]}}
    assert convert({**job, "disk": {"serial": "x"}}, DeploySpec, "job").hardware_raid
    with_role = {**job, "hardware_raid": {"volumes": [{**of(0, 1), "role": "disk0"}]}}
    with pytest.raises(BadDocument, match="one of them"):
        convert({**with_role, "disk": {"serial": "x"}}, DeploySpec, "job")
