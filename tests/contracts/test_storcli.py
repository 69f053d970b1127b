"""The RAID controller's tool, driven as a program: a fake of ours that keeps state.

Nothing here was shown on a real controller; the fake answers in the real tool's documented form.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.errors import CommandFailed, DiskState, PlanRefused, StepFailed, hint_of, reasons
from agent.flows.hwraid import Prepared, prepare_hardware_raid
from agent.hwraid.storcli import Storcli, find_storcli
from agent.model.event import Happening, Logged
from agent.model.hwraid import Initialization, NewVolume, RaidLevel
from agent.model.inventory import Drive, Found, Transport
from agent.model.job import DeploySpec, DiskHints
from agent.model.wire import convert
from agent.system.command import Output, Run, Runner
from tests.harness.fake_storcli import install, make_drive, make_state, make_volume, read_state

NAA = "600605b010e943702a3372bf4d29f6a7"
SLOTS = [f"252:{slot}" for slot in range(4)]


def two_used() -> list[dict[str, Any]]:
    """Four drives, of which the first two carry c0/v0."""
    used = [make_drive(slot, State="Onln", DG=0) for slot in SLOTS[:2]]
    return [*used, *(make_drive(slot) for slot in SLOTS[2:])]


def old_volume() -> dict[str, Any]:
    return make_volume(0, "RAID1", "old", SLOTS[:2], NAA)


def tool_in(folder: Path, state: dict[str, Any]) -> Storcli:
    return Storcli(Run(), str(install(folder, state)))


def spec(consent: tuple[str, ...] = (), **raid: Any) -> DeploySpec:
    document = {"kind": "deploy", "template": "demo", "consent": consent, "hardware_raid": raid}
    made: DeploySpec = convert(document, DeploySpec, "job")
    return made


def volume(name: str = "os", level: str = "raid1", **more: Any) -> dict[str, Any]:
    return {"name": name, "level": level, **more}


def seen_by(tool: Storcli, *contents: Found, users: tuple[str, ...] = ()) -> tuple[Drive, ...]:
    """Return the disks that a system with this controller would see."""
    return tuple(
        Drive(
            path=f"/dev/sd{'abcdef'[number]}",
            size_bytes=one.size_bytes,
            sector_bytes=512,
            physical_sector_bytes=512,
            wwn=one.wwn,
            transport=Transport.RAID,
            contents=contents,
            users=users,
        )
        for number, one in enumerate(tool.cards()[0].volumes)
    )


def prepare(
    tool: Storcli,
    asked: DeploySpec,
    disks: tuple[Drive, ...] | None = None,
    report: Callable[[Happening], None] = lambda _: None,
    confirm: Callable[[], None] = lambda: None,
) -> Prepared:
    def run(words: Any, **_: Any) -> Output:
        assert words[0] == "udevadm"
        return Output(b"", "", 0)

    runner: Runner = run
    return prepare_hardware_raid(
        runner,
        asked,
        seen_by(tool) if disks is None else disks,
        report,
        confirm,
        tool=tool,
        look=lambda _: seen_by(tool),
        pause=lambda _: None,
    )


def changes(folder: Path) -> list[str]:
    """Return the commands that were not mere looks."""
    return [line for line in read_state(folder)["log"] if " show" not in line]


def test_a_controller_is_shown_with_its_drives_and_volumes(tmp_path: Path) -> None:
    loose = make_drive(" :4", State="JBOD", SeSz="4 KB", Size="3.637 TB", Med="HDD", Intf="SAS")
    tool = tool_in(tmp_path, make_state([*two_used(), loose], [old_volume()]))
    (card,) = tool.cards()
    assert (card.number, card.model, card.address) == (0, "MegaRAID 9361-8i", "0000:65:00.0")
    assert [drive.address for drive in card.drives] == [*SLOTS, "4"]
    assert (card.drives[4].state, card.drives[4].sector_bytes) == ("JBOD", 4096)
    (shown,) = card.volumes
    assert (shown.level, shown.name, shown.wwn) == ("RAID1", "old", f"0x{NAA}")
    assert (shown.drives, shown.strip_bytes) == (tuple(SLOTS[:2]), 256 * 1024)
    assert shown.size_bytes == 936640512 * 512


def test_no_controller_is_no_error(tmp_path: Path) -> None:
    assert tool_in(tmp_path, make_state([], absent=True)).cards() == ()


def test_a_controller_without_a_drive_or_volume(tmp_path: Path) -> None:
    (card,) = tool_in(tmp_path, make_state([])).cards()
    assert (card.drives, card.volumes) == ((), ())


def test_volumes_are_deleted_and_made_and_seen_again(tmp_path: Path) -> None:
    tool = tool_in(tmp_path, make_state(two_used(), [old_volume()], numbers=[239, 238]))
    asked = spec(
        consent=("LVM2_member",),
        replace=True,
        volumes=[volume("data", "raid10", drives=SLOTS, strip_kib=64, role="disk0")],
    )
    lvm = Found(path="/dev/sda", what="LVM2_member", usage="raid")
    told: list[str] = []
    done = prepare(
        tool,
        asked,
        seen_by(tool, lvm),
        lambda h: told.append(h.message) if isinstance(h, Logged) else None,
    )
    assert changes(tmp_path) == [
        "/c0/v0 delete force",
        f"/c0 add vd type=raid10 size=all name=data drives={','.join(SLOTS)} pdperarray=2 strip=64",
        "/c0/v239 start init force",
    ]
    (made,) = tool.cards()[0].volumes
    assert (made.number, made.level, made.name) == (239, "RAID10", "data")
    assert done.roles == {"disk0": DiskHints(wwn=made.wwn)}
    assert [disk.wwn for disk in done.disks] == [made.wwn]
    assert "DELETE  c0/v0 old, RAID1, 446.6 GiB, of 252:0, 252:1" in told[0]


def test_a_job_that_is_carried_out_twice_makes_nothing_twice(tmp_path: Path) -> None:
    tool = tool_in(tmp_path, make_state(two_used(), [old_volume()]))
    asked = spec(volumes=[volume(count=2)])
    prepare(tool, asked)
    before = changes(tmp_path)
    assert before[0] == "/c0 add vd type=raid1 size=all name=os drives=252:2,252:3"
    assert prepare(tool, asked).disks == seen_by(tool)
    assert changes(tmp_path) == before


def test_initialization_is_waited_for_and_told(tmp_path: Path) -> None:
    tool = tool_in(tmp_path, make_state(two_used(), [old_volume()], init=[4, 4, 80]))
    told: list[str] = []
    prepare(
        tool,
        spec(volumes=[volume(drives=SLOTS[2:])], initialize="full"),
        report=lambda h: told.append(h.message) if isinstance(h, Logged) else None,
    )
    assert changes(tmp_path)[-1] == "/c0/v1 start init full force"
    assert [line for line in told if "%" in line] == [
        "os is initialized: 4 %",
        "os is initialized: 80 %",
    ]


@pytest.mark.parametrize("level", ["raid0", "raid1", "raid5", "raid6", "raid10"])
def test_every_level_is_made_as_the_tool_wants_it(tmp_path: Path, level: str) -> None:
    tool = tool_in(tmp_path, make_state([make_drive(slot) for slot in SLOTS]))
    wish = volume(level=level, drives=SLOTS, write_cache="awb", read_ahead="nora", strip_kib=1024)
    prepare(tool, spec(volumes=[wish]))
    assert tool.cards()[0].volumes[0].level == level.upper()


def test_what_the_claim_does_not_allow_changes_nothing(tmp_path: Path) -> None:
    tool = tool_in(tmp_path, make_state(two_used(), [old_volume()]))

    def lost() -> None:
        raise CommandFailed("the claim is lost")

    with pytest.raises(CommandFailed, match="claim"):
        prepare(tool, spec(volumes=[volume(count=2)]), confirm=lost)
    assert changes(tmp_path) == []


def test_a_refusal_changes_nothing_and_says_all_of_it(tmp_path: Path) -> None:
    tool = tool_in(tmp_path, make_state(two_used(), [old_volume()]))
    ceph = Found(path="/dev/sda", what="ceph_bluestore", usage="other")
    with pytest.raises(PlanRefused) as refused:
        prepare(tool, spec(volumes=[volume(drives=["252:0", "252:9"])]), seen_by(tool, ceph))
    assert refused.value.objections == (
        "os: there is no drive 252:9 at c0",
        "c0/v0 (old) holds drives that are wanted: say replace to have it deleted",
        "c0/v0 (old) is /dev/sda and holds ceph_bluestore (/dev/sda): it is deleted only with the "
        "consent ceph_bluestore or c0/v0",
    )
    assert changes(tmp_path) == []


def test_a_failure_is_told_in_the_tools_own_words(tmp_path: Path) -> None:
    failing = {"delete": {"ErrCd": 255, "ErrMsg": "VD 0 is busy"}}
    tool = tool_in(tmp_path, make_state(two_used(), [old_volume()], fail=failing))
    asked = spec(replace=True, volumes=[volume(drives=SLOTS[:2])])
    with pytest.raises(StepFailed) as failed:
        prepare(tool, asked)
    said = reasons(failed.value)
    assert said[0] == "could not delete c0/v0 of the RAID controller"
    assert said[1].endswith("delete force: Delete VD failed: VD 0: VD 0 is busy (error 255)")
    assert failed.value.state is DiskState.PARTIAL


def test_a_create_that_fails_after_a_delete_says_how_things_were_left(tmp_path: Path) -> None:
    failing = {"add": {"ErrCd": 59, "ErrMsg": "controller says no"}}
    tool = tool_in(tmp_path, make_state(two_used(), [old_volume()], fail=failing))
    with pytest.raises(StepFailed, match="create os, raid1") as failed:
        prepare(tool, spec(replace=True, volumes=[volume(drives=SLOTS[:2])]))
    assert "Add VD Failed: Ctrl 0: controller says no (error 59)" in reasons(failed.value)[1]
    assert tool.cards()[0].volumes == ()


def test_a_volume_that_the_system_does_not_see_is_an_error(tmp_path: Path) -> None:
    tool = tool_in(tmp_path, make_state(two_used(), [old_volume()]))
    with pytest.raises(StepFailed, match="find c0/v1 .* among the system's disks"):
        prepare_hardware_raid(
            lambda *_, **__: Output(b"", "", 0),
            spec(volumes=[volume(count=2)]),
            seen_by(tool),
            tool=tool,
            look=lambda _: (),
            pause=lambda _: None,
        )


def test_a_volume_that_is_not_there_is_told(tmp_path: Path) -> None:
    tool = tool_in(tmp_path, make_state(two_used(), [old_volume()]))
    with pytest.raises(CommandFailed, match="VD 7: VD doesn't exist"):
        tool.initialize(0, 7, Initialization.FAST)
    with pytest.raises(CommandFailed, match="Drive 252:0 is not usable"):
        tool.create(0, NewVolume(name="x", level=RaidLevel.RAID0, drives=("252:0",)))


def test_a_boot_image_without_the_tool_says_where_it_comes_from() -> None:
    with pytest.raises(PlanRefused, match="no tool") as refused:
        prepare_hardware_raid(Run(), spec(volumes=[volume(count=2)]), ())
    assert "docs/hardware-raid.md" in (hint_of(refused.value) or "")


def test_the_tool_is_found_under_each_of_its_names() -> None:
    for name in ("storcli64", "perccli64", "/opt/MegaRAID/perccli/perccli64"):
        found = find_storcli(Run(), which={name: name}.get)
        assert found is not None
        assert found.program == name


def test_a_job_without_hardware_raid_asks_nobody() -> None:
    plain = DeploySpec(template="demo")
    assert prepare_hardware_raid(Run(), plain, ()) == Prepared((), {})
