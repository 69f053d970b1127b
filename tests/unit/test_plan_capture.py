"""The capture decision: what is read and how, and every reason why a disk is not captured."""

import re
from typing import Any

import msgspec
import pytest

from agent.errors import SourceUnfit
from agent.model.found import (
    CaptureMethod,
    CapturePlan,
    FoundContent,
    FoundDisk,
    FoundSystem,
    RedactedFile,
    Survey,
)
from agent.model.job import CaptureSpec
from agent.model.layout import Ext, Raw, Swap, Vfat, Xfs
from agent.model.nodes import (
    BIOS_BOOT_TYPE,
    ESP_TYPE,
    LINUX_TYPE,
    PENDING_TYPE,
    SWAP_TYPE,
    Disk,
    Gpt,
)
from agent.model.steps import MountPoint
from agent.model.template import Firmware
from agent.model.wire import decode, encode
from agent.planning.capture import plan_capture, template_config
from agent.planning.deploy import plan_deploy
from agent.units import GiB, KiB, MiB
from tests.unit.make_plan import (
    DISK_UUID,
    JOB,
    guid,
    make_drive,
    make_inventory,
    make_os,
    make_partition,
    make_spec,
)

SPEC = CaptureSpec(name="demo")


EXT = Ext(uuid=guid(101), label="root", block_bytes=4096, features=("extent",))
SWAP = Swap(uuid=guid(102), label="", page_bytes=4096)


def make_content(number: int, size: int, **more: Any) -> FoundContent:
    content = FoundContent(
        on=f"disk0p{number}",
        path=f"/dev/vda{number}",
        content=Raw(),
        content_bytes=size,
        used_bytes=size,
        minimum_bytes=size,
    )
    return msgspec.structs.replace(content, **more)


def make_found(**changes: Any) -> FoundSystem:
    disk = Disk(
        id="disk0",
        size_bytes=4 * GiB,
        sector_bytes=512,
        physical_sector_bytes=512,
        table=Gpt(uuid=DISK_UUID),
    )
    parts = (
        make_partition(1, MiB, MiB, type=BIOS_BOOT_TYPE),
        make_partition(2, 2 * MiB, 64 * MiB, type=ESP_TYPE),
        make_partition(3, 66 * MiB, 3 * GiB),
        make_partition(4, 66 * MiB + 3 * GiB, 256 * MiB, type=SWAP_TYPE),
    )
    found = FoundSystem(
        disks=(FoundDisk(id="disk0", boot_code=True),),
        nodes=(disk, *parts),
        paths={"disk0": "/dev/vda"} | {part.id: f"/dev/vda{part.number}" for part in parts},
        contents=(
            make_content(1, MiB),
            make_content(2, 64 * MiB, what="vfat", content=Vfat(uuid="ABCD-1234", label="")),
            make_content(
                3,
                3 * GiB,
                what="ext4",
                content=EXT,
                used_bytes=GiB,
                minimum_bytes=GiB + 100 * MiB,
            ),
            make_content(
                4, 256 * MiB, what="swap", content=SWAP, used_bytes=0, minimum_bytes=40 * KiB
            ),
        ),
        efi_loader="EFI/debian/shimx64.efi",
        has_fallback_loader=True,
    )
    return msgspec.structs.replace(found, **changes)


def with_partition(which: int, /, **fields: Any) -> FoundSystem:
    found = make_found()
    nodes = tuple(
        msgspec.structs.replace(node, **fields) if node.id == f"disk0p{which}" else node
        for node in found.nodes
    )
    return msgspec.structs.replace(found, nodes=nodes)


def with_content(which: int, /, **fields: Any) -> FoundSystem:
    found = make_found()
    contents = tuple(
        msgspec.structs.replace(one, **fields) if one.on == f"disk0p{which}" else one
        for one in found.contents
    )
    return msgspec.structs.replace(found, contents=contents)


def make_survey(**changes: Any) -> Survey:
    survey = Survey(
        os=make_os(),
        root="disk0p3",
        mounts=(
            MountPoint(node="disk0p2", where="/boot/efi"),
            MountPoint(node="disk0p3", where="/"),
        ),
        redacted=(
            RedactedFile(
                on="disk0p3", path="/etc/machine-id", size_bytes=33, runs=((40960, 4096),)
            ),
        ),
    )
    return msgspec.structs.replace(survey, **changes)


def plan(
    found: FoundSystem | None = None, survey: Survey | None = None, spec: CaptureSpec = SPEC
) -> CapturePlan:
    drive = make_drive(size_bytes=4 * GiB)
    return plan_capture(
        make_inventory(drive), found or make_found(), survey or make_survey(), spec, (drive,)
    )


def test_each_volume_is_read_in_its_own_way() -> None:
    made = plan()
    assert {read.volume: (read.on, read.method) for read in made.volumes} == {
        "boot-code": ("disk0", CaptureMethod.BOOT_CODE),
        "bios-boot": ("disk0p1", CaptureMethod.WHOLE),
        "esp": ("disk0p2", CaptureMethod.USED_BLOCKS),
        "root": ("disk0p3", CaptureMethod.USED_BLOCKS),
        "swap": ("disk0p4", CaptureMethod.HEADER),
    }
    assert made.boots == (Firmware.BIOS, Firmware.UEFI)
    assert made.layout.volume("root").mount == "/"
    assert made.layout.volume("root").minimum_bytes == GiB + 100 * MiB


def test_what_is_left_out_is_known_by_place_and_by_path() -> None:
    made = plan()
    root = next(read for read in made.volumes if read.volume == "root")
    assert root.redacted == ((40960, 4096),)
    assert [(gone.volume, gone.path, gone.bytes) for gone in made.redactions] == [
        ("root", "/etc/machine-id", 33)
    ]


def test_identity_is_kept_only_when_asked() -> None:
    kept = plan(spec=CaptureSpec(name="demo", keep_identity=True))
    assert kept.redactions == ()
    assert all(read.redacted == () for read in kept.volumes)
    assert any("stay in the template" in note for note in kept.notes)


def test_what_is_captured_can_be_deployed() -> None:
    inventory = make_inventory()
    config = template_config(plan(), inventory, "2026-11-23T12:00:00Z", "metalcast 0.1.0")
    again = decode(encode(config), type(config), "config")
    made = plan_deploy(inventory, again, make_spec(), {"disk0": make_drive()}, JOB)
    assert made.disks[0].table is not None
    assert made.disks[0].table.table == Gpt(uuid=DISK_UUID)


def test_a_disk_without_efi_loader_serves_a_bios_only() -> None:
    assert plan(make_found(efi_loader=None)).boots == (Firmware.BIOS,)
    assert plan(make_found(disks=(FoundDisk(id="disk0"),))).boots == (Firmware.UEFI,)
    assert "boot-code" not in {
        r.volume for r in plan(make_found(disks=(FoundDisk(id="disk0"),))).volumes
    }


def test_two_volumes_never_share_a_name() -> None:
    survey = make_survey(
        mounts=(
            MountPoint(node="disk0p3", where="/"),
            MountPoint(node="disk0p1", where="/srv/a"),
            MountPoint(node="disk0p2", where="/srv-a"),
        )
    )
    found = with_partition(2, type=LINUX_TYPE)
    names = [volume.id for volume in plan(found, survey).layout.volumes]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "where", ["/", "/disk0", "/disk0p1", "/boot-code", "/ü", "/0", "/" + "x" * 90]
)
def test_any_mount_point_gives_a_volume_a_lawful_name(where: str) -> None:
    survey = make_survey(mounts=(MountPoint(node="disk0p3", where=where),))
    made = plan(survey=survey)
    decode(encode(made.layout), type(made.layout), "layout")


def test_without_a_fallback_loader_the_page_says_so() -> None:
    assert any(
        "no fallback loader" in note for note in plan(make_found(has_fallback_loader=False)).notes
    )


def test_what_we_cannot_look_into_is_kept_whole_and_said() -> None:
    made = plan(with_content(3, what="BitLocker", content=Raw()))
    assert any("partition 3 of /dev/vda (BitLocker) is kept whole" in note for note in made.notes)
    assert next(r for r in made.volumes if r.on == "disk0p3").method is CaptureMethod.WHOLE


def test_xfs_is_captured_by_its_used_blocks() -> None:
    xfs = Xfs(uuid=guid(101), label="", block_bytes=4096)
    made = plan(with_content(3, what="xfs", content=xfs))
    assert next(r for r in made.volumes if r.on == "disk0p3").method is CaptureMethod.USED_BLOCKS
    volume = next(v for v in made.layout.volumes if isinstance(v.content, Xfs))
    assert volume.minimum_bytes > 0


UNFIT: dict[str, tuple[FoundSystem, str]] = {
    "an array": (make_found(unfit=("md0 lacks 2 of 3 members",)), "md0 lacks 2"),
    "no partitions": (make_found(nodes=make_found().nodes[:1], contents=()), "has no partitions"),
    "dirty": (with_content(3, unfit=("not shut down cleanly",)), "not shut down cleanly"),
    "hibernated": (with_content(4, what="swsuspend"), "hibernated system"),
    "half deployed": (with_partition(3, type=PENDING_TYPE), "half-done deployment"),
    "zfs": (with_content(3, what="zfs_member"), "one part of something larger"),
    "ambiguous": (with_content(3, what="ambiguous"), "several signatures"),
    "longer than its partition": (with_content(3, content_bytes=4 * GiB), "longer than"),
    "overlap": (with_partition(3, offset_bytes=4 * MiB), "overlap"),
    "boots nothing": (
        make_found(disks=(FoundDisk(id="disk0"),), efi_loader=None),
        "nothing on /dev/vda boots",
    ),
    "number": (with_partition(4, number=129), "number above 128"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_it_is_refused(name: str) -> None:
    found, expected = UNFIT[name]
    with pytest.raises(SourceUnfit, match=re.escape(expected)):
        plan(found)


def test_a_disk_in_use_is_refused() -> None:
    drive = make_drive(users=("/ (/dev/vda3)",))
    with pytest.raises(SourceUnfit, match="in use"):
        plan_capture(make_inventory(drive), make_found(), make_survey(), SPEC, (drive,))


def test_a_file_without_a_place_is_refused_unless_identity_is_kept() -> None:
    survey = make_survey(unfit=("the bytes of /etc/machine-id have no blocks of their own",))
    with pytest.raises(SourceUnfit, match="no blocks of their own"):
        plan(survey=survey)
    plan(survey=survey, spec=CaptureSpec(name="demo", keep_identity=True))


def test_all_reasons_come_at_once() -> None:
    found = msgspec.structs.replace(
        with_content(3, unfit=("dirty",)),
        disks=(FoundDisk(id="disk0"),),
        efi_loader=None,
        unfit=("md0 is dirty",),
    )
    with pytest.raises(SourceUnfit) as caught:
        plan(found)
    assert len(caught.value.objections) == 3
