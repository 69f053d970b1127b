"""sfdisk's language, the first sector, and FAT directories: values only."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.errors import AgentError, DiskError
from agent.model.layout import BOOT_CODE_BYTES
from agent.model.nodes import Gpt, Mbr
from agent.model.table import PlannedPartition, PlannedTable
from agent.model.wire import BadDocument
from agent.tools.boot_sector import (
    PENDING_STUB,
    RECORD_BYTES,
    RECORD_MAGIC,
    RECORD_OFFSET,
    is_boot_code,
    is_filesystem,
    read_gap,
)
from agent.tools.fat_directory import entries, find_file, open_fat
from agent.tools.sfdisk import FoundTable, differences, parse_table, table_script
from agent.units import MiB, TiB
from tests.unit.make_plan import DISK_UUID, guid

LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"


def make_part(number: int = 1, **changes: Any) -> PlannedPartition:
    fields: dict[str, Any] = {
        "number": number,
        "offset_bytes": number * MiB,
        "size_bytes": MiB,
        "type": LINUX,
        "uuid": guid(number),
        "name": "root",
    }
    return PlannedPartition(**{**fields, **changes})


def make_table(*parts: PlannedPartition, sector_bytes: int = 512) -> PlannedTable:
    return PlannedTable(table=Gpt(uuid=DISK_UUID), sector_bytes=sector_bytes, partitions=parts)


def make_mbr(*parts: PlannedPartition, sector_bytes: int = 512) -> PlannedTable:
    table = Mbr(disk_id="89abcdef")
    return PlannedTable(table=table, sector_bytes=sector_bytes, partitions=parts)


def mbr_part(number: int, offset: int, size: int, kind: str, *words: str) -> PlannedPartition:
    return PlannedPartition(
        number=number,
        offset_bytes=offset,
        size_bytes=size,
        type=kind,
        uuid=f"89abcdef-{number:02x}",
        attributes=words,
    )


def test_bytes_become_sectors_of_the_disk() -> None:
    for sector, start in ((512, 2048), (4096, 256)):
        script = table_script(make_table(make_part(), sector_bytes=sector))
        assert f"start={start}, size={start}," in script
        assert f"sector-size: {sector}" in script


def test_half_a_sector_is_no_partition() -> None:
    with pytest.raises(ValueError, match="not whole sectors of 4096"):
        table_script(make_table(make_part(size_bytes=MiB + 512), sector_bytes=4096))


@given(st.text(max_size=36), st.lists(st.text(max_size=20), max_size=3))
def test_no_name_breaks_out_of_its_quotes(name: str, attributes: list[str]) -> None:
    try:
        script = table_script(make_table(make_part(name=name, attributes=tuple(attributes))))
    except UnicodeEncodeError:
        return
    lines = script.splitlines()
    assert len(lines) == 7
    assert lines[-1].count('"') == 2 * (bool(name) + bool(attributes))
    assert script.isascii()


def test_a_table_is_read_in_bytes_and_lower_case() -> None:
    text = json.dumps(
        {
            "partitiontable": {
                "label": "gpt",
                "id": DISK_UUID.upper(),
                "device": "/dev/nvme0n1",
                "unit": "sectors",
                "sectorsize": 4096,
                "partitions": [
                    {
                        "node": "/dev/nvme0n1p12",
                        "start": 256,
                        "size": 256,
                        "type": LINUX.upper(),
                        "uuid": guid(1).upper(),
                        "name": "a b",
                        "attrs": "RequiredPartition GUID:60,63",
                    }
                ],
            }
        }
    )
    assert parse_table(text) == FoundTable(
        "gpt",
        Gpt(uuid=DISK_UUID),
        4096,
        (
            make_part(
                12,
                offset_bytes=MiB,
                uuid=guid(1),
                name="a b",
                attributes=("RequiredPartition", "GUID:60,63"),
            ),
        ),
    )


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"partitiontable": {}}', "null"])
def test_another_answer_is_an_error(text: str) -> None:
    with pytest.raises(BadDocument, match="sfdisk"):
        parse_table(text)


def test_each_difference_is_named() -> None:
    wanted = make_table(make_part(1), make_part(2))
    found = FoundTable("gpt", Gpt(uuid=DISK_UUID), 512, (make_part(1), make_part(2)))
    assert differences(wanted, found) == ()
    assert differences(wanted, None) == ("there is no table",)
    other = FoundTable("gpt", Gpt(uuid=DISK_UUID), 512, (make_part(1, name="x"), make_part(3)))
    assert differences(wanted, other) == (
        "partition 1 is not as planned",
        "partition 2 is not as planned",
        "there is a partition 3 that nobody planned",
    )
    mbr = FoundTable("dos", Mbr(disk_id="00000001"), 512, ())
    assert "the table is dos" in differences(wanted, mbr)[0]
    hybrid = replace(wanted, table=Gpt(uuid=DISK_UUID, hybrid="00" * 64))
    assert differences(hybrid, found) == ()


def test_an_mbr_has_no_names_and_an_active_partition() -> None:
    table = make_mbr(
        mbr_part(1, MiB, MiB, "83", "bootable"),
        mbr_part(2, 2 * MiB, 6 * MiB, "f"),
        mbr_part(5, 3 * MiB, MiB, "82"),
        sector_bytes=4096,
    )
    assert table_script(table).splitlines() == [
        "label: dos",
        "label-id: 0x89abcdef",
        "unit: sectors",
        "sector-size: 4096",
        "",
        "1: start=256, size=256, type=83, bootable",
        "2: start=512, size=1536, type=f",
        "5: start=768, size=256, type=82",
    ]


def test_an_mbr_reaches_two_tebibytes() -> None:
    table_script(make_mbr(mbr_part(1, TiB, TiB - 512, "83")))
    table_script(make_mbr(mbr_part(1, 8 * TiB, 8 * TiB - 4096, "83"), sector_bytes=4096))
    with pytest.raises(ValueError, match="partition 1 ends at .*, an MBR at 2199023255040"):
        table_script(make_mbr(mbr_part(1, TiB, TiB, "83")))


DOS = """{
   "partitiontable": {
      "label": "dos",
      "id": "0x89ABCDEF",
      "device": "/dev/sda",
      "unit": "sectors",
      "sectorsize": 512,
      "partitions": [
         {
            "node": "/dev/sda1",
            "start": 2048,
            "size": 20480,
            "type": "83",
            "bootable": true
         },{
            "node": "/dev/sda2",
            "start": 30720,
            "size": 100000,
            "type": "f"
         },{
            "node": "/dev/sda10",
            "start": 32768,
            "size": 8192,
            "type": "82"
         }
      ]
   }
}"""


def test_an_mbr_is_read_with_the_uuids_that_linux_gives() -> None:
    assert parse_table(DOS) == FoundTable(
        "dos",
        Mbr(disk_id="89abcdef"),
        512,
        (
            mbr_part(1, 2048 * 512, 20480 * 512, "83", "bootable"),
            mbr_part(2, 30720 * 512, 100000 * 512, "f"),
            mbr_part(10, 32768 * 512, 8192 * 512, "82"),
        ),
    )
    assert parse_table(DOS).partitions[2].uuid == "89abcdef-0a"


def test_another_kind_of_table_is_named_but_not_known() -> None:
    text = '{"partitiontable": {"label": "sun", "device": "/dev/sda", "unit": "sectors"}}'
    assert parse_table(text) == FoundTable("sun", None, 512, ())


def fat_sector() -> bytearray:
    """The first sector of mkfs.vfat's FAT, its code left out."""
    sector = bytearray(512)
    head = "eb3c906d6b66732e666174000204040002000200 20f8c8002000080000000000 20030000"
    sector[: len(bytes.fromhex(head))] = bytes.fromhex(head)
    sector[510:] = b"\x55\xaa"
    return sector


def test_a_fat_on_the_bare_disk_is_no_table() -> None:
    sector = fat_sector()
    assert is_filesystem(sector)
    sector[446:462] = b"\x33" * 16  # its code goes on where an MBR has entries
    assert is_filesystem(sector)
    sector[446:462] = bytes.fromhex("80000000000000000000000000001000")
    sector[446 + 4] = 0x0C  # as mkfs.vfat of Debian 13 does: the whole disk, from sector 0 on
    assert is_filesystem(sector)
    # a table whose boot loader keeps a FAT's header in front (syslinux, isohybrid)
    sector[446:462] = bytes.fromhex("80202100839f0c1200080000004f0000")
    assert not is_filesystem(sector)
    assert not is_filesystem(PENDING_STUB + bytes(70) + b"\x55\xaa")
    assert not is_filesystem(bytes(512))


@pytest.mark.parametrize("sector_bytes", [512, 4096])
def test_the_used_part_of_the_gap(tmp_path: Path, sector_bytes: int) -> None:
    disk = tmp_path / "disk"

    def gap(*pieces: tuple[int, bytes], first: int = MiB) -> int:
        with disk.open("wb") as file:
            file.truncate(3 * MiB)
            for at, data in pieces:
                file.seek(at)
                file.write(data)
        return read_gap(disk, sector_bytes, first)

    assert gap((0, b"code"), (MiB, b"root")) == 0
    assert gap((sector_bytes, b"core")) == sector_bytes
    assert gap((40000, b"core"), first=63 * 512) == 0
    assert gap((40000, b"c")) == -(-(40001 - sector_bytes) // sector_bytes) * sector_bytes
    record = (RECORD_OFFSET, RECORD_MAGIC + b"{}")
    assert gap((sector_bytes, b"core"), record) == sector_bytes
    assert gap(record, (RECORD_OFFSET + RECORD_BYTES, b"x")) > RECORD_OFFSET
    assert gap(record, first=RECORD_OFFSET + 512) == 0
    assert gap((sector_bytes, b"core"), first=sector_bytes) == 0


def test_our_stub_fits_and_is_no_boot_code() -> None:
    assert len(PENDING_STUB) == BOOT_CODE_BYTES
    assert not is_boot_code(PENDING_STUB)
    assert not is_boot_code(bytes(BOOT_CODE_BYTES))
    assert is_boot_code(PENDING_STUB[:-1] + b"\1")
    assert b"half deployed by Metalcast" in PENDING_STUB


@given(st.binary(max_size=4096))
def test_noise_is_no_fat_and_no_crash(noise: bytes) -> None:
    data = noise.ljust(512, b"\0")[:510] + b"\x55\xaa" + noise

    def read(offset: int, size: int) -> bytes:
        if offset + size > 2**40:
            raise DiskError("beyond the end")
        return data[offset : offset + size].ljust(min(size, 4096), b"\0")

    try:
        fat = open_fat(read)
        find_file(fat, "EFI/BOOT/BOOTX64.EFI")
        list(entries(fat, fat.root_cluster))
    except AgentError:
        return
