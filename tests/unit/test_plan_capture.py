"""The capture decision: what is read and how, and every reason why a disk is not captured."""

import re
from typing import Any

import msgspec
import pytest

from agent.errors import SourceUnfit
from agent.model.job import CaptureSpec
from agent.model.layout import Xfs
from agent.model.nodes import (
    BIOS_BOOT_TYPE,
    ESP_TYPE,
    LINUX_TYPE,
    PENDING_TYPE,
    SWAP_TYPE,
)
from agent.model.plan import (
    CaptureMethod,
    CapturePlan,
    FoundLayout,
    FoundPartition,
    MountPoint,
    RedactedFile,
    Survey,
)
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
    make_spec,
)

SPEC = CaptureSpec(name="demo")


def make_partition(number: int, offset: int, size: int, **more: Any) -> FoundPartition:
    part = FoundPartition(
        number=number,
        offset_bytes=offset,
        size_bytes=size,
        type=LINUX_TYPE,
        uuid=guid(number),
        name="",
        content_bytes=size,
        used_bytes=size,
        minimum_bytes=size,
    )
    return msgspec.structs.replace(part, **more)


def make_found(**changes: Any) -> FoundLayout:
    found = FoundLayout(
        table="gpt",
        uuid=DISK_UUID,
        partitions=(
            make_partition(1, MiB, MiB, type=BIOS_BOOT_TYPE),
            make_partition(
                2, 2 * MiB, 64 * MiB, type=ESP_TYPE, what="vfat", content_uuid="ABCD-1234"
            ),
            make_partition(
                3,
                66 * MiB,
                3 * GiB,
                what="ext4",
                content_uuid=guid(101),
                label="root",
                block_bytes=4096,
                features=("extent",),
                used_bytes=GiB,
                minimum_bytes=GiB + 100 * MiB,
            ),
            make_partition(
                4,
                66 * MiB + 3 * GiB,
                256 * MiB,
                type=SWAP_TYPE,
                what="swap",
                content_uuid=guid(102),
                block_bytes=4096,
                used_bytes=0,
                minimum_bytes=40 * KiB,
            ),
        ),
        boot_code=True,
        efi_loader="EFI/debian/shimx64.efi",
        has_fallback_loader=True,
    )
    return msgspec.structs.replace(found, **changes)


def with_partition(which: int, /, **fields: Any) -> FoundLayout:
    found = make_found()
    parts = tuple(
        msgspec.structs.replace(part, **fields) if part.number == which else part
        for part in found.partitions
    )
    return msgspec.structs.replace(found, partitions=parts)


def make_survey(**changes: Any) -> Survey:
    survey = Survey(
        os=make_os(),
        root=3,
        mounts=(MountPoint(number=2, where="/boot/efi"), MountPoint(number=3, where="/")),
        redacted=(
            RedactedFile(number=3, path="/etc/machine-id", size_bytes=33, runs=((40960, 4096),)),
        ),
    )
    return msgspec.structs.replace(survey, **changes)


def plan(
    found: FoundLayout | None = None, survey: Survey | None = None, spec: CaptureSpec = SPEC
) -> CapturePlan:
    drive = make_drive(size_bytes=4 * GiB)
    return plan_capture(
        make_inventory(drive), found or make_found(), survey or make_survey(), spec, drive
    )


def test_each_volume_is_read_in_its_own_way() -> None:
    made = plan()
    assert {read.volume: (read.number, read.method) for read in made.volumes} == {
        "boot-code": (None, CaptureMethod.BOOT_CODE),
        "bios-boot": (1, CaptureMethod.WHOLE),
        "esp": (2, CaptureMethod.USED_BLOCKS),
        "root": (3, CaptureMethod.USED_BLOCKS),
        "swap": (4, CaptureMethod.HEADER),
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
    made = plan_deploy(inventory, again, make_spec(), make_drive(), JOB)
    assert made.table.uuid == DISK_UUID


def test_a_disk_without_efi_loader_serves_a_bios_only() -> None:
    assert plan(make_found(efi_loader=None)).boots == (Firmware.BIOS,)
    assert plan(make_found(boot_code=False)).boots == (Firmware.UEFI,)
    assert "boot-code" not in {r.volume for r in plan(make_found(boot_code=False)).volumes}


def test_two_volumes_never_share_a_name() -> None:
    survey = make_survey(
        mounts=(
            MountPoint(number=3, where="/"),
            MountPoint(number=1, where="/srv/a"),
            MountPoint(number=2, where="/srv-a"),
        )
    )
    found = with_partition(2, type=LINUX_TYPE)
    names = [volume.id for volume in plan(found, survey).layout.volumes]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "where", ["/", "/disk0", "/disk0p1", "/boot-code", "/ü", "/0", "/" + "x" * 90]
)
def test_any_mount_point_gives_a_volume_a_lawful_name(where: str) -> None:
    survey = make_survey(mounts=(MountPoint(number=3, where=where),))
    made = plan(survey=survey)
    decode(encode(made.layout), type(made.layout), "layout")


def test_without_a_fallback_loader_the_page_says_so() -> None:
    assert any(
        "no fallback loader" in note for note in plan(make_found(has_fallback_loader=False)).notes
    )


def test_what_we_cannot_look_into_is_kept_whole_and_said() -> None:
    made = plan(with_partition(3, what="LVM2_member"))
    assert any("partition 3 (LVM2_member) is kept whole" in note for note in made.notes)
    assert next(r for r in made.volumes if r.number == 3).method is CaptureMethod.WHOLE


def test_xfs_is_captured_by_its_used_blocks() -> None:
    made = plan(with_partition(3, what="xfs", block_bytes=4096))
    assert next(r for r in made.volumes if r.number == 3).method is CaptureMethod.USED_BLOCKS
    volume = next(v for v in made.layout.volumes if isinstance(v.content, Xfs))
    assert volume.minimum_bytes > 0
    assert any("partition 3 (xfs) is restored at its size" in note for note in made.notes)


UNFIT: dict[str, tuple[FoundLayout, str]] = {
    "no table": (make_found(table=None), "no partition table"),
    "a DOS table": (make_found(table="dos"), "of the kind dos"),
    "hybrid": (make_found(is_hybrid=True), "hybrid MBR"),
    "no partitions": (make_found(partitions=()), "has no partitions"),
    "dirty": (with_partition(3, unfit=("not shut down cleanly",)), "not shut down cleanly"),
    "hibernated": (with_partition(4, what="swsuspend"), "hibernated system"),
    "half deployed": (with_partition(3, type=PENDING_TYPE), "half-done deployment"),
    "md": (with_partition(3, what="linux_raid_member"), "one part of something larger"),
    "ambiguous": (with_partition(3, what="ambiguous"), "several signatures"),
    "longer than its partition": (with_partition(3, content_bytes=4 * GiB), "longer than"),
    "overlap": (with_partition(3, offset_bytes=4 * MiB), "overlap"),
    "boots nothing": (make_found(boot_code=False, efi_loader=None), "nothing on /dev/vda boots"),
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
        plan_capture(make_inventory(drive), make_found(), make_survey(), SPEC, drive)


def test_a_file_without_a_place_is_refused_unless_identity_is_kept() -> None:
    survey = make_survey(unfit=("the bytes of /etc/machine-id have no blocks of their own",))
    with pytest.raises(SourceUnfit, match="no blocks of their own"):
        plan(survey=survey)
    plan(survey=survey, spec=CaptureSpec(name="demo", keep_identity=True))


def test_all_reasons_come_at_once() -> None:
    found = msgspec.structs.replace(
        with_partition(3, unfit=("dirty",)), boot_code=False, efi_loader=None, is_hybrid=True
    )
    with pytest.raises(SourceUnfit) as caught:
        plan(found)
    assert len(caught.value.objections) == 3
