"""Two paths to one disk are one disk; two disks that look alike are two."""

from typing import Any

import pytest

from agent.model.inventory import Board, Drive, Found, Inventory, SecureBoot, Transport
from agent.probe import render_inventory
from agent.probe.multipath import merge_paths, multipath_key
from agent.units import GiB

NAA = "0x600140512345678abcdef012345678ab"
GPT = Found(path="/dev/sda", what="gpt", usage="table")


def make_drive(path: str, **changes: Any) -> Drive:
    base: dict[str, Any] = {
        "size_bytes": 100 * GiB,
        "sector_bytes": 512,
        "physical_sector_bytes": 4096,
        "vendor": "LIO-ORG",
        "model": "disk",
        "serial": "6001405",
        "wwn": NAA,
        "transport": Transport.FC,
    }
    return Drive(path=path, **{**base, **changes})


def merged(*drives: Drive, wwid: str | None = None) -> tuple[Drive, ...]:
    return merge_paths(drives, {drive.path: multipath_key(drive, wwid) for drive in drives})


def test_paths_of_one_wwn_are_one_disk() -> None:
    one = make_drive("/dev/sda", users=("/dev/sda carries mpatha",), contents=(GPT,))
    two = make_drive("/dev/sdc", users=("/dev/sdc carries mpatha",))
    other = make_drive("/dev/sdb", wwn="0x6001405aaaaaaaa", serial="6001406")
    found = merged(one, other, two)
    assert [drive.path for drive in found] == ["/dev/sda", "/dev/sdb"]
    assert found[0].paths == ("/dev/sda", "/dev/sdc")
    assert found[0].users == ("/dev/sda carries mpatha", "/dev/sdc carries mpatha")
    assert found[0].contents == (GPT,)
    assert found[1].paths == ()


def test_a_path_that_can_be_read_stands_for_the_disk() -> None:
    standby = Found(path="/dev/sda", what="unreadable", usage="other")
    found = merged(
        make_drive("/dev/sda", contents=(standby,)),
        make_drive("/dev/sdb", read_only=True),
        make_drive("/dev/sdc"),
    )
    assert [drive.path for drive in found] == ["/dev/sdc"]
    assert found[0].paths == ("/dev/sda", "/dev/sdb", "/dev/sdc")


def test_the_page_names_the_paths() -> None:
    inventory = Inventory(
        firmware="uefi",
        secure_boot=SecureBoot.OFF,
        arch="x86_64",
        kernel="6.12",
        board=Board(),
        cpu_model="cpu",
        cpus=1,
        memory_bytes=GiB,
        disks=merged(make_drive("/dev/sda"), make_drive("/dev/sdb")),
    )
    page = render_inventory(inventory)
    assert "one disk on 2 paths: /dev/sda, /dev/sdb" in page
    assert "multipath, or clones" not in page


@pytest.mark.parametrize(
    ("wwid", "count"),
    [
        (None, 1),
        ("t10.QEMU    QEMU HARDDISK   6001405", 1),
        ("t10.QEMU    QEMU HARDDISK", 2),
    ],
)
def test_without_a_wwn_the_serial_number_counts(wwid: str | None, count: int) -> None:
    drives = (make_drive(path, wwn=None) for path in ("/dev/sda", "/dev/sdb"))
    assert len(merged(*drives, wwid=wwid)) == count


@pytest.mark.parametrize(
    "changes",
    [
        {"wwn": None, "serial": None},
        {"wwn": None, "transport": Transport.USB},
        {"transport": Transport.USB},
        {"transport": Transport.SATA},
        {"transport": Transport.VIRTIO},
        {"transport": Transport.NVME, "wwn": None},
    ],
)
def test_look_alikes_stay_two(changes: dict[str, Any]) -> None:
    assert len(merged(make_drive("/dev/sda", **changes), make_drive("/dev/sdb", **changes))) == 2


@pytest.mark.parametrize("field", ["size_bytes", "sector_bytes", "model", "serial"])
def test_one_name_on_two_different_disks(field: str) -> None:
    value = 4096 if field.endswith("bytes") else "another"
    assert len(merged(make_drive("/dev/sda"), make_drive("/dev/sdb", **{field: value}))) == 2
