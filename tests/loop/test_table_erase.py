"""Real sfdisk and real signatures: tables of 512 and 4096, and a disk that forgets its past."""

import random
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.model.nodes import PENDING_TYPE, Gpt
from agent.model.table import PlannedPartition, PlannedTable
from agent.system.command import Run
from agent.tools import boot_sector, sfdisk, wipefs
from agent.tools.boot_sector import PENDING_STUB
from agent.units import Extent, KiB, MiB
from tests.harness.disks import make_dirty_disk
from tests.unit.make_plan import DISK_UUID, guid

RUN = Run()
SIZE = 96 * MiB


def sh(*words: str | Path, stdin: str | None = None) -> str:
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, input=stdin)
    assert done.returncode == 0, f"{words[0]}: {done.stderr}"
    return done.stdout


def make_table(sector_bytes: int) -> PlannedTable:
    rows = ((1, 1, 4, "plain", ()), (2, 8, 40, 'a"b\\ é', ("LegacyBIOSBootable", "GUID:60,63")))
    return PlannedTable(
        table=Gpt(uuid=DISK_UUID),
        sector_bytes=sector_bytes,
        partitions=tuple(
            PlannedPartition(
                number=number,
                offset_bytes=at * MiB,
                size_bytes=size * MiB,
                type=PENDING_TYPE,
                uuid=guid(number),
                name=name,
                attributes=attributes,
            )
            for number, at, size, name, attributes in rows
        ),
    )


@pytest.fixture(params=[512, pytest.param(4096, marks=pytest.mark.root)])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, int]]:
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(SIZE)
    if request.param == 512:
        yield image, 512
        return
    loop = sh("losetup", "--find", "--show", "--sector-size", "4096", image).strip()
    yield Path(loop), 4096
    sh("losetup", "--detach", loop)


def test_what_is_written_is_what_is_read(disk: tuple[Path, int]) -> None:
    path, sector = disk
    table = make_table(sector)
    sfdisk.write_table(RUN, path, table)
    found = sfdisk.read_table(RUN, path)
    assert sfdisk.differences(table, found) == ()
    assert found is not None
    assert found.sector_bytes == sector


def test_boot_code_and_table_leave_each_other_alone(disk: tuple[Path, int]) -> None:
    path, sector = disk
    boot_sector.write_boot_code(path, PENDING_STUB)
    sfdisk.write_table(RUN, path, make_table(sector))
    assert boot_sector.read_boot_code(path) == PENDING_STUB
    assert boot_sector.read_foreign_mbr_entries(path) == 0
    boot_sector.write_boot_code(path, b"\xeb\x63" * 220)
    assert sfdisk.differences(make_table(sector), sfdisk.read_table(RUN, path)) == ()
    assert boot_sector.is_boot_code(boot_sector.read_boot_code(path))


def test_a_partition_before_the_first_mebibyte(disk: tuple[Path, int]) -> None:
    path, sector = disk
    first = 34 * 512 if sector == 512 else 6 * 4096
    part = PlannedPartition(
        number=1,
        offset_bytes=first,
        size_bytes=MiB - first,
        type=PENDING_TYPE,
        uuid=guid(1),
    )
    table = PlannedTable(table=Gpt(uuid=DISK_UUID), sector_bytes=sector, partitions=(part,))
    sfdisk.write_table(RUN, path, table)
    assert sfdisk.differences(table, sfdisk.read_table(RUN, path)) == ()


def test_a_disk_without_a_table_has_none(disk: tuple[Path, int]) -> None:
    assert sfdisk.read_table(RUN, disk[0]) is None


def put(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def luks2_second_header(offset: int) -> bytes:
    """The header that LUKS2 keeps as a spare: its own magic, and the place that it is for."""
    head = bytearray(512)
    head[:6] = b"SKUL\xba\xbe"
    struct.pack_into(">HQ", head, 6, 2, 16384)
    head[168:204] = guid(9).encode()
    struct.pack_into(">Q", head, 256, offset)
    return bytes(head)


def lvm_label() -> bytes:
    label = bytearray(512)
    label[:8] = b"LABELONE"
    struct.pack_into("<Q", label, 8, 1)
    struct.pack_into("<I", label, 20, 32)
    label[24:32] = b"LVM2 001"
    label[32:64] = b"0123456789abcdefghijklmnopqrstuv"
    crc = 0xF597A6CF
    for byte in label[20:512]:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xEDB88320 if crc & 1 else 0)
    struct.pack_into("<I", label, 16, crc)
    return bytes(label)


def test_nothing_shines_through_after_an_erase(tmp_path: Path) -> None:
    path = make_dirty_disk(tmp_path / "disk.img", SIZE)
    old = make_table(512)
    sfdisk.write_table(RUN, path, old)
    first, second = old.partitions
    put(path, first.offset_bytes + 1024, struct.pack("<III", 1, 1023, 0))
    put(path, first.offset_bytes + 4086, b"SWAPSPACE2")
    assert wipefs.find_signature_in(path, first.extent)
    put(path, second.offset_bytes + 512, lvm_label())
    put(path, second.offset_bytes + 4 * MiB, luks2_second_header(4 * MiB))
    assert wipefs.find_signature_in(path, second.extent) == "LVM2_member, crypto_LUKS"
    put(path, second.offset_bytes + 512, bytes(512))
    assert wipefs.find_signature_in(path, second.extent) == "crypto_LUKS"
    put(path, second.offset_bytes + 512, lvm_label())
    assert len(wipefs.find_signatures(RUN, path)) >= 3
    # nothing is asked for: all is found by the old table
    wipefs.erase_signatures(RUN, path, ())
    assert wipefs.find_signatures(RUN, path) == ()
    for part in old.partitions:
        assert wipefs.find_signature_in(path, part.extent) is None


def places(path: Path) -> set[tuple[int, int]]:
    """Return where old things were, in sectors of 512 bytes."""
    return {(run.offset // 512, run.size // 512) for run in wipefs.find_old_places(path)}


def test_logical_partitions_and_their_links_are_found(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(SIZE)
    script = (
        "label: dos\nunit: sectors\n1: start=63, size=2000, type=83\n"
        "2: start=2063, size=150000, type=5\n5: start=60000, size=8000\n"
        "6: start=2065, size=5\n7: start=70000, size=1000\n"
    )
    sh("sfdisk", "--quiet", path, stdin=script)
    partitions = {(63, 2000), (2063, 150000), (60000, 8000), (2065, 5), (70000, 1000)}
    links = {(2063, 1), (2064, 1), (69999, 1)}
    assert {(0, SIZE // 512)} | partitions | links <= places(path)


def test_an_mbr_and_both_copies_of_a_gpt_are_believed_at_once(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(SIZE)
    sh("sfdisk", "--quiet", path, stdin="label: gpt\nstart=4096, size=2048\n")
    with path.open("rb") as file:
        file.seek(SIZE - 33 * 512)
        backup = file.read()
    sh("sfdisk", "--quiet", path, stdin="label: gpt\nstart=8192, size=2048\n")
    put(path, SIZE - 33 * 512, backup)
    put(path, 446, b"\0" * 4 + b"\x83" + b"\0" * 3 + struct.pack("<II", 16384, 2048))
    assert {(4096, 2048), (8192, 2048), (16384, 2048), (SIZE // 512 - 1, 1)} <= places(path)


def test_a_damaged_table_names_nothing(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    for seed in range(20):
        noise = random.Random(seed).randbytes(64 * KiB)
        header = b"EFI PART" + noise[:84]
        path.write_bytes(noise[:510] + b"\x55\xaa" + header + noise + header)
        found = wipefs.find_old_places(path)
        assert all(run.end <= path.stat().st_size for run in found)


def test_the_old_partitions_are_cut_to_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(SIZE)
    sfdisk.write_table(RUN, path, make_table(512))
    with path.open("r+b") as file:
        file.truncate(20 * MiB)  # the protective MBR now names more than there is
    second = Extent(8 * MiB, 12 * MiB)
    assert second in wipefs.find_old_places(path)
    wipefs.erase_runs(path, [Extent(0, 64 * KiB)])
    assert wipefs.find_old_places(path) == (Extent(0, 20 * MiB),)
