"""Why a template may not go onto a disk: each objection, and all of them at once."""

import re
from typing import Any

import msgspec
import pytest

from agent.errors import PlanRefused
from agent.model import layout as lay
from agent.model.inventory import Found
from agent.model.job import Identity
from agent.model.nodes import PENDING_TYPE, Disk
from agent.model.template import Firmware, Hole
from agent.planning.deploy import plan_deploy
from agent.planning.refusals import objections
from agent.units import GiB, MiB, TiB
from tests.unit.make_plan import (
    JOB,
    guid,
    make_drive,
    make_found,
    make_inventory,
    make_layout,
    make_os,
    make_spec,
    make_template,
    with_root_partition,
    with_volume,
)


def refusals(**given: Any) -> list[str]:
    drive = given.get("drive", make_drive())
    template = given.get("template", make_template())
    spec = given.get("spec", make_spec())
    inventory = given.get("inventory", make_inventory(drive))
    said = list(objections(inventory, template, spec, {"disk0": drive}))
    if said:
        with pytest.raises(PlanRefused) as caught:
            plan_deploy(inventory, template, spec, {"disk0": drive}, JOB)
        assert caught.value.objections == tuple(said)
    return said


def test_a_fitting_disk_meets_no_objection() -> None:
    assert refusals() == []


NETWORK_OF_ANOTHER = {
    "version": 2,
    "ethernets": {"a": {"match": {"macaddress": "02:00:00:00:00:99"}, "dhcp4": True}},
}

OBJECTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "firmware": (
        {"template": make_template(boots=(Firmware.UEFI,))},
        "started by BIOS, demo boots on UEFI",
    ),
    "no firmware": ({"template": make_template(boots=())}, "boots on no firmware"),
    "damage": (
        {
            "template": make_template(
                holes=(
                    Hole(volume="root", offset=8192, size=4096),
                    Hole(volume="root", offset=65536, size=512),
                )
            )
        },
        r"demo is damaged: root: 4.5 KiB in 2 runs could not be read on the source and are zeros, "
        r"at 8192, 65536 \(consent damage\)",
    ),
    "architecture": (
        {"template": make_template(source=make_inventory(arch="aarch64"))},
        "this machine is x86_64, demo was captured on aarch64",
    ),
    "format": ({"template": make_template(format=7)}, "template format 7, this agent reads 1 to 6"),
    "too small": (
        {"drive": make_drive(size_bytes=2 * GiB)},
        r"demo needs 3\.3 GiB \(\d+ bytes\) \(partition 4 ends at .*\), "
        r"/dev/vda has 2\.0 GiB \(2147483648 bytes\)",
    ),
    "sectors": (
        {"drive": make_drive(sector_bytes=4096)},
        "captured from sectors of 512 bytes, /dev/vda has sectors of 4096",
    ),
    "in use": (
        {"drive": make_drive(users=("/srv (/dev/vda1)", "md127"))},
        r"in use by /srv \(/dev/vda1\), md127",
    ),
    "read-only": ({"drive": make_drive(read_only=True)}, "/dev/vda is read-only"),
    "LVM": (
        {"drive": make_drive(contents=(make_found("LVM2_member", label="vg0"),))},
        "/dev/vda2 holds LVM2_member 'vg0': .* consent LVM2_member",
    ),
    "md": ({"drive": make_drive(contents=(make_found("linux_raid_member"),))}, "linux_raid_member"),
    "zfs": (
        {"drive": make_drive(contents=(make_found("zfs_member", "filesystem"),))},
        "zfs_member",
    ),
    "LUKS": ({"drive": make_drive(contents=(make_found("crypto_LUKS", "crypto"),))}, "crypto_LUKS"),
    "ceph": (
        {"drive": make_drive(contents=(make_found("ceph_bluestore", "other"),))},
        "ceph_bluestore",
    ),
    "VMFS": ({"drive": make_drive(contents=(make_found("VMFS_volume_member"),))}, "VMFS"),
    "an unknown RAID": ({"drive": make_drive(contents=(make_found("newraid_member"),))}, "newraid"),
    "unreadable": (
        {"drive": make_drive(contents=(make_found("unreadable", "other"),))},
        "unreadable",
    ),
    "twin": (
        {
            "inventory": make_inventory(
                make_drive(),
                make_drive(
                    path="/dev/vdb",
                    contents=(
                        Found(path="/dev/vdb3", what="ext4", usage="filesystem", uuid=guid(101)),
                    ),
                ),
            )
        },
        "already holds ext4 .* on /dev/vdb3, which demo brings too",
    ),
    "no root": (
        {
            "template": make_template(with_volume(make_layout(), "root", mount=None)),
            "spec": make_spec(identity=Identity(hostname="web1")),
        },
        "no root filesystem that we can write",
    ),
    "no network stack": (
        {
            "template": make_template(os=make_os(network_stack=None)),
            "spec": make_spec(network={"version": 2}),
        },
        "no network stack that we know",
    ),
    "a network of another machine": (
        {"spec": make_spec(network=NETWORK_OF_ANOTHER)},
        "02:00:00:00:00:99",
    ),
    "grow what is not there": ({"spec": make_spec(grow="/srv")}, "/srv cannot grow"),
    "grow a FAT": ({"spec": make_spec(grow="/boot/efi")}, "of a kind that does not"),
    "overlap": (
        {"template": make_template(with_root_partition(make_layout(), offset_bytes=4 * MiB))},
        "overlap",
    ),
    "half a sector": (
        {"template": make_template(with_root_partition(make_layout(), size_bytes=3 * GiB - 1))},
        "not made of whole sectors",
    ),
    "in the table": (
        {"template": make_template(with_root_partition(make_layout(), offset_bytes=512))},
        "begins inside the partition table",
    ),
    "pending": (
        {"template": make_template(with_root_partition(make_layout(), type=PENDING_TYPE))},
        "half-done deployment",
    ),
    "control characters": (
        {"template": make_template(with_root_partition(make_layout(), name="a\x1b[2J"))},
        "control characters",
    ),
    "two of one number": (
        {"template": make_template(with_root_partition(make_layout(), number=1))},
        "two partitions of one number",
    ),
    "two of one UUID": (
        {"template": make_template(with_root_partition(make_layout(), uuid=guid(1)))},
        "two partitions of one UUID",
    ),
    "a volume too long": (
        {"template": make_template(with_volume(make_layout(), "root", size_bytes=TiB))},
        "volume root has 1099511627776 bytes",
    ),
    "a volume twice": (
        {"template": make_template(with_volume(make_layout(), "esp", on="disk0p3"))},
        "uses disk0p3 for 2 things at once",
    ),
    "boot code elsewhere": (
        {"template": make_template(with_volume(make_layout(), "boot-code", on="disk0p1"))},
        "not on a disk itself",
    ),
    "a volume on the disk": (
        {"template": make_template(with_volume(make_layout(), "root", on="disk0"))},
        "disk0 has a table and is used as a whole",
    ),
    "a mount point outside": (
        {"template": make_template(with_volume(make_layout(), "esp", mount="/../../etc"))},
        "mount point that is none",
    ),
    "a mount point twice": (
        {"template": make_template(with_volume(make_layout(), "esp", mount="/"))},
        "two volumes for one mount point",
    ),
    "no table": (
        {
            "template": make_template(
                lay.Layout(
                    nodes=tuple(
                        msgspec.structs.replace(node, table=None)
                        if isinstance(node, Disk)
                        else node
                        for node in make_layout().nodes
                    ),
                    volumes=make_layout().volumes,
                )
            )
        },
        "disk0 has partitions but no table",
    ),
}


@pytest.mark.parametrize("name", OBJECTIONS)
def test_it_is_refused(name: str) -> None:
    given, expected = OBJECTIONS[name]
    said = refusals(**given)
    assert any(re.search(expected, one) for one in said), said


def test_all_objections_come_at_once() -> None:
    drive = make_drive(
        size_bytes=GiB, sector_bytes=4096, users=("/srv",), contents=(make_found("LVM2_member"),)
    )
    said = refusals(drive=drive, template=make_template(boots=(Firmware.UEFI,)))
    assert len(said) == 5


def test_a_template_of_two_disks_needs_two() -> None:
    layout = make_layout()
    second = msgspec.structs.replace(layout.disks[0], id="disk1")
    two = lay.Layout(nodes=(*layout.nodes, second), volumes=layout.volumes)
    assert "no disk was chosen for disk1 of demo" in refusals(template=make_template(two))


def test_consent_must_name_what_is_found() -> None:
    drive = make_drive(contents=(make_found("LVM2_member"), make_found("crypto_LUKS", "crypto")))
    assert len(refusals(drive=drive, spec=make_spec(consent=("lvm",)))) == 2
    assert len(refusals(drive=drive, spec=make_spec(consent=("LVM2_member",)))) == 1
    both = make_spec(consent=("LVM2_member", "crypto_LUKS"))
    assert refusals(drive=drive, spec=both) == []
    made = plan_deploy(make_inventory(drive), make_template(), both, {"disk0": drive}, JOB)
    assert made.consented == (
        "LVM2_member on /dev/vda2",
        "crypto_LUKS on /dev/vda2",
    )


def test_ordinary_filesystems_need_no_consent() -> None:
    drive = make_drive(
        contents=(
            make_found("ext4", "filesystem"),
            make_found("ntfs", "filesystem"),
            make_found("gpt", "table"),
        )
    )
    assert refusals(drive=drive) == []


def test_the_smallest_disk_is_one_with_room_for_the_backup_table() -> None:
    end = make_layout().partitions("disk0")[-1].extent.end
    needs = end + 33 * 512
    assert refusals(drive=make_drive(size_bytes=needs)) == []
    assert len(refusals(drive=make_drive(size_bytes=needs - 512))) == 1
