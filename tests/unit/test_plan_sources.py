"""Which disks come along with those that a capture names."""

import pytest

from agent.model.inventory import Drive, Found
from agent.model.job import CaptureSpec, DiskHints
from agent.planning.sources import source_disks
from tests.unit.make_plan import make_drive


def drive(name: str, *held: tuple[str, str | None]) -> Drive:
    path = f"/dev/{name}"
    found = tuple(
        Found(path=path, what=what, usage="raid", uuid=uuid, label=None) for what, uuid in held
    )
    return make_drive(path=path, serial=name, contents=found)


MD, BTRFS, INTEL = "linux_raid_member", "btrfs", "isw_raid_member"


def test_who_names_several_disks_of_intels_raid_means_these() -> None:
    drives = [drive(name, (INTEL, None)) for name in "abcd"]
    hints = (DiskHints(name="/dev/a"), DiskHints(name="/dev/c"))
    chosen = source_disks(CaptureSpec(name="demo", disks=hints), drives)
    assert [one.serial for one in chosen.values()] == ["a", "c"]


@pytest.mark.parametrize(
    ("drives", "expected"),
    [
        ((drive("a"), drive("b")), ["a"]),
        ((drive("a", (MD, "1")), drive("b", (MD, "2")), drive("c", (MD, "1"))), ["a", "c"]),
        ((drive("a", (BTRFS, "1")), drive("b", (MD, "1"))), ["a"]),
        ((drive("a", (MD, "1")), drive("b", (MD, "1"), (MD, "2")), drive("c", (MD, "2"))), "abc"),
        ((drive("a", (MD, None)), drive("b", (MD, None))), ["a"]),
        ((drive("a", (INTEL, None)), drive("b"), drive("c", (INTEL, None))), ["a", "c"]),
    ],
)
def test_other_pieces_come_along(drives: tuple[Drive, ...], expected: str | list[str]) -> None:
    spec = CaptureSpec(name="demo", disk=DiskHints(name="/dev/a"))
    chosen = source_disks(spec, drives)
    assert [one.serial for one in chosen.values()] == list(expected)
    assert list(chosen) == [f"disk{number}" for number in range(len(chosen))]
