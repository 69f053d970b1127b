"""LVM: what its report is read as, which commands are given, what files are rendered."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent.errors import DiskError
from agent.model.lvm_size import physical_bytes, usable_extents
from agent.model.nodes import LogicalVolume, LvKind, PhysicalVolume, VolumeGroup
from agent.model.wire import BadDocument
from agent.tools import lvm
from agent.tools.lvm import logical_words, with_uuids
from agent.tools.lvm_report import parse_groups
from agent.units import KiB, MiB
from tests.unit.fake_run import FakeRun

GROUP = VolumeGroup(
    id="vg0",
    physical=(
        PhysicalVolume(
            on="disk0", uuid="Made00-aaaa-bbbb-cccc-dddd-eeee-ffff00", size_bytes=100 * MiB
        ),
    ),
    name="vg-a",
    uuid="Group0-aaaa-bbbb-cccc-dddd-eeee-ffffff",
    extent_bytes=4 * MiB,
)
DEVICES = {"disk0": Path("/dev/sda2")}


def volume(kind: LvKind, name: str = "data", **shape: Any) -> LogicalVolume:
    uuid = "Volum0-aaaa-bbbb-cccc-dddd-eeee-ffffff"
    return LogicalVolume(
        id="vg0lv0", on="vg0", name=name, uuid=uuid, lv=kind, **{"size_bytes": 8 * MiB, **shape}
    )


@pytest.mark.parametrize(
    ("lv", "words"),
    [
        (volume(LvKind.LINEAR), "--type linear --extents 2 --wipesignatures n --zero n"),
        (
            volume(LvKind.STRIPED, stripes=2, stripe_bytes=64 * KiB),
            "--type striped --extents 2 --wipesignatures n --zero n "
            "--stripes 2 --stripesize 65536b",
        ),
        (
            volume(LvKind.MIRROR, mirrors=1),
            "--type raid1 --extents 2 --wipesignatures n --zero n --mirrors 1",
        ),
        (
            volume(
                LvKind.RAID10,
                stripes=2,
                stripe_bytes=64 * KiB,
                mirrors=1,
                region_bytes=512 * KiB,
            ),
            "--type raid10 --extents 2 --wipesignatures n --zero n "
            "--stripes 2 --stripesize 65536b --mirrors 1 --regionsize 524288b",
        ),
        (
            volume(LvKind.THIN_POOL, chunk_bytes=64 * KiB, metadata_bytes=4 * MiB),
            "--type thin-pool --extents 2 --poolmetadataspare n --chunksize 65536b "
            "--poolmetadatasize 4194304b",
        ),
        (
            volume(LvKind.THIN, pool="vg0lv1"),
            "--type thin --virtualsize 8388608b --thinpool pool --wipesignatures n",
        ),
    ],
)
def test_a_volume_is_made_by_its_kind(lv: LogicalVolume, words: str) -> None:
    made = logical_words(GROUP, lv, volume(LvKind.THIN_POOL, "pool"))
    line = " ".join(made)
    assert line.startswith("lvcreate --yes --type ")
    assert line.endswith(" vg-a")
    assert line.replace(" --name data", "") == f"lvcreate --yes {words} vg-a"
    assert "--nosync" not in made


def test_a_size_is_whole_extents() -> None:
    with pytest.raises(DiskError, match="8388609 bytes, which are not whole extents of 4194304"):
        logical_words(GROUP, volume(LvKind.LINEAR, size_bytes=8 * MiB + 1))


def test_a_thin_volume_has_a_pool() -> None:
    with pytest.raises(DiskError, match="vg-a/data is a thin volume without a pool"):
        logical_words(GROUP, volume(LvKind.THIN, pool="vg0lv1"))


def test_commands_see_the_devices_of_the_group_alone() -> None:
    run = FakeRun()
    lvm.make_physical(run, DEVICES["disk0"], GROUP.physical[0].uuid)
    lvm.make_group(run, GROUP, DEVICES)
    path = lvm.make_logical(run, GROUP, volume(LvKind.LINEAR, "root-1"), None, DEVICES)
    lvm.deactivate(run, GROUP, DEVICES)
    assert path == Path("/dev/mapper/vg--a-root--1")
    for asked in run.asked:
        assert asked.words[0] == "lvm"
        assert asked.words[2:4] == ("--devices", "/dev/sda2")
        assert asked.words.count("--devices") == 1
    assert [asked.words[1] for asked in run.asked] == [
        "pvcreate",
        "vgcreate",
        "lvcreate",
        "vgchange",
    ]


@pytest.mark.parametrize(
    ("device_bytes", "extent_bytes", "extents"),
    [(0, MiB, 0), (MiB, MiB, 0), (2 * MiB, MiB, 1), (21 * MiB, 4 * MiB, 5), (20 * MiB, 4 * MiB, 4)],
)
def test_label_and_metadata_take_a_mebibyte(
    device_bytes: int, extent_bytes: int, extents: int
) -> None:
    assert usable_extents(device_bytes, extent_bytes) == extents
    assert physical_bytes(device_bytes, extent_bytes) == extents * extent_bytes


REPORT = """\
  {
      "report": [
          {
              "vg": [
                  {"vg_name":"vg-a", "vg_uuid":"0ZWo00-WrOd-fK0X-voOa-LHph-2dkG-bkt977", \
"vg_fmt":"lvm2", "vg_extent_size":"4194304", "vg_free_count":"123", "vg_missing_pv_count":"0", \
"vg_partial":"0", "vg_exported":"0", "vg_lock_type":"", "vg_systemid":"", "vg_clustered":"0"}
              ]
              ,
              "pv": [
                  {"pv_name":"/dev/loop20", "pv_uuid":"ABCDEF-1111-2222-3333-4444-5555-666666", \
"pv_pe_count":"74", "pe_start":"1048576", "pv_missing":"0", "pv_duplicate":"0"},
                  {"pv_name":"/dev/loop21", "pv_uuid":"ABCDEF-1111-2222-3333-4444-5555-777777", \
"pv_pe_count":"74", "pe_start":"1048576", "pv_missing":"0", "pv_duplicate":"0"}
              ]
          }
      ]
  }
"""
LOOPS = {"disk1": Path("/dev/loop21"), "disk0": Path("/dev/loop20")}


def test_a_group_is_read_with_its_members_in_our_order() -> None:
    (found,) = parse_groups(REPORT, LOOPS)
    assert (found.group.id, found.group.name, found.group.extent_bytes) == ("vg0", "vg-a", 4 * MiB)
    assert [(one.on, one.size_bytes) for one in found.group.physical] == [
        ("disk1", 74 * 4 * MiB),
        ("disk0", 74 * 4 * MiB),
    ]
    assert (found.volumes, found.unfit, found.notes) == ((), (), ())


def test_a_member_that_is_not_among_the_devices_is_missing() -> None:
    (found,) = parse_groups(REPORT, {"disk0": Path("/dev/loop20")})
    assert "vg-a lacks 1 of its devices (ABCDEF-1111-2222-3333-4444-5555-777777)" in found.unfit[0]


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("vg_exported", "1", "is exported: run: vgimport vg-a"),
        ("vg_lock_type", "sanlock", "is shared between hosts by sanlock"),
    ],
)
def test_a_group_that_others_own_is_unfit(field: str, value: str, why: str) -> None:
    report = json.loads(REPORT)
    report["report"][0]["vg"][0][field] = value
    (found,) = parse_groups(json.dumps(report), LOOPS)
    assert len(found.unfit) == 1
    assert why in found.unfit[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        REPORT.replace('"74"', '"many"'),
        REPORT.replace("0ZWo00-", "short-"),
        REPORT.replace('"vg-a"', '"../a"'),
    ],
)
def test_a_report_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(BadDocument, match="lvm: cannot read its report"):
        parse_groups(text, LOOPS)


# As vgcfgbackup of LVM 2.03.31 writes it, shortened; a volume is named as a device is.
METADATA = """\
# Generated by LVM2 version 2.03.31(2) (2025-02-27)

contents = "Text Format Volume Group"
version = 1

vg-a {
\tid = "0ZWo00-WrOd-fK0X-voOa-LHph-2dkG-bkt977"
\tseqno = 4
\tformat = "lvm2"

\tphysical_volumes {

\t\tpv0 {
\t\t\tid = "ABCDEF-1111-2222-3333-4444-5555-666666"
\t\t\tdevice = "/dev/loop20"
\t\t}
\t}

\tlogical_volumes {

\t\tpv0 {
\t\t\tid = "1Zbmub-nnvz-pLQE-V16a-1L0y-2dwR-e7Wlml"
\t\t\tstatus = ["READ", "WRITE", "VISIBLE"]
\t\t\tsegment_count = 1
\t\t}

\t\tpv0_rmeta_0 {
\t\t\tid = "2Zbmub-nnvz-pLQE-V16a-1L0y-2dwR-e7Wlml"
\t\t}
\t}
}
"""


def test_only_the_uuids_of_the_metadata_change() -> None:
    lv = volume(LvKind.RAID1, "pv0")
    text = with_uuids(METADATA, GROUP, [lv])
    there = METADATA.replace("0ZWo00-WrOd-fK0X-voOa-LHph-2dkG-bkt977", GROUP.uuid)
    assert text == there.replace("1Zbmub-nnvz-pLQE-V16a-1L0y-2dwR-e7Wlml", lv.uuid)


def test_metadata_of_another_group_are_not_changed() -> None:
    with pytest.raises(DiskError, match="0 places for the UUID"):
        with_uuids(METADATA, GROUP, [volume(LvKind.LINEAR, "absent")])
