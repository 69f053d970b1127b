"""Tables as the kernel reads them, and disks that forget their past, whatever made it."""

import os
import random
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.model.nodes import ESP_TYPE, LINUX_TYPE, Gpt, Mbr
from agent.model.table import PlannedPartition, PlannedTable
from agent.planning.tables import pending
from agent.system import block
from agent.system.command import Run
from agent.tools import boot_sector, sfdisk, wipefs
from agent.units import Extent, GiB, MiB, TiB
from tests.guest.conftest import sh
from tests.guest.signatures import (
    FIRMWARE_RAID,
    PLAIN,
    VALUABLE,
    make_array,
    make_group,
    put,
    size_of,
)

RUN = Run()
JOB = "j-1234567890ab"
MBR_ID = "89abcdef"
GPT_ID = "c1fd8fd9-5d1c-4ee6-8a55-0e0a3b2c4d01"
CODE = bytes(random.Random(1).randbytes(440))


@pytest.fixture(params=[512, 4096])
def disk(request: pytest.FixtureRequest) -> Path:
    if request.param == 512:
        return Path(request.getfixturevalue("scratch")[0])
    return Path(request.getfixturevalue("scratch_4k"))


@pytest.fixture(params=[512, 4096])
def huge(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A disk of 20 TiB: a sparse file on a loop device."""
    file = tmp_path / "huge"
    with file.open("wb") as writer:
        writer.truncate(20 * TiB)
    words = ["losetup", "--find", "--show", "--partscan", f"--sector-size={request.param}"]
    loop = Path(sh(*words, file).strip())
    yield loop
    sh("losetup", "--detach", loop)


def mbr_part(number: int, offset: int, size: int, kind: str, *words: str) -> PlannedPartition:
    return PlannedPartition(
        number=number,
        offset_bytes=offset,
        size_bytes=size,
        type=kind,
        uuid=f"{MBR_ID}-{number:02x}",
        attributes=words,
    )


def gpt_part(number: int, offset: int, size: int, kind: str = LINUX_TYPE) -> PlannedPartition:
    return PlannedPartition(
        number=number,
        offset_bytes=offset,
        size_bytes=size,
        type=kind,
        uuid=f"5f1c9a52-0c63-4a0e-9a5a-{number:012x}",
        name=f"part {number}",
    )


def mbr(device: Path, *parts: PlannedPartition) -> PlannedTable:
    sector = block.sector_bytes(device)
    return PlannedTable(table=Mbr(disk_id=MBR_ID), sector_bytes=sector, partitions=parts)


def gpt(device: Path, *parts: PlannedPartition) -> PlannedTable:
    sector = block.sector_bytes(device)
    return PlannedTable(table=Gpt(uuid=GPT_ID), sector_bytes=sector, partitions=parts)


def write(device: Path, table: PlannedTable) -> None:
    """Write `table`, and check it against what sfdisk and the kernel then say."""
    sfdisk.write_table(RUN, device, table)
    block.flush(device)
    assert sfdisk.differences(table, sfdisk.read_table(RUN, device)) == ()
    assert "No errors detected" in sh("sfdisk", "--verify", device)
    block.reread_table(device)
    sh("udevadm", "settle")
    extended = tuple(part.number for part in table.partitions if part.is_extended)
    assert kernel_partitions(device, extended) == {
        part.number: (part.offset_bytes, part.size_bytes)
        for part in table.partitions
        if not part.is_extended
    }


def kernel_partitions(device: Path, extended: tuple[int, ...] = ()) -> dict[int, tuple[int, int]]:
    """Return where the kernel sees the partitions, by number.

    It gives `extended` ones two sectors, so that nobody writes into them: they are left out.
    """
    found = {}
    for entry in Path(f"/sys/class/block/{device.name}").iterdir():
        if (entry / "partition").exists():
            number = int((entry / "partition").read_text())
            found[number] = (
                int((entry / "start").read_text()) * 512,
                int((entry / "size").read_text()) * 512,
            )
    for number in extended:
        assert found.pop(number)[1] <= 2 * 4096
    return found


def node(device: Path, number: int) -> Path:
    return Path(block.partition_path(device, number))


def full_mbr(device: Path) -> PlannedTable:
    """Numbers out of the order of the disk, with a hole; six logical ones, two a sector apart."""
    unit = block.sector_bytes(device)
    gap = 300 * MiB + 8 * MiB
    return mbr(
        device,
        mbr_part(1, 200 * MiB, 50 * MiB, "83"),
        mbr_part(2, MiB, 64 * MiB, "c", "bootable"),
        mbr_part(4, 300 * MiB - 2 * unit, 200 * MiB + 2 * unit, "f"),
        mbr_part(5, 300 * MiB, 8 * MiB, "83"),
        mbr_part(6, 400 * MiB, 8 * MiB, "82"),
        mbr_part(7, gap + unit, 8 * MiB - unit, "83"),
        mbr_part(8, gap + 9 * MiB, 8 * MiB, "8e"),
        mbr_part(9, 480 * MiB, 20 * MiB, "fd"),
        mbr_part(10, 330 * MiB, 10 * MiB, "7"),
    )


def test_a_full_mbr(disk: Path) -> None:
    """Pending, then final: nothing but types changes, in the kernel's eyes and in between."""
    table = full_mbr(disk)
    boot_sector.write_boot_code(disk, CODE)
    write(disk, pending(table, JOB))
    marks = {}
    for part in table.partitions:
        if part.is_extended:
            continue
        marks[part.offset_bytes] = os.urandom(4096)
        marks[part.extent.end - 4096] = os.urandom(4096)
    marks[16 * block.sector_bytes(disk)] = b"what a boot loader embeds".ljust(4096, b"\1")
    for at, data in marks.items():
        put(disk, at, data)
    write(disk, table)
    assert boot_sector.read_boot_code(disk) == CODE
    assert boot_sector.read_at(disk, 440, 4) == bytes.fromhex(MBR_ID)[::-1]
    boot_sector.write_boot_code(disk, bytes(440))
    assert boot_sector.read_at(disk, 440, 4) == bytes.fromhex(MBR_ID)[::-1]
    assert sfdisk.differences(table, sfdisk.read_table(RUN, disk)) == ()
    for at, data in marks.items():
        assert boot_sector.read_at(disk, at, 4096) == data, at
    # libblkid goes no further than a link that points back, here from 6 to 7; the kernel does
    for part in table.partitions[:5]:
        words = ["--match-tag=PART_ENTRY_UUID", "--output=value", str(node(disk, part.number))]
        assert sh("blkid", "--probe", *words).strip() == part.uuid


def test_a_gpt_with_holes_in_its_numbers(disk: Path) -> None:
    table = gpt(
        disk,
        gpt_part(3, MiB, 4 * MiB, ESP_TYPE),
        gpt_part(1, 100 * MiB, 50 * MiB),
        gpt_part(17, 50 * MiB, 10 * MiB),
        gpt_part(128, 300 * MiB, MiB),
    )
    boot_sector.write_boot_code(disk, CODE)
    write(disk, pending(table, JOB))
    put(disk, 100 * MiB, b"data")
    write(disk, table)
    assert boot_sector.read_at(disk, 100 * MiB, 4) == b"data"
    assert boot_sector.read_boot_code(disk) == CODE


def hybrid_entries(sector: int, *parts: PlannedPartition) -> str:
    rows = [(0xEE, 1, parts[0].offset_bytes // sector - 1)]
    rows += [(0x83, p.offset_bytes // sector, p.size_bytes // sector) for p in parts]
    data = b"".join(
        bytes([0x80 if n == 1 else 0, 0, 2, 0, kind, 255, 255, 255])
        + start.to_bytes(4, "little")
        + size.to_bytes(4, "little")
        for n, (kind, start, size) in enumerate(rows)
    )
    return data.ljust(64, b"\0").hex()


def test_a_hybrid_stays_a_valid_gpt(disk: Path) -> None:
    table = gpt(disk, gpt_part(1, MiB, 100 * MiB), gpt_part(2, 101 * MiB, 50 * MiB))
    entries = hybrid_entries(block.sector_bytes(disk), *table.partitions)
    assert boot_sector.read_hybrid_entries(disk) is None
    write(disk, table)
    boot_sector.write_boot_code(disk, CODE)
    boot_sector.write_hybrid_entries(disk, entries)
    block.flush(disk)
    assert boot_sector.read_hybrid_entries(disk) == entries
    wanted = replace(table, table=Gpt(uuid=GPT_ID, hybrid=entries))
    assert sfdisk.differences(wanted, sfdisk.read_table(RUN, disk)) == ()
    assert "No errors detected" in sh("sfdisk", "--verify", disk)
    block.reread_table(disk)
    assert kernel_partitions(disk) == {1: (MiB, 100 * MiB), 2: (101 * MiB, 50 * MiB)}
    assert boot_sector.read_boot_code(disk) == CODE
    sfdisk.write_table(RUN, disk, pending(wanted, JOB))
    assert boot_sector.read_hybrid_entries(disk) is None


def test_a_gpt_beyond_two_tebibytes(huge: Path) -> None:
    table = gpt(huge, gpt_part(1, MiB, GiB), gpt_part(2, 3 * TiB, 16 * TiB))
    write(huge, pending(table, JOB))
    write(huge, table)
    sector = block.sector_bytes(huge)
    assert boot_sector.read_at(huge, size_of(huge) - sector, 8) == b"EFI PART"


def test_an_mbr_as_far_as_it_reaches(huge: Path) -> None:
    reach = (2**32 - 1) * block.sector_bytes(huge)
    half = 2**31 * block.sector_bytes(huge)
    parts = [mbr_part(1, MiB, MiB, "83"), mbr_part(2, half, reach - half, "f")]
    parts += [mbr_part(5, half + MiB, reach - half - MiB, "83")]
    write(huge, mbr(huge, *parts))
    beyond = mbr(huge, mbr_part(1, half, half + MiB, "83"))
    with pytest.raises(ValueError, match="an MBR at"):
        sfdisk.write_table(RUN, huge, beyond)


def test_a_fat_on_the_bare_disk_is_no_table(disk: Path) -> None:
    sh("mkfs.vfat", "-I", disk)
    assert sfdisk.read_table(RUN, disk) is None


def on_partitions(make: Callable[[Path], None], label: str, kind: str) -> Callable[[Path], None]:
    """On a primary and on the last partition of the disk; of an MBR, in logical ones."""

    def dirty(device: Path) -> None:
        script = "size=200M, type=83\ntype=f\nsize=100M\nsize=150M\n" if label == "dos" else ""
        script = script or "size=200M\nsize=290M\n"
        sh("sfdisk", "--quiet", device, stdin=f"label: {label}\n{script}")
        sh("udevadm", "settle")
        for number in (1, 5, 6) if label == "dos" else (1, 2):
            make(node(device, number))
            if kind in ("vg",):
                sh("vgrename", "old", f"old{number}")
            subprocess.run(["vgchange", "--activate", "n"], check=False, capture_output=True)

    return dirty


def in_array(metadata: str, make: Callable[[Path], None]) -> Callable[[Path], None]:
    def dirty(device: Path) -> None:
        array = make_array(device, metadata)
        make(array)
        subprocess.run(["vgchange", "--activate", "n"], check=False, capture_output=True)
        sh("mdadm", "--stop", array)
        sh("udevadm", "settle")

    return dirty


def in_group(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def dirty(device: Path) -> None:
        make(make_group(device))
        sh("vgchange", "--activate", "n", "old")

    return dirty


def partitioned_inside(device: Path) -> None:
    """A table with volumes in it: on a disk, in an array or in a logical volume."""
    sh("sfdisk", "--quiet", device, stdin="label: gpt\nstart=10MiB, size=100MiB\n")
    loop = sh("losetup", "--find", "--show", "--offset", str(10 * MiB), device).strip()
    sh("mkfs.ext4", "-q", "-F", loop)
    sh("losetup", "--detach", loop)


ALL = {**VALUABLE, **PLAIN}
PASTS: dict[str, Callable[[Path], None]] = {
    **{f"{name} on the disk": make for name, (_, make) in {**ALL, **FIRMWARE_RAID}.items()},
    **{
        f"{name} in {label}": on_partitions(ALL[name][1], label, name)
        for label, names in (
            ("gpt", ("zfs", "vg")),
            ("dos", ("md-1.0", "md-1.2", "luks2", "ext4")),
        )
        for name in names
    },
    **{
        f"{name} in md {metadata}": in_array(metadata, ALL[name][1])
        for metadata, names in (
            ("0.90", ("luks2", "xfs")),
            ("1.0", ("pv", "zfs")),
            ("1.2", ("luks2", "vg")),
        )
        for name in names
    },
    **{f"a table in md {v}": in_array(v, partitioned_inside) for v in ("1.0", "1.2")},
    **{f"{name} in LVM": in_group(ALL[name][1]) for name in ("luks2", "btrfs")},
}


def seen(*devices: Path) -> list[str]:
    """Return what any of the programs that look for old things says of `devices`."""
    said = []
    probes = {
        ("wipefs", "--no-act", "--noheadings", "--output=DEVICE,TYPE"): r"(.+)",
        ("blkid", "--probe", "--match-tag=TYPE"): r" TYPE=(.*)",
        ("mdadm", "--examine"): r"(?<!MBR )Magic : (.*)",
        ("btrfs", "inspect-internal", "dump-super", "--all"): r"magic\s.*(\[match\])",
    }
    for words, pattern in probes.items():
        line = [*words, *map(str, devices)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        said += [f"{words[0]}: {found}" for found in re.findall(pattern, done.stdout)]
    return said


NEW = (
    (MiB, 24 * MiB),
    (25 * MiB, 39 * MiB),
    (64 * MiB, 100 * MiB),
    (201 * MiB, 100 * MiB),
    (302 * MiB, 209 * MiB),
)


SHORT = (*tuple(PASTS)[::5], "vg in gpt", "imsm on the disk")
"""Those of the short run: some of each kind. The long matrix has the others."""


@pytest.mark.parametrize(
    "past",
    [past if past in SHORT else pytest.param(past, marks=pytest.mark.full) for past in PASTS],
)
def test_the_past_never_comes_back(past: str, scratch: list[Path]) -> None:
    device = scratch[0]
    PASTS[past](device)
    assert seen(device), "nothing was made that could come back"
    table = gpt(device, *(gpt_part(n, *run) for n, run in enumerate(NEW, start=1)))
    planned = [end for part in table.partitions for end in wipefs.both_ends(part.extent)]
    wipefs.erase_signatures(RUN, device, planned)
    assert seen(device) == []
    for old in wipefs.find_old_places(device):
        assert old == Extent(0, size_of(device))
    write(device, table)
    assert seen(*(node(device, part.number) for part in table.partitions)) == []
    assert {text.split()[-1] for text in seen(device)} == {"gpt", "PMBR"}
    assert sh("pvs", "--noheadings").strip() == ""
    assert "old" not in sh("mdadm", "--examine", "--scan")
