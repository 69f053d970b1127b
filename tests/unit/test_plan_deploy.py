"""The deploy decision: each step, and where partitions end up."""

from itertools import pairwise
from typing import Any

import pytest

from agent.model import layout as lay
from agent.model.job import Verify
from agent.model.nodes import BIOS_BOOT_TYPE, PENDING_TYPE
from agent.model.plan import Plan, Target
from agent.model.steps import (
    CheckFilesystems,
    Commit,
    ConfigureSystem,
    EfiEntry,
    EraseSignatures,
    GrowVolume,
    MakeSwap,
    RestoreVolume,
    VerifyVolume,
    WritePendingTable,
)
from agent.model.table import PlannedTable
from agent.model.wire import decode, encode
from agent.planning.deploy import plan_deploy
from agent.planning.review import render_plan
from agent.planning.stack import EDGE_BYTES, HEAD_BYTES
from agent.units import GiB, MiB, TiB
from tests.unit.make_plan import (
    JOB,
    guid,
    make_drive,
    make_found,
    make_inventory,
    make_layout,
    make_spec,
    make_template,
    with_volume,
)


def plan(**given: Any) -> Plan:
    drive = given.get("drive", make_drive())
    inventory = given.get("inventory", make_inventory(drive))
    template = given.get("template", make_template())
    return plan_deploy(inventory, template, given.get("spec", make_spec()), {"disk0": drive}, JOB)


def table_of(made: Plan) -> PlannedTable:
    table = made.disks[0].table
    assert table is not None
    return table


def test_the_order_of_a_deployment() -> None:
    kinds = [type(step) for step in plan(inventory=make_inventory(firmware="uefi")).steps]
    assert kinds == [
        EraseSignatures,
        WritePendingTable,
        *[RestoreVolume] * 3,
        MakeSwap,
        *[VerifyVolume] * 3,
        GrowVolume,
        ConfigureSystem,
        CheckFilesystems,
        EfiEntry,
        Commit,
    ]


def test_before_the_commit_no_partition_has_a_type_that_boots() -> None:
    made = plan()
    pending = next(step for step in made.steps if isinstance(step, WritePendingTable)).table
    assert [part.type for part in pending.partitions] == [BIOS_BOOT_TYPE, *[PENDING_TYPE] * 3]
    assert {part.name for part in pending.partitions} == {f"pending:{JOB}"}
    assert [part.extent for part in pending.partitions] == [
        part.extent for part in table_of(made).partitions
    ]
    commit = made.steps[-1]
    assert isinstance(commit, Commit)
    assert commit.disks[0].table == table_of(made)
    assert commit.disks[0].boot_code == "boot-code"


def test_the_head_of_every_fat_is_withheld_until_the_commit() -> None:
    made = plan()
    held = {s.volume: s.withhold for s in made.steps if isinstance(s, RestoreVolume)}
    assert held == {"bios-boot": (), "esp": ((0, HEAD_BYTES),), "root": ()}
    commit = made.steps[-1]
    assert isinstance(commit, Commit)
    assert [(head.volume, head.offset_bytes) for head in commit.disks[0].heads] == [
        ("esp", 2 * MiB)
    ]


def test_an_esp_that_we_cannot_read_is_withheld_too() -> None:
    layout = with_volume(make_layout(), "esp", content=lay.Raw())
    made = plan(template=make_template(layout))
    commit = made.steps[-1]
    assert isinstance(commit, Commit)
    assert [head.volume for head in commit.disks[0].heads] == ["esp"]


def test_root_takes_the_rest_and_swap_moves_to_the_end() -> None:
    drive = make_drive(size_bytes=100 * GiB)
    made = plan(drive=drive)
    root, swap = table_of(made).partition(3), table_of(made).partition(4)
    assert root.extent.end == swap.offset_bytes
    assert swap.size_bytes == 256 * MiB
    assert swap.extent.end <= drive.size_bytes - 33 * 512
    assert drive.size_bytes - swap.extent.end <= 2 * MiB
    assert root.offset_bytes == 66 * MiB
    assert {root.extent.end % MiB, swap.extent.end % MiB} == {0}
    grow = next(step for step in made.steps if isinstance(step, GrowVolume))
    assert (grow.node, grow.from_bytes, grow.to_bytes) == ("disk0p3", 3 * GiB, root.size_bytes)


def test_root_last_takes_the_rest() -> None:
    made = plan(template=make_template(make_layout(swap_last=False)))
    assert table_of(made).partition(4).size_bytes > 4 * GiB


def test_a_disk_of_the_same_size_is_left_as_it_is() -> None:
    drive = make_drive(size_bytes=make_layout().partitions("disk0")[-1].extent.end + MiB)
    made = plan(drive=drive)
    assert not any(isinstance(step, GrowVolume) for step in made.steps)
    assert table_of(made).partition(3).size_bytes == 3 * GiB


def test_data_behind_root_stays_where_it_is_and_the_page_says_so() -> None:
    content = lay.Ext(uuid=guid(55), label="", block_bytes=4096, features=())
    layout = with_volume(make_layout(), "swap", content=content)
    made = plan(template=make_template(layout))
    assert table_of(made).partition(3).size_bytes == 3 * GiB
    assert "/ does not grow: partition 4 (swap) lies behind it" in made.notes[0]


def test_nothing_grows_when_nothing_shall() -> None:
    made = plan(spec=make_spec(grow=None), drive=make_drive(size_bytes=TiB))
    assert table_of(made).partition(3).size_bytes == 3 * GiB
    assert made.notes == ()


def test_both_ends_of_the_disk_and_of_each_partition_are_erased() -> None:
    made = plan()
    erase = made.steps[0]
    assert isinstance(erase, EraseSignatures)
    runs = [(offset, offset + size) for offset, size in erase.runs]

    def is_erased(start: int, end: int) -> bool:
        return any(a <= start and end <= b for a, b in runs)

    size = made.disks[0].target.size_bytes
    assert is_erased(0, EDGE_BYTES)
    assert is_erased(size - EDGE_BYTES, size)
    for part in table_of(made).partitions:
        edge = min(EDGE_BYTES, part.size_bytes)
        assert is_erased(part.offset_bytes, part.offset_bytes + edge)
        assert is_erased(part.extent.end - edge, part.extent.end)
    assert all(a[1] < b[0] for a, b in pairwise(runs))


def test_reading_back_is_as_the_job_asks() -> None:
    def modes(verify: Verify) -> set[Verify]:
        steps = plan(spec=make_spec(verify=verify)).steps
        return {step.mode for step in steps if isinstance(step, VerifyVolume)}

    assert modes(Verify.NONE) == set()
    assert modes(Verify.FULL) == {Verify.FULL}


def test_a_plan_survives_json_and_has_one_digest() -> None:
    made = plan()
    again = decode(encode(made), Plan, "plan")
    assert again == made
    assert again.digest == made.digest == plan().digest
    assert plan(drive=make_drive(size_bytes=9 * GiB)).digest != made.digest


def test_every_path_to_a_disk_is_in_the_plan_and_on_its_page() -> None:
    made = plan(drive=make_drive(paths=("/dev/vda", "/dev/vdc")))
    assert made.disks[0].target.paths == ("/dev/vda", "/dev/vdc")
    assert "paths     /dev/vda, /dev/vdc (all lead to this one disk)" in render_plan(made)


DIFFERENCES = (
    {"serial": "SN-2"},
    {"size_bytes": 9 * GiB},
    {"sector_bytes": 4096},
    {"wwn": "0x5000"},
    {"users": ("/srv",)},
    {"contents": (make_found("ext4", "filesystem"),)},
)


@pytest.mark.parametrize("change", DIFFERENCES, ids=lambda change: next(iter(change)))
def test_another_disk_at_the_same_path_is_noticed(change: dict[str, Any]) -> None:
    target = Target.of(make_drive())
    assert target.differences(make_drive()) == ()
    assert target.differences(make_drive(**change))
