"""sfdisk's language, the first sector, and FAT directories: values only."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import AgentError, DiskError
from agent.model.layout import BOOT_CODE_BYTES
from agent.model.nodes import Gpt
from agent.model.table import PlannedPartition, PlannedTable
from agent.model.wire import BadDocument
from agent.tools.boot_sector import PENDING_STUB, is_boot_code
from agent.tools.fat_directory import entries, find_file, open_fat
from agent.tools.sfdisk import FoundTable, differences, parse_table, table_script
from agent.units import MiB
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
    assert "not Gpt" in differences(wanted, FoundTable("dos", "0x1", 512, ()))[0]


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
