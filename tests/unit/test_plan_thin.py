"""A thin pool that promises more than it has is drawn and said, not refused."""

import pytest

from agent.model.layout import Ext, Layout, Volume
from agent.model.nodes import (
    LVM_TYPE,
    Disk,
    Gpt,
    LogicalVolume,
    LvKind,
    Partition,
    PhysicalVolume,
    VolumeGroup,
)
from agent.planning.deploy import plan_deploy
from agent.planning.drawing import draw_layout
from agent.planning.review import render_plan
from agent.planning.thin import overcommitted
from agent.units import GiB, MiB
from tests.unit.make_plan import (
    DISK_UUID,
    JOB,
    guid,
    make_drive,
    make_inventory,
    make_spec,
    make_template,
    make_volume,
)

SAID = (
    "the thin volumes of vg-a/pool may take 9.0 GiB, the pool has 4.0 GiB: it can fill before "
    "they do"
)


def thin_layout(root_gib: int, data_gib: int) -> Layout:
    def volume(name: str, number: int, size: int, mount: str) -> Volume:
        content = Ext(uuid=guid(number), label="", block_bytes=4096, features=("extent",))
        return make_volume(
            f"v-{name}", name, content, size, used_bytes=MiB, minimum_bytes=MiB, mount=mount
        )

    def thin(name: str, size: int) -> LogicalVolume:
        return LogicalVolume(
            id=name, on="vg0", name=name, uuid=name, lv=LvKind.THIN, pool="pool", size_bytes=size
        )

    return Layout(
        nodes=(
            Disk(
                id="disk0",
                size_bytes=8 * GiB,
                sector_bytes=512,
                physical_sector_bytes=512,
                table=Gpt(uuid=DISK_UUID),
            ),
            Partition(
                id="disk0p1",
                on="disk0",
                number=1,
                offset_bytes=MiB,
                size_bytes=6 * GiB,
                type=LVM_TYPE,
                uuid=guid(1),
                name="",
            ),
            VolumeGroup(
                id="vg0",
                physical=(PhysicalVolume(on="disk0p1", uuid="pv", size_bytes=5 * GiB),),
                name="vg-a",
                uuid="vg",
                extent_bytes=4 * MiB,
            ),
            LogicalVolume(
                id="pool",
                on="vg0",
                name="pool",
                uuid="pool",
                lv=LvKind.THIN_POOL,
                size_bytes=4 * GiB,
            ),
            thin("root", root_gib * GiB),
            thin("data", data_gib * GiB),
        ),
        volumes=(
            volume("root", 101, root_gib * GiB, "/"),
            volume("data", 102, data_gib * GiB, "/srv"),
        ),
    )


def test_the_plan_and_the_drawing_have_the_figures() -> None:
    template = make_template(thin_layout(3, 6))
    made = plan_deploy(
        make_inventory(), template, make_spec(grow=None), {"disk0": make_drive()}, JOB
    )
    assert made.notes == (SAID,)
    assert f"  - {SAID}" in render_plan(made)
    assert "pool  thin-pool, 4.0 GiB, 9.0 GiB promised" in draw_layout(made.layout)


@pytest.mark.parametrize(("root", "data"), [(1, 3), (2, 1)])
def test_a_pool_with_room_for_all_is_not_mentioned(root: int, data: int) -> None:
    layout = thin_layout(root, data)
    assert list(overcommitted(layout)) == []
    assert "promised" not in draw_layout(layout)
