"""Every layout captured and deployed to bigger disks: files equal, checked, source untouched."""

import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.errors import DiskError, StepFailed
from agent.model.job import DeploySpec, Identity, Verify
from agent.model.layout import Btrfs, BtrfsDevice
from agent.model.md_size import is_redundant
from agent.model.nodes import BIOS_BOOT_TYPE, MD_UUID, PENDING_TYPE, Array, Partition
from agent.source.open import opened_system
from agent.system import block
from agent.system.mount import SOURCE_OPTIONS, Part, mounted_system
from agent.tools import boot_sector, filesystems
from agent.tools.btrfs_map import btrfs_facts
from agent.units import MiB
from tests.guest import in_step, layouts, workbench
from tests.guest.conftest import sh
from tests.guest.whole_way import (
    KEYS,
    bench,
    captured,
    deployed,
    on_targets,
    shortened,
    source_parts,
)
from tests.guest.workbench import RUN, Bench, Source, drive_of, mounted_btrfs, scrub

__all__ = ["bench"]

SAME: dict[str, Callable[[Bench], Source]] = {
    "ext4 on GPT": layouts.gpt(),
    "xfs on GPT": layouts.gpt("xfs"),
    "ext4 on GPT of 4096": layouts.gpt(sector_bytes=4096),
    "btrfs with subvolumes": layouts.btrfs_subvolumes,
    "logical root on MBR": layouts.mbr_logical,
    "two disks, one bare": layouts.two_disks,
    "RAID 1 and an ESP on both legs": layouts.md("1", 2),
    "RAID 0": layouts.md("0", 2),
    "RAID 5 of three": layouts.md("5", 3),
    "RAID 6 of four": layouts.md("6", 4),
    "RAID 10 of four": layouts.md("10", 4),
    "RAID 1, metadata 0.90": layouts.md("1", 2, "--metadata=0.90"),
    "RAID 1 of bare disks": layouts.md_whole_disks,
    "linear, of bare disks": layouts.linear,
    "a table in a RAID 1": layouts.table_in_md("1", 2, "--metadata=1.0"),
    "a table in a RAID 5": layouts.table_in_md("5", 3, "--metadata=1.2"),
    "Intel's RAID 1": layouts.imsm("1", 2),
    "Intel's RAID 0": layouts.imsm("0", 2, "--chunk=64"),
    "Intel's RAID 5": layouts.imsm("5", 3),
    "Intel's RAID 10": layouts.imsm("10", 4),
    "LVM of two disks, striped": layouts.lvm(),
    "xfs on LVM": layouts.lvm("xfs"),
    "thin volumes": layouts.thin,
    "LUKS2": layouts.luks(),
    "LUKS1": layouts.luks("1"),
    "LVM on LUKS on RAID 1": layouts.lvm_on_luks_on_md,
}

SHORT_SAME = (
    "btrfs with subvolumes",
    "logical root on MBR",
    "Intel's RAID 1",
    "thin volumes",
    "LVM on LUKS on RAID 1",
)
"""Those of the short run; the others are in the long matrix."""


@pytest.mark.parametrize("name", shortened(SAME, SHORT_SAME))
def test_the_same_layout_on_bigger_disks(name: str, bench: Bench, tmp_path: Path) -> None:
    source = SAME[name](bench)
    with captured(bench, source, tmp_path / "mnt") as taken:
        layout = taken.template.config.layout
        targets = {
            disk.id: drive_of(bench.disk(disk.size_bytes // 2**20 + 64, disk.sector_bytes))
            for disk in layout.disks
        }
        spec = DeploySpec(template="demo:latest", verify=Verify.FULL, keys=KEYS)
        plan, _ = deployed(taken.template, targets, spec, tmp_path / "mnt")
    bench.stop()
    arrays = [node for node in layout.nodes if isinstance(node, Array)]
    if any(is_redundant(one.level) for one in arrays):
        assert in_step.checked([Path(disk.path) for disk in targets.values()]) == 0
    assert on_targets(plan, targets, tmp_path / "mnt") == taken.tree
    for disk in targets.values():
        assert block.size_bytes(Path(disk.path)) == disk.size_bytes


@pytest.mark.full
def test_a_deployment_that_fails_leaves_no_array_that_boots(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise DiskError("a filesystem is not sound")

    monkeypatch.setattr(filesystems, "check", fail)
    source = layouts.table_in_md("1", 2, "--metadata=1.0")(bench)
    with captured(bench, source, tmp_path / "mnt") as taken:
        targets = {name: drive_of(bench.disk(192)) for name in ("disk0", "disk1")}
        spec = DeploySpec(template="demo:latest", verify=Verify.NONE)
        with pytest.raises(StepFailed):
            deployed(taken.template, targets, spec, tmp_path / "mnt")
    assert "active" not in Path("/proc/mdstat").read_text()
    for disk in targets.values():
        assert boot_sector.read_boot_code(Path(disk.path)) == boot_sector.PENDING_STUB
    drives = {name: drive_of(Path(one.path)) for name, one in targets.items()}
    with opened_system(RUN, drives) as found:
        parts = [node for node in found.nodes if isinstance(node, Partition)]
        types = [BIOS_BOOT_TYPE, PENDING_TYPE, PENDING_TYPE]
        assert [(part.on, part.type) for part in parts] == [("md0", one) for one in types]


@pytest.mark.full
def test_a_system_on_intels_raid_goes_by_its_new_uuid(bench: Bench, tmp_path: Path) -> None:
    source = layouts.imsm("1", 2)(bench)

    def names_itself(where: Path) -> None:
        (where / "etc").mkdir(exist_ok=True)
        (where / "etc/mdadm.conf").write_text(sh("mdadm", "--detail", "--scan"))

    with captured(bench, source, tmp_path / "mnt", names_itself) as taken:
        (array,) = [one for one in taken.template.config.layout.nodes if isinstance(one, Array)]
        targets = {name: drive_of(bench.disk(160)) for name in ("disk0", "disk1")}
        spec = DeploySpec(template="demo:latest", verify=Verify.NONE)
        deployed(taken.template, targets, spec, tmp_path / "mnt")
    there = {name: drive_of(Path(one.path)) for name, one in targets.items()}
    with opened_system(RUN, there) as on:
        (made,) = [one for one in on.nodes if isinstance(one, Array)]
        assert made.uuid != array.uuid
        (root,) = [one for one in on.contents if one.what == "ext4"]
        with mounted_system(RUN, tmp_path / "mnt", [Part(Path(root.path), "/")], SOURCE_OPTIONS):
            said = (tmp_path / "mnt/etc/mdadm.conf").read_text()
        wanted = sh("mdadm", "--detail", "--scan")
    assert array.uuid not in said
    assert uuids_in(said) == uuids_in(wanted)


def uuids_in(text: str) -> set[str]:
    return set(re.findall(MD_UUID, text))


@pytest.mark.full
def test_a_hybrid_mbr_names_the_partitions_where_they_are(bench: Bench, tmp_path: Path) -> None:
    with captured(bench, layouts.hybrid(bench), tmp_path / "mnt") as taken:
        target = drive_of(bench.disk(512))
        spec = DeploySpec(template="demo:latest", verify=Verify.FULL)
        plan, _ = deployed(taken.template, {"disk0": target}, spec, tmp_path / "mnt")
    assert on_targets(plan, {"disk0": target}, tmp_path / "mnt") == taken.tree
    data = bytes.fromhex(boot_sector.read_hybrid_entries(Path(target.path)) or "")
    entries = [struct.unpack("<B3sB3sII", data[at : at + 16]) for at in range(0, 48, 16)]
    parts = {part.number: part for part in plan.layout.partitions("disk0")}
    assert parts[4].size_bytes > 200 * MiB  # it has grown
    named = [(entry[0], entry[2], entry[4], entry[5]) for entry in entries[1:]]
    assert named == [
        (0x80, 0x83, parts[4].offset_bytes // 512, parts[4].size_bytes // 512),
        (0x00, 0x0C, parts[2].offset_bytes // 512, parts[2].size_bytes // 512),
    ]


@pytest.mark.full
def test_a_btrfs_on_two_disks_comes_along(bench: Bench, tmp_path: Path) -> None:
    system, place = layouts.gpt()(bench), tmp_path / "pair"
    pair = (bench.disk(256), bench.disk(256))
    workbench.make("btrfs", pair[0], "--data=raid1", "--metadata=raid1", str(pair[1]))
    with mounted_btrfs(pair, place):
        (place / "known").mkdir()
        for number in range(40):
            (place / f"known/f{number}").write_bytes(os.urandom(number * 9000))
        before = known_in(place)
    with captured(bench, Source((*system.disks, *pair), system.mounts), tmp_path / "mnt") as taken:
        config = taken.template.config
        whole = [one for one in config.layout.volumes if one.size_bytes == 256 * MiB]
        assert [type(one.content) for one in whole] == [Btrfs, BtrfsDevice]
        assert all(one.used_bytes < 64 * MiB for one in whole)
        workbench.forget_btrfs(*pair)
        targets = {
            disk.id: drive_of(bench.disk(disk.size_bytes // MiB + 64))
            for disk in config.layout.disks
        }
        spec = DeploySpec(template="demo:latest", verify=Verify.FULL)
        plan, _ = deployed(taken.template, targets, spec, tmp_path / "mnt")
    bench.stop()
    assert on_targets(plan, targets, tmp_path / "mnt") == taken.tree
    copies = [Path(targets[one.on].path) for one in whole]
    with mounted_btrfs(copies, place):
        assert known_in(place) == before
        scrub(place)


@pytest.mark.full
def test_a_system_on_a_btrfs_of_two_disks(bench: Bench, tmp_path: Path) -> None:
    source, where = layouts.btrfs_of_two(bench), tmp_path / "mnt"

    def with_a_secret(top: Path) -> None:
        (top / "etc/ssh").mkdir(parents=True)
        (top / "etc/ssh/ssh_host_ed25519_key").write_text("a secret\n")

    with captured(bench, source, where, with_a_secret) as taken:
        config = taken.template.config
        kinds = {type(one.content): one for one in config.layout.volumes}
        assert (kinds[Btrfs].id, kinds[BtrfsDevice].on) == ("root", "disk1p2")
        assert all(one.used_bytes < 100 * MiB for one in kinds.values())
        assert [one.path for one in config.redactions] == ["/etc/ssh/ssh_host_ed25519_key"]
        root = source_parts(source)[0]
        workbench.forget_btrfs(root.device, *root.further)
        targets = {disk.id: drive_of(bench.disk(512)) for disk in config.layout.disks}
        spec = DeploySpec(
            template="demo:latest", verify=Verify.FULL, identity=Identity(hostname="copy")
        )
        plan, _ = deployed(taken.template, targets, spec, where)
    assert on_targets(plan, targets, where) == taken.tree
    parts = [Path(f"{target.path}p2") for target in targets.values()]
    assert all(btrfs_facts(part).size_bytes > 480 * MiB for part in parts)
    with mounted_btrfs(parts, where, "subvol=@rootfs"):
        assert (where / "etc/hostname").read_text() == "copy\n"
        key = where / "etc/ssh/ssh_host_ed25519_key"
        assert not key.exists() or key.read_text() != "a secret\n"
        scrub(where)


def known_in(where: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (where / "known").iterdir()}
