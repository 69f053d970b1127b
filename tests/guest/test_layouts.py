"""Every layout captured and deployed to bigger disks: files equal, checked, source untouched."""

import hashlib
import os
import re
import struct
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from agent.apply import Done, Host, apply
from agent.errors import DiskError, StepFailed
from agent.flows.capture import capture
from agent.flows.deploy import TemplateSource, luks_keys
from agent.flows.workplace import Workplace
from agent.model.filesystems import fstype_of
from agent.model.inventory import Drive
from agent.model.job import CaptureSpec, DeploySpec, DiskHints, Verify
from agent.model.keys import DiskKey
from agent.model.layout import BootCode, Raw
from agent.model.md_size import is_redundant
from agent.model.nodes import BIOS_BOOT_TYPE, PENDING_TYPE, Array, MdMetadata, Partition
from agent.model.plan import Plan
from agent.model.storage import (
    DiskAction,
    Filesystem,
    FormatAction,
    MountAction,
    PartitionAction,
    PartitionFlag,
    RaidAction,
    Shape,
    Storage,
)
from agent.planning.deploy import plan_deploy
from agent.report import Report, silent
from agent.source.open import opened_system
from agent.store.body import Limits
from agent.store.template import Template, open_template
from agent.system import block
from agent.system.mount import SOURCE_OPTIONS, Part, mounted_system
from agent.tools import boot_sector, filesystems
from agent.trust.keyring import Keyring
from agent.units import MiB
from tests.contracts.fake_registry import FakeRegistry
from tests.contracts.stream_builders import make_client
from tests.guest import layouts
from tests.guest.conftest import sh
from tests.guest.layouts import (
    RUN,
    Bench,
    Source,
    drive_of,
    fill,
    mounted_all,
    mounted_btrfs,
    scrub,
)
from tests.unit.make_plan import make_inventory

KEYS = (DiskKey(passphrase=layouts.KEY),)
PATIENT = Limits(connect_s=20, read_s=60, window_s=60)

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
    "two disks, one bare",
    "a table in a RAID 5",
    "Intel's RAID 1",
    "thin volumes",
    "LVM on LUKS on RAID 1",
)
"""Those of the short run; the others are in the long matrix."""
SHORT_OTHER = (
    "xfs to a smaller xfs",
    "one disk to RAID 1",
    "RAID 1 to one smaller disk",
    "plain to LUKS",
    "512 to 4096",
)


def shortened(cases: Iterable[str], short: Container[str]) -> list[ParameterSet]:
    return [pytest.param(case, marks=[] if case in short else pytest.mark.full) for case in cases]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    folder = tmp_path / "disks"
    folder.mkdir()
    made = Bench(folder)
    yield made
    made.close()


@dataclass(frozen=True)
class Captured:
    template: Template
    tree: dict[str, str]


@contextmanager
def captured(
    bench: Bench,
    source: Source,
    where: Path,
    change: Callable[[Path], None] = lambda _where: None,
) -> Iterator[Captured]:
    """Yield a template of `source`, filled; its disks must stay as they are to the last byte.

    `change` is called with the mounted system.
    """
    fill(source, where)
    with mounted_all(source.mounts, where):
        change(where)
    tree = known_files(source_parts(source), where)
    bench.stop()
    before = [digest(disk) for disk in source.disks]
    drives = [drive_of(disk) for disk in source.disks]
    sh("ip", "link", "set", "lo", "up")
    registry = FakeRegistry()
    with registry.serving() as url:
        client = make_client(url, limits=PATIENT)
        place = Workplace(RUN, make_inventory(*drives), silent, client, Keyring())
        spec = CaptureSpec(
            name="demo",
            disks=tuple(DiskHints(name=drive.path) for drive in drives),
            keys=KEYS,
        )
        result = capture(place, spec)
        assert [digest(disk) for disk in source.disks] == before
        yield Captured(open_template(client, result["digest"]), tree)
        client.close()


def source_parts(source: Source) -> list[Part]:
    parts = []
    for mount in source.mounts:
        named = [w for w in mount.options.split(",") if w.startswith("subvol=")]
        subvolume = named[0].removeprefix("subvol=") if named else None
        parts.append(Part(Path(mount.device), mount.where, mount.fstype, subvolume))
    return parts


def known_files(parts: list[Part], where: Path) -> dict[str, str]:
    """Return path → facts of all files whose bytes are known, read by the kernel."""
    found: dict[str, str] = {}
    with mounted_system(RUN, where, parts, SOURCE_OPTIONS):
        for top in sorted(where.glob("**/known")):
            for path in sorted(top.rglob("*")):
                state = path.lstat()
                name = str(path.relative_to(where))
                data = hashlib.sha256(path.read_bytes()).hexdigest()
                found[name] = f"{state.st_mode:o} {state.st_uid} {state.st_mtime_ns} {data}"
    return found


def digest(disk: Path) -> str:
    """Return a digest of what the file behind a loop device holds, and of where it holds it."""
    sh("sync", disk)
    file = Path(sh("losetup", "--noheadings", "--output=BACK-FILE", disk).strip())
    said = hashlib.blake2b()
    with file.open("rb") as opened:
        at = 0
        while True:
            try:
                at = os.lseek(opened.fileno(), at, os.SEEK_DATA)
            except OSError:
                return said.hexdigest()
            end = os.lseek(opened.fileno(), at, os.SEEK_HOLE)
            opened.seek(at)
            data = opened.read(end - at)
            if any(data):
                said.update(f"{at} {end}".encode() + data)
            at = end


def deployed(
    template: Template,
    drives: dict[str, Drive],
    spec: DeploySpec,
    where: Path,
    report: Report = silent,
) -> tuple[Plan, Done]:
    inventory = make_inventory(*drives.values(), imsm=True)
    plan = plan_deploy(inventory, template.config, spec, drives)
    host = Host(
        run=RUN,
        source=TemplateSource(RUN, template, {}),
        look=lambda path: drive_of(Path(path)),
        inventory=inventory,
        mount_dir=where,
        efivars=where / "none",
        keys=luks_keys(plan.layout, spec.keys),
    )
    return plan, apply(plan, host, report)


def on_targets(plan: Plan, drives: dict[str, Drive], where: Path) -> dict[str, str]:
    """Return the known files as they are on the target, found there anew."""
    with opened_system(RUN, drives, keys=KEYS) as found:
        assert not found.unfit
        assert not [one.unfit for one in found.contents if one.unfit]
        contents = {one.on: one for one in found.contents}
        uuids = {getattr(one.content, "uuid", None): one for one in found.contents}
        parts = []
        for volume in plan.layout.volumes:
            content = volume.content
            one = contents.get(volume.on) or uuids.get(getattr(content, "uuid", ""))
            if one is None or one.content is None:
                continue
            places = [(volume.mount, None)] if volume.mount else []
            places += [(sub.mount, sub.path) for sub in getattr(content, "subvolumes", ())]
            for place, subvolume in places:
                parts.append(Part(Path(one.path), place or "/", fstype_of(content), subvolume))
        parts.sort(key=lambda part: part.where)
        return known_files(parts, where)


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
    if any(one.metadata is MdMetadata.IMSM and is_redundant(one.level) for one in arrays):
        assert layouts.checked_imsm([Path(disk.path) for disk in targets.values()]) == 0
    elif any(is_redundant(one.level) for one in arrays):
        assert layouts.checked([Path(disk.path) for disk in targets.values()]) == 0
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
    return set(re.findall(r"[0-9a-f]{8}(?::[0-9a-f]{8}){3}", text))


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
    layouts.make("btrfs", pair[0], "--data=raid1", "--metadata=raid1", str(pair[1]))
    with mounted_btrfs(pair, place):
        (place / "known").mkdir()
        for number in range(40):
            (place / f"known/f{number}").write_bytes(os.urandom(number * 9000))
        before = known_in(place)
    with captured(bench, Source((*system.disks, *pair), system.mounts), tmp_path / "mnt") as taken:
        config = taken.template.config
        whole = [one for one in config.layout.volumes if one.size_bytes == 256 * MiB]
        assert [isinstance(one.content, Raw) for one in whole] == [True, True]
        assert all(one.used_bytes < 64 * MiB for one in whole)
        targets = {
            disk.id: drive_of(bench.disk(disk.size_bytes // MiB + 64))
            for disk in config.layout.disks
        }
        spec = DeploySpec(template="demo:latest", verify=Verify.FULL)
        plan, _ = deployed(taken.template, targets, spec, tmp_path / "mnt")
    bench.stop()
    assert on_targets(plan, targets, tmp_path / "mnt") == taken.tree
    for disk in pair:  # two of one UUID are one for btrfs
        sh("wipefs", "--all", "--quiet", disk)
    sh("btrfs", "device", "scan", "--forget")
    copies = [Path(targets[one.on].path) for one in whole]
    with mounted_btrfs(copies, place):
        assert known_in(place) == before
        scrub(place)


def known_in(where: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (where / "known").iterdir()}


def ext4_root() -> Storage:
    """The whole system on one ext4."""
    return Storage(
        config=(
            DiskAction(id="disk0"),
            PartitionAction(id="bios", device="disk0", size="1MiB", flag=PartitionFlag.BIOS_GRUB),
            PartitionAction(id="large", device="disk0"),
            FormatAction(id="root", volume="large", fstype=Filesystem.EXT4),
            MountAction(id="m0", device="root", path="/"),
        )
    )


def xfs_root() -> Storage:
    """An ext4 system on an xfs root, with a /boot of its own."""
    return Storage(
        config=(
            DiskAction(id="disk0"),
            PartitionAction(id="bios", device="disk0", size="1MiB", flag=PartitionFlag.BIOS_GRUB),
            PartitionAction(id="small", device="disk0", size="64MiB"),
            PartitionAction(id="large", device="disk0"),
            FormatAction(id="boot", volume="small", fstype=Filesystem.EXT4),
            FormatAction(id="root", volume="large", fstype=Filesystem.XFS),
            MountAction(id="m0", device="root", path="/"),
            MountAction(id="m1", device="boot", path="/boot"),
        )
    )


def raid5_root() -> Storage:
    """Root on a small RAID 5; the layout of that name has a /boot of 1 GiB on each disk."""
    disks = ("disk0", "disk1", "disk2")
    parts = [
        action
        for disk in disks
        for action in (
            DiskAction(id=disk),
            PartitionAction(id=f"{disk}-b", device=disk, size="1MiB", flag=PartitionFlag.BIOS_GRUB),
            PartitionAction(id=f"{disk}-r", device=disk),
        )
    ]
    members = tuple(f"{disk}-r" for disk in disks)
    return Storage(
        config=(
            *parts,
            RaidAction(id="md-root", name="root", raidlevel="5", devices=members),
            FormatAction(id="root", volume="md-root"),
            MountAction(id="m0", device="root", path="/"),
        )
    )


@dataclass(frozen=True)
class Other:
    source: Callable[[Bench], Source]
    layout: Shape | Storage
    sizes_mib: tuple[int, ...]
    sector_bytes: int = 512


OTHER = {
    "a smaller disk": Other(layouts.gpt(), Shape.SINGLE, (200,)),
    "xfs to a smaller xfs": Other(layouts.gpt("xfs"), Shape.SINGLE, (400,)),
    "ext4 to xfs and a /boot": Other(layouts.gpt(), xfs_root(), (450,)),
    "xfs to ext4": Other(layouts.gpt("xfs"), ext4_root(), (300,)),
    "btrfs subvolumes to ext4": Other(layouts.btrfs_subvolumes, ext4_root(), (300,)),
    "LUKS2 to plain": Other(layouts.luks(), Shape.SINGLE, (300,)),
    "4096 to 512": Other(layouts.gpt(sector_bytes=4096), Shape.SINGLE, (300,)),
    "LVM on LUKS on RAID 1 to one plain disk": Other(
        layouts.lvm_on_luks_on_md, Shape.SINGLE, (400,)
    ),
    "one disk to RAID 1": Other(layouts.gpt(), Shape.RAID1, (300, 300)),
    "one disk to RAID 5": Other(layouts.gpt(), raid5_root(), (160, 160, 160)),
    "RAID 1 to one smaller disk": Other(layouts.md("1", 2), Shape.SINGLE, (200,)),
    "Intel's RAID 5 to one smaller disk": Other(layouts.imsm("5", 3), Shape.SINGLE, (200,)),
    "partitions to LVM": Other(layouts.gpt(), Shape.LVM, (1400,)),
    "plain to LUKS": Other(layouts.gpt(), Shape.LUKS, (1300,)),
    "512 to 4096": Other(layouts.gpt(), Shape.SINGLE, (300,), 4096),
    "LVM of two disks to one": Other(layouts.lvm(), Shape.SINGLE, (450,)),
    "btrfs subvolumes to one btrfs": Other(layouts.btrfs_subvolumes, Shape.SINGLE, (350,)),
}


@pytest.mark.parametrize("name", shortened(OTHER, SHORT_OTHER))
def test_another_layout(name: str, bench: Bench, tmp_path: Path) -> None:
    case = OTHER[name]
    with captured(bench, case.source(bench), tmp_path / "mnt") as taken:
        targets = {
            f"disk{number}": drive_of(bench.disk(size, case.sector_bytes))
            for number, size in enumerate(case.sizes_mib)
        }
        spec = DeploySpec(template="demo:latest", layout=case.layout, keys=KEYS)
        plan, _ = deployed(taken.template, targets, spec, tmp_path / "mnt")
    bench.stop()
    if any(isinstance(node, Array) and is_redundant(node.level) for node in plan.layout.nodes):
        assert layouts.checked([Path(disk.path) for disk in targets.values()]) == 0
    assert on_targets(plan, targets, tmp_path / "mnt") == taken.tree
    root = next(volume for volume in plan.layout.volumes if volume.mount == "/")
    assert not isinstance(root.content, BootCode)
    for disk in targets.values():
        with Path(disk.path).open("rb") as file:
            assert file.read(6) == b"boots\n"
