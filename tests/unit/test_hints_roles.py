"""Several roles, several disks: each choice is forced, or nothing is chosen."""

import itertools
import shlex

import pytest

from agent.errors import PlanRefused, UsageError, hint_of
from agent.model.disk_words import parse_role_hints
from agent.model.inventory import Drive, Transport
from agent.model.job import DiskHints
from agent.planning.hint_words import size_test, text_test
from agent.planning.hints import pick_disk
from agent.planning.roles import asked_roles, pick_disks
from agent.units import GiB

ANY = DiskHints()


def make_drive(name: str, **changes: object) -> Drive:
    values: dict[str, object] = {
        "path": f"/dev/{name}",
        "size_bytes": 100 * GiB,
        "sector_bytes": 512,
        "physical_sector_bytes": 4096,
        "model": "MZ7LH480",
        "vendor": "Samsung",
        "serial": f"S-{name}",
        "wwn": f"0x5002538e0000{ord(name[-1]):04x}",
        "transport": Transport.SATA,
    }
    return Drive(**{**values, **changes})  # type: ignore[arg-type]


A, B, C = (make_drive(f"sd{letter}") for letter in "abc")


def test_each_role_gets_the_disk_that_its_hints_mean() -> None:
    roles = {"disk0": DiskHints(serial="S-sdb"), "disk1": DiskHints(wwn=A.wwn)}
    assert pick_disks(roles, [A, B, C]) == {"disk0": B, "disk1": A}


def test_two_roles_never_get_one_disk() -> None:
    roles = {"disk0": DiskHints(serial="S-sda"), "disk1": DiskHints(name="sda")}
    with pytest.raises(PlanRefused) as refused:
        pick_disks(roles, [A, B])
    text = "\n".join(refused.value.objections)
    assert "disk1: none of 2 disks is the one meant (name=sda)" in text
    assert "becomes disk0" in text


def test_a_disk_that_is_named_for_one_role_is_no_candidate_of_another() -> None:
    roles = {"disk0": DiskHints(model="MZ7LH480"), "disk1": DiskHints(serial="S-sda")}
    assert pick_disks(roles, [A, B]) == {"disk0": B, "disk1": A}


def test_what_is_left_to_chance_is_refused_with_the_argument_for_each_candidate() -> None:
    roles = {"disk0": DiskHints(serial="S-sda"), "disk1": ANY}
    with pytest.raises(PlanRefused) as refused:
        pick_disks(roles, [A, B, C])
    headline, *rows = refused.value.objections
    assert headline == (
        "disk1: 2 disks match (no hint given, fixed disks only), one is wanted: /dev/sdb, /dev/sdc"
    )
    assert "--disk disk1:wwn=0x5002538e00000062" in rows[1]
    assert hint_of(refused.value) == (
        "name the disk: --disk disk1:wwn=0x5002538e00000062 or --disk disk1:wwn=0x5002538e00000063"
    )


def test_the_arguments_of_the_tables_can_be_pasted_and_choose_what_they_say() -> None:
    """A template knows no serials, so several disks are named at each deployment."""
    odd = 'A "B" $C\'s'
    slot = "/dev/disk/by-path/pci-0000:00:1f.2-ata-1"
    drives = [
        A,
        make_drive("sdb", wwn=None),
        make_drive("sdc", wwn=None, serial="with blanks  in it"),
        make_drive("sdd", wwn=None, serial=odd),
        make_drive("sde", wwn=None, serial=None, by_path=slot),
        make_drive("sdf", wwn=None, serial=None, hctl="0:2:1:0"),
        make_drive("sdg", wwn=None, serial=None),
    ]
    roles = tuple(f"disk{number}" for number in range(len(drives)))
    with pytest.raises(PlanRefused) as refused:
        pick_disks(dict.fromkeys(roles, ANY), drives)
    words: list[str] = []
    for number, role in enumerate(roles):
        rows = [row for row in refused.value.objections if f"{role}:" in row and "  " in row]
        assert len(rows) == len(drives)
        pasted = shlex.split(rows[number][rows[number].index("--disk ") :])
        assert rows[number].startswith(drives[number].path)
        words.append(pasted[1])
    asked = {role: DiskHints(**hints) for role, hints in parse_role_hints(words).items()}
    assert pick_disks(asked, drives) == dict(zip(roles, drives, strict=True))


def test_every_role_that_is_open_has_its_table() -> None:
    with pytest.raises(PlanRefused) as refused:
        pick_disks({"disk0": ANY, "disk1": ANY}, [A, B])
    heads = [line for line in refused.value.objections if line.startswith("disk")]
    assert [head.partition(":")[0] for head in heads] == ["disk0", "disk1"]


def test_the_last_disk_needs_no_hint() -> None:
    stick = make_drive("sdd", transport=Transport.USB)
    roles = {"disk0": DiskHints(serial="S-sda"), "disk1": ANY}
    assert pick_disks(roles, [stick, A, B]) == {"disk0": A, "disk1": B}


def test_sizes_and_kinds_can_leave_one_choice() -> None:
    small, large = make_drive("sda"), make_drive("sdb", size_bytes=400 * GiB)
    roles = {"disk0": ANY, "disk1": ANY}
    needs = {"disk0": 50 * GiB, "disk1": 300 * GiB}
    assert pick_disks(roles, [small, large], needs=needs) == {"disk0": small, "disk1": large}
    flash, turning = make_drive("sda"), make_drive("sdb", rotational=True)
    sources = {
        "disk0": make_drive("sdx", rotational=True, wwn="0x1"),
        "disk1": make_drive("sdy", wwn="0x2"),
    }
    chosen = pick_disks(roles, [flash, turning], sources=sources)
    assert chosen == {"disk0": turning, "disk1": flash}


def test_the_disks_that_were_captured_are_known_again() -> None:
    sources = {"disk0": B, "disk1": A}
    roles = {"disk0": ANY, "disk1": ANY}
    assert pick_disks(roles, [A, B, C], sources=sources) == {"disk0": B, "disk1": A}


def test_a_disk_of_the_same_serial_but_another_wwn_is_another_disk() -> None:
    twin = make_drive("sda", wwn="0x5002538e0000ffff")
    with pytest.raises(PlanRefused):
        pick_disks({"disk0": ANY}, [twin, B], sources={"disk0": A})


def test_members_of_one_mirror_are_told_apart_by_wwn_in_whatever_order_they_come() -> None:
    roles = {"disk0": ANY, "disk1": ANY}
    group = [frozenset(roles)]
    for order in itertools.permutations([A, B]):
        assert pick_disks(roles, order, interchangeable=group) == {"disk0": A, "disk1": B}
    with pytest.raises(PlanRefused, match="3 disks match"):
        pick_disks(roles, [A, B, C], interchangeable=group)
    with pytest.raises(PlanRefused):
        pick_disks(roles, [A], interchangeable=group)


def test_members_share_their_hints_too() -> None:
    same = DiskHints(model="MZ7LH480")
    other = make_drive("sdd", model="Other")
    roles = {"disk0": same, "disk1": same, "disk2": ANY}
    chosen = pick_disks(roles, [other, B, A], interchangeable=[frozenset({"disk0", "disk1"})])
    assert chosen == {"disk0": A, "disk1": B, "disk2": other}


def test_the_order_of_the_drives_never_matters() -> None:
    roles = {"disk0": DiskHints(size=">=200GiB"), "disk1": ANY, "disk2": DiskHints(name="sdc")}
    big = make_drive("sdd", size_bytes=300 * GiB)
    found = {
        tuple(sorted((role, drive.path) for role, drive in pick_disks(roles, order).items()))
        for order in itertools.permutations([A, C, big])
    }
    assert found == {(("disk0", "/dev/sdd"), ("disk1", "/dev/sda"), ("disk2", "/dev/sdc"))}


def test_a_role_that_the_layout_does_not_have_is_refused() -> None:
    ids = ["disk0", "disk1"]
    assert asked_roles(DiskHints(name="sda"), None, ids) == {
        "disk0": DiskHints(name="sda"),
        "disk1": ANY,
    }
    assert asked_roles(ANY, {"disk1": DiskHints(serial="X")}, ids)["disk1"].serial == "X"
    with pytest.raises(PlanRefused, match="no disk disk7"):
        asked_roles(ANY, {"disk7": ANY}, ids)


def test_no_disk_at_all_points_at_the_driver() -> None:
    with pytest.raises(PlanRefused, match="driver"):
        pick_disks({"disk0": ANY, "disk1": ANY}, [])


@pytest.mark.parametrize(
    ("name", "text", "has", "fits"),
    [
        ("model", "mz7lh480", "MZ7LH480", True),
        ("model", "<in> LH", "MZ7LH480", True),
        ("model", "s== mz7LH480", "MZ7LH480", True),
        ("model", "s!= MZ7LH480", "MZ7LH480", False),
        ("model", "s!= Other", "MZ7LH480", True),
        ("serial", "s>= B", "C1", True),
        ("serial", "s< B", "C1", False),
        ("vendor", "<or> Toshiba <or> SAMSUNG", "Samsung", True),
        ("vendor", "<or> Toshiba <or> Hitachi", "Samsung", False),
        ("model", "<all-in> samsung 480", "Samsung MZ7LH480", True),
        ("model", "<all-in> samsung 960", "Samsung MZ7LH480", False),
        ("wwn", "s== naa.5002538E0000AAAA", "0x5002538e0000aaaa", True),
        ("wwn", "0x600605b010e94370", "0x600605b010e943702a3372bf4d29f6a7", True),
        ("wwn", "0x600605b010e94371", "0x600605b010e943702a3372bf4d29f6a7", False),
        ("by_path", "<in> ata-1", "/dev/disk/by-path/pci-0000:00:1f.2-ata-1", True),
        ("transport", "<or> sas <or> sata", "sata", True),
        ("name", "/dev/sda", "sda", True),
        ("hctl", "0:0:0:0", "0:0:0:0", True),
    ],
)
def test_ironics_operators_for_text(name: str, text: str, has: str, fits: bool) -> None:
    assert text_test(name, text)(has) is fits


@pytest.mark.parametrize("text", ["== X", ">= X", "<range-in> [ 1 2 ]", "<foo> X", "s==", "<in>"])
def test_operators_that_are_none_for_text(text: str) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        text_test("model", text)


@pytest.mark.parametrize(
    ("text", "gib", "fits"),
    [
        ("<range-in> [ 10 100 ]", 100, True),
        ("<range-in> [ 10 100 )", 100, False),
        ("<range-in> ( 10 100 ]", 10, False),
        ("<range-in> (10GiB 1TiB)", 500, True),
        ("!= 100", 100, False),
        ("!= 100", 101, True),
    ],
)
def test_ironics_operators_for_sizes(text: str, gib: int, fits: bool) -> None:
    assert size_test(text)(gib * GiB) is fits


@pytest.mark.parametrize(
    ("hints", "taken"),
    [
        (DiskHints(serial="s== S-sda"), True),
        (DiskHints(serial="<in> sda"), False),
        (DiskHints(serial="s!= other"), False),
        (DiskHints(wwn="<or> 0x1 <or> 0x2"), False),
    ],
)
def test_only_a_whole_serial_takes_a_stick(hints: DiskHints, taken: bool) -> None:
    stick = make_drive("sda", transport=Transport.USB)
    if taken:
        assert pick_disk(hints, [stick]) is stick
    else:
        with pytest.raises(PlanRefused, match="none of 1 disks"):
            pick_disk(hints, [stick])
