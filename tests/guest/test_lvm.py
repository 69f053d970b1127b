"""Volume groups on real devices: read, copied without a write to the source, made anew, grown."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.errors import SourceUnfit
from agent.model.lvm_size import usable_extents
from agent.model.nodes import LogicalVolume, LvKind, PhysicalVolume, VolumeGroup
from agent.system import block
from agent.system.command import Run
from agent.tools import lvm
from agent.units import MiB
from tests.guest.conftest import sh

RUN = Run()
EXTENT = 4 * MiB
Loops = Callable[..., list[Path]]


@pytest.fixture
def loops(tmp_path: Path) -> Iterator[Loops]:
    """Returns a maker of blank loop disks without partitions; their files are `disk-N`."""
    made: list[Path] = []

    def make(*sizes: int) -> list[Path]:
        for size in sizes:
            file = tmp_path / f"disk-{len(made)}"
            file.touch()
            os.truncate(file, size)
            made.append(Path(sh("losetup", "--find", "--show", file).strip()))
        return made[-len(sizes) :]

    yield make
    for loop in made:
        sh("losetup", "--detach", loop)


def on(devices: list[Path]) -> dict[str, Path]:
    return {f"disk{n}": device for n, device in enumerate(devices)}


def tool(devices: Mapping[str, Path], *words: str | Path) -> str:
    """Run a command of LVM as a person would, on these devices."""
    program, *rest = words
    seen = ["--devices", ",".join(str(device) for device in devices.values())]
    config = ["--config", 'global { thin_check_executable="" } activation { monitoring=0 }']
    return sh(program, *seen, *config, "--yes", *rest)


def fill(path: Path) -> bytes:
    """Write a MiB at both ends of a volume; return all that it then holds."""
    with path.open("r+b") as file:
        file.write(os.urandom(MiB))
        file.seek(-MiB, os.SEEK_END)
        file.write(os.urandom(MiB))
        file.flush()
        os.fsync(file.fileno())
    block.flush(path)
    return path.read_bytes()


def put(path: Path, held: bytes) -> None:
    """Write what is not zero of `held`, as a restore does: a thin volume has no room for more."""
    with path.open("r+b") as file:
        for offset in range(0, len(held), MiB):
            if piece := held[offset : offset + MiB].rstrip(b"\0"):
                file.seek(offset)
                file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def make_source(devices: Mapping[str, Path]) -> dict[str, bytes]:
    """Make a group with volumes of five kinds; return what they hold, by name."""
    tool(devices, "vgcreate", "vg-src", *devices.values())
    for words in (
        "--type raid1 --mirrors 1 --extents 3 --name boot --regionsize 512k",
        "--type striped --stripes 2 --stripesize 64k --extents 4 --name fast",
        "--type thin-pool --chunksize 128k --extents 8 --poolmetadatasize 4m --name pool",
        "--type linear --extents 26 --name root",
        "--type thin --virtualsize 64m --thinpool pool --name thin",
    ):
        tool(devices, "lvcreate", *words.split(), "vg-src")
    names = ("boot", "fast", "root", "thin")
    held = {name: fill(lvm.mapper_path("vg-src", name)) for name in names}
    tool(devices, "lvcreate", "--snapshot", "--name", "snap", "vg-src/thin")
    held["snap"] = held["thin"]
    tool(devices, "vgchange", "--activate", "n", "vg-src")
    return held


def test_a_group_goes_to_other_disks(loops: Loops, scratch: list[Path]) -> None:
    """Its volumes are read without a write to their disks, and made anew with their UUIDs."""
    source = on(loops(128 * MiB, 160 * MiB))
    target = on(scratch[1:])
    held = make_source(source)
    before = [path.read_bytes() for path in source.values()]

    (found,) = lvm.read_groups(RUN, source)
    assert found.unfit == ()
    assert len(found.notes) == 1
    group = found.group
    assert (group.id, group.name, group.extent_bytes) == ("vg0", "vg-src", EXTENT)
    assert [(one.on, one.size_bytes // EXTENT) for one in group.physical] == [
        ("disk0", usable_extents(128 * MiB, EXTENT)),
        ("disk1", usable_extents(160 * MiB, EXTENT)),
    ]
    shapes = {lv.name: msgspec.to_builtins(lv) for lv in found.volumes}
    assert list(shapes) == ["boot", "fast", "pool", "root", "snap", "thin"]
    assert shapes["boot"]["lv"] == "raid1"
    assert (shapes["boot"]["mirrors"], shapes["boot"]["region_bytes"]) == (1, 512 * 1024)
    assert (shapes["fast"]["stripes"], shapes["fast"]["stripe_bytes"]) == (2, 64 * 1024)
    assert (shapes["pool"]["chunk_bytes"], shapes["pool"]["metadata_bytes"]) == (
        128 * 1024,
        4 * MiB,
    )
    assert shapes["thin"]["pool"] == shapes["pool"]["id"]
    assert shapes["thin"]["size_bytes"] == 64 * MiB

    with lvm.active_read_only(RUN, found, source) as paths:
        assert all(block.is_read_only(device) for device in source.values())
        with pytest.raises(OSError):
            next(iter(source.values())).write_bytes(b"x" * 512)
        for lv in found.volumes:
            if lv.lv is not LvKind.THIN_POOL:
                assert paths[lv.id].read_bytes() == held[lv.name], lv.name
    assert sh("dmsetup", "ls").strip() == "No devices found"
    assert not any(block.is_read_only(device) for device in source.values())
    for path in source.values():
        block.flush(path)
    assert [path.read_bytes() for path in source.values()] == before

    make(group, found.volumes, target)
    for lv in found.volumes:
        if lv.lv is not LvKind.THIN_POOL:
            path = lvm.mapper_path("vg-src", lv.name)
            assert path.resolve() == Path("/dev/vg-src", lv.name).resolve()
            put(path, held[lv.name])
    lvm.deactivate(RUN, group, target)
    lvm.keep_uuids(RUN, group, found.volumes, target)

    (copy,) = lvm.read_groups(RUN, target)
    assert copy.unfit == ()
    assert copy.volumes == found.volumes
    assert (copy.group.name, copy.group.uuid) == (group.name, group.uuid)
    assert [one.uuid for one in copy.group.physical] == [one.uuid for one in group.physical]
    with lvm.active_read_only(RUN, copy, target) as paths:
        for lv in copy.volumes:
            if lv.lv is not LvKind.THIN_POOL:
                assert paths[lv.id].read_bytes() == held[lv.name], lv.name

    # Of one name, and here even of one UUID: neither is taken for the other.
    both = {**source, "disk2": target["disk0"], "disk3": target["disk1"]}
    assert all(
        "disk2" not in [m.on for m in one.group.physical] or one.unfit
        for one in lvm.read_groups(RUN, both)
    )


def make(
    group: VolumeGroup, volumes: tuple[LogicalVolume, ...], devices: Mapping[str, Path]
) -> None:
    by_id = {lv.id: lv for lv in volumes}
    for one in group.physical:
        lvm.make_physical(RUN, devices[one.on], one.uuid)
    lvm.make_group(RUN, group, devices)
    for lv in volumes:
        path = lvm.make_logical(RUN, group, lv, by_id.get(lv.pool or ""), devices)
        assert lv.lv is LvKind.THIN_POOL or block.size_bytes(path) == lv.size_bytes


def a_group(count: int) -> VolumeGroup:
    members = tuple(
        PhysicalVolume(
            on=f"disk{n}", uuid=f"Made0{n}-aaaa-bbbb-cccc-dddd-eeee-ffff0{n}", size_bytes=0
        )
        for n in range(count)
    )
    return VolumeGroup(
        id="vg0",
        physical=members,
        name="made",
        uuid="Group0-aaaa-bbbb-cccc-dddd-eeee-ffffff",
        extent_bytes=MiB,
    )


RAIDS: dict[LvKind, dict[str, Any]] = {
    LvKind.RAID0: {"stripes": 2, "stripe_bytes": 64 * 1024},
    LvKind.RAID5: {"stripes": 2, "stripe_bytes": 64 * 1024, "region_bytes": 512 * 1024},
    LvKind.RAID6: {"stripes": 3, "stripe_bytes": 64 * 1024, "region_bytes": 512 * 1024},
    LvKind.RAID10: {
        "stripes": 2,
        "stripe_bytes": 64 * 1024,
        "region_bytes": 512 * 1024,
        "mirrors": 1,
    },
    LvKind.MIRROR: {"mirrors": 2, "region_bytes": 512 * 1024},
}


def test_each_raid_is_made_as_it_was_read(loops: Loops) -> None:
    devices = on(loops(*[48 * MiB] * 5))
    group = a_group(5)
    volumes = tuple(
        LogicalVolume(
            id=f"vg0lv{n}",
            on="vg0",
            name=kind.value,
            uuid=f"Volum{n}-aaaa-bbbb-cccc-dddd-eeee-ffffff",
            lv=kind,
            size_bytes=6 * MiB,
            **shape,
        )
        for n, (kind, shape) in enumerate(RAIDS.items())
    )
    make(group, volumes, devices)
    held = {lv.name: fill(lvm.mapper_path("made", lv.name)) for lv in volumes}
    for lv in volumes:
        if lv.lv is not LvKind.RAID0:
            in_step(lv, devices)
    lvm.deactivate(RUN, group, devices)
    (found,) = lvm.read_groups(RUN, devices)
    assert found.unfit == ()
    for lv in volumes:
        again = next(one for one in found.volumes if one.name == lv.name)
        kind = LvKind.RAID1 if lv.lv is LvKind.MIRROR else lv.lv
        assert again == msgspec.structs.replace(lv, id=again.id, uuid=again.uuid, lv=kind)
    with lvm.active_read_only(RUN, found, devices) as paths:
        for lv in found.volumes:
            assert paths[lv.id].read_bytes() == held[lv.name], lv.name


def in_step(lv: LogicalVolume, devices: Mapping[str, Path]) -> None:
    """Wait for the sync, then let the kernel compare what the devices of the raid hold."""
    name = f"made/{lv.name}"
    words = ("lvs", "--noheadings", "--options", "sync_percent", name)
    for _ in range(60):
        if tool(devices, *words).strip() == "100.00":
            break
    assert tool(devices, *words).strip() == "100.00"
    mapped = lvm.mapper_path("made", lv.name)
    sh("dmsetup", "message", mapped, "0", "check")
    for _ in range(300):
        fields = sh("dmsetup", "status", mapped).split()
        if fields[7] == "idle":
            break
    assert fields[7:9] == ["idle", "0"], name


def test_what_is_not_captured_is_refused_with_what_to_do(loops: Loops) -> None:
    devices = on(loops(64 * MiB, 64 * MiB))
    first, second = devices.values()
    tool(devices, "vgcreate", "vg", first, second)
    for words in (
        "--type linear --extents 2 --name slow vg",
        "--type linear --extents 2 --name plain vg",
        "--type cache --cachevol fast --size 8m --name x vg/slow",
        "--snapshot --extents 2 --name snap vg/plain",
    ):
        if "cachevol" in words:
            tool(devices, "lvcreate", "--type", "linear", "--extents", "3", "--name", "fast", "vg")
            config = ["--type", "cache", "--cachevol", "fast", "vg/slow"]
            tool(devices, "lvconvert", *config)
        else:
            tool(devices, "lvcreate", *words.split())
    tool(devices, "vgchange", "--activate", "n", "vg")
    (found,) = lvm.read_groups(RUN, devices)
    said = "\n".join(found.unfit)
    assert (
        "vg/slow is of type cache, which is not captured: run: lvconvert --uncache vg/slow" in said
    )
    assert "vg/snap is a snapshot of plain, which is not captured: run: lvremove vg/snap" in said
    with (
        pytest.raises(SourceUnfit, match="uncache"),
        lvm.active_read_only(RUN, found, devices),
    ):
        pass

    (half,) = lvm.read_groups(RUN, {"disk1": second})
    assert [one.on for one in half.group.physical] == ["disk1"]
    assert "the volume group vg lacks 1 of its devices" in half.unfit[0]
    assert "vgreduce --removemissing vg" in half.unfit[0]

    tool(devices, "vgexport", "vg")
    (found,) = lvm.read_groups(RUN, devices)
    assert any("is exported: run: vgimport vg" in said for said in found.unfit)


def test_two_groups_of_one_name_are_told_apart(loops: Loops) -> None:
    devices = on(loops(32 * MiB, 32 * MiB))
    for number, device in devices.items():
        tool({number: device}, "vgcreate", "ubuntu-vg", device)
        tool(
            {number: device},
            "lvcreate",
            "-an",
            "-Zn",
            "--extents",
            "1",
            "--name",
            number,
            "ubuntu-vg",
        )
    one, two = lvm.read_groups(RUN, devices)
    assert [found.group.physical[0].on for found in (one, two)] == ["disk0", "disk1"]
    assert [found.volumes[0].name for found in (one, two)] == ["disk0", "disk1"]
    for found in (one, two):
        assert len(found.unfit) == 1
        assert "there are 2 volume groups named ubuntu-vg" in found.unfit[0]
        assert found.group.uuid in found.unfit[0]
    (alone,) = lvm.read_groups(RUN, {"disk1": devices["disk1"]})
    assert alone.unfit == ()


def test_a_volume_is_as_large_as_promised(loops: Loops) -> None:
    for size, extent in ((20 * MiB, 4 * MiB), (21 * MiB, 4 * MiB), (9 * MiB + 4096, MiB)):
        (device,) = loops(size)
        uuid = "Member-aaaa-bbbb-cccc-dddd-eeee-ffffff"
        group = VolumeGroup(
            id="vg0",
            physical=(PhysicalVolume(on="disk0", uuid=uuid, size_bytes=0),),
            name=f"vg{size}",
            uuid="Group0-aaaa-bbbb-cccc-dddd-eeee-ffffff",
            extent_bytes=extent,
        )
        lvm.make_physical(RUN, device, uuid)
        lvm.make_group(RUN, group, {"disk0": device})
        (found,) = lvm.read_groups(RUN, {"disk0": device})
        assert found.group.physical[0].size_bytes == usable_extents(size, extent) * extent
        assert found.group.physical[0].uuid == uuid
        assert found.volumes == ()
