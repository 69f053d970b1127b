"""Maps of used blocks: what the programs write is understood, and what cannot be is refused."""

import struct
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import AgentError, SourceUnfit
from agent.model.extents import Extents
from agent.stream.usedmap import Comparison, UsedMap
from agent.system.command import Output
from agent.tools import dumpe2fs, fat
from agent.tools.partclone import BadMap, MapReader
from agent.units import Extent
from tests.unit.fake_run import FakeRun

MAP = """\
# Domain logfile created by unset_name v0.3.23
# Source: e.img
# Offset: 0x00000000
# current_pos  current_status
0x12C00000     ?
#      pos        size  status
0x00000000  0x008E1800  +
0x008E1800  0x00F1EC00  ?
0x01800400  0x00041000  +
0x01841400  0x113BEC00  ?
"""
SIZE = 0x12C00000


def read_map(text: str, piece: int = 7) -> list[tuple[int, int]]:
    """Return the used runs of a map that comes in small pieces."""
    found: list[tuple[int, int]] = []
    reader = MapReader(SIZE, lambda offset, end: found.append((offset, end)))
    data = text.encode()
    for start in range(0, len(data), piece):
        reader.feed(data[start : start + piece])
    reader.close()
    return found


@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_the_used_rows_of_a_map_are_runs(piece: int) -> None:
    assert read_map(MAP, piece) == [(0, 0x8E1800), (0x1800400, 0x1841400)]


def test_rows_that_touch_are_one_run() -> None:
    split = MAP.replace("0x00041000  +\n", "0x00001000  +\n0x01801400  0x00040000  +\n")
    assert split != MAP
    assert read_map(split) == read_map(MAP)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0x01800400  0x00041000", "0x01800000  0x00041000", "line 9: expected a run from"),
        ("0x01800400  0x00041000", "0x01800500  0x00041000", "line 9: expected a run from"),
        ("0x00041000  +", "0x00000000  +", "line 9: expected a run from"),
        ("0x00041000  +", "0x00041000  -", "line 9: not a row"),
        ("0x00041000  +", "0x00041000", "line 9: not a row"),
        ("0x113BEC00", "0x113BEC01", "line 10: ends beyond 314572800 bytes"),
        ("0x00041000  +", "-0x0041000  +", "line 9: not a row"),
        (MAP, "", "there is nothing in it"),
    ],
)
def test_a_map_that_cannot_be_is_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(BadMap, match=message):
        read_map(MAP.replace(old, new))


PAGE = """\
Filesystem volume name:   system root
Filesystem UUID:          ce3cc2af-727f-4b57-b60d-5d98c0dda39f
Filesystem features:      has_journal ext_attr extent 64bit
Filesystem state:         clean
Inode count:              76912
Block count:              24577
Free blocks:              14000
First block:              1
Block size:               1024
Inode size:	          256

Group 0: (Blocks 1-8192) csum 0x767c [ITABLE_ZEROED]
  Primary superblock at 1, Group descriptors at 2-4
  0 free blocks, 1944 free inodes, 19 directories, 1944 unused inodes
  Free blocks: 
  Free inodes: 81-2024
Group 1: (Blocks 8193-16384) csum 0xbb85 [INODE_UNINIT, ITABLE_ZEROED]
  Free blocks: 8300, 9094-16384
  Free inodes: 2025-4048
Group 2: (Blocks 16385-24576) csum 0xccdf [INODE_UNINIT, BLOCK_UNINIT, ITABLE_ZEROED]
  Free blocks: 16385-16400
"""  # noqa: W291


def test_facts_are_those_of_the_superblock() -> None:
    facts = dumpe2fs.parse_facts(PAGE)
    assert facts.label == "system root"
    assert facts.uuid == "ce3cc2af-727f-4b57-b60d-5d98c0dda39f"
    assert (facts.block_bytes, facts.blocks, facts.first_block) == (1024, 24577, 1)
    assert facts.used_bytes == 10577 * 1024
    assert facts.features == ("has_journal", "ext_attr", "extent", "64bit")
    assert facts.is_clean


def test_no_label_is_an_empty_label() -> None:
    assert dumpe2fs.parse_facts(PAGE.replace("system root", "<none>")).label == ""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Block size:               1024", "Block size:               big", "expected a number"),
        ("Filesystem UUID", "Filesystem name", "says nothing of 'Filesystem UUID'"),
    ],
)
def test_a_page_that_cannot_be_is_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(AgentError, match=message):
        dumpe2fs.parse_facts(PAGE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("state:         clean", "state:         not clean", "not clean"),
        ("state:         clean", "state:         clean with errors", "clean with errors"),
        ("extent 64bit", "extent 64bit needs_recovery", "needs_recovery"),
        ("extent 64bit", "extent 64bit orphan_present", "orphan_present"),
    ],
)
def test_a_dirty_filesystem_is_refused_with_the_command_that_helps(
    old: str, new: str, what: str
) -> None:
    facts = dumpe2fs.parse_facts(PAGE.replace(old, new))
    with pytest.raises(SourceUnfit, match=what) as caught:
        dumpe2fs.check_clean(facts, Path("/dev/sda2"))
    assert caught.value.hint
    assert "e2fsck -f /dev/sda2" in caught.value.hint


OURS = Extents([Extent(0, 4096), Extent(8192, 4096), Extent(20480, 8192)])


@pytest.mark.parametrize(
    ("other", "where"),
    [
        ([(0, 4096), (8192, 12288)], "from 20480 to 28672 are in use for us"),
        ([(0, 4096), (20480, 28672)], "from 8192 to 12288 are in use for us"),
        ([(0, 2048), (8192, 12288), (20480, 28672)], "from 2048 to 4096 are in use for us"),
        ([(0, 4096), (8192, 16384), (20480, 28672)], "from 12288 to 16384 .* for partclone"),
        ([(0, 4096), (6144, 7168), (8192, 12288)], "from 6144 to 7168 .* for partclone"),
        ([(0, 4096), (8192, 12288), (20480, 28672), (30000, 31000)], "30000 to 31000 .* partclone"),
        ([], "from 0 to 4096 are in use for us"),
    ],
)
def test_two_maps_that_differ_are_a_refusal(other: list[tuple[int, int]], where: str) -> None:
    same = Comparison(OURS, Path("/dev/sda2"))
    with pytest.raises(SourceUnfit, match=where):
        told(same, other)


def test_two_maps_that_agree_are_one() -> None:
    told(Comparison(OURS, Path("/dev/sda2")), list(OURS.bounds()))


def told(same: Comparison, runs: list[tuple[int, int]]) -> None:
    for offset, end in runs:
        same.other(offset, end)
    same.close()


def test_a_second_opinion_that_cannot_be_had_is_a_refusal() -> None:
    def broken(stop: threading.Event) -> None:
        raise AgentError("partclone is missing")

    with UsedMap(OURS, broken) as used, pytest.raises(SourceUnfit, match="could not be had"):
        used.confirm()


def test_a_second_opinion_that_was_given_up_confirms_nothing() -> None:
    def slow(stop: threading.Event) -> None:
        assert stop.wait(10)

    used = UsedMap(OURS, slow)
    used.close()
    with pytest.raises(SourceUnfit, match="given up"):
        used.confirm()


def make_boot(
    *, per_cluster: int = 1, sectors: int = 5000, table_sectors: int = 16, dirty: bool = False
) -> bytes:
    boot = bytearray(512)
    struct.pack_into("<HBHBHH", boot, 11, 512, per_cluster, 1, 2, 512, sectors)
    struct.pack_into("<H", boot, 22, table_sectors)
    boot[0x25] = dirty
    boot[510:] = b"\x55\xaa"
    return bytes(boot)


def test_a_fat_knows_its_used_clusters() -> None:
    shape = fat.fat_shape(make_boot(sectors=5000, table_sectors=20))
    assert (shape.bits, shape.clusters, shape.data_offset) == (16, 4927, 73 * 512)
    table = bytearray(shape.table_bytes)
    for cluster in (2, 3, 5):
        struct.pack_into("<H", table, cluster * 2, 0xFFFF)
    assert list(fat.parse_table(shape, bytes(table))) == [
        Extent(0, 75 * 512),
        Extent(76 * 512, 512),
    ]


def test_twelve_bits_are_read_in_both_halves() -> None:
    shape = fat.fat_shape(make_boot(sectors=2000, table_sectors=6))
    assert shape.bits == 12
    table = bytearray(shape.table_bytes)
    table[3:6] = b"\x00\x10\x00"  # cluster 2 free, cluster 3 used
    table[6:9] = b"\x01\x00\x00"  # cluster 4 used, cluster 5 free
    data = shape.data_offset
    assert list(fat.parse_table(shape, bytes(table))) == [
        Extent(0, data),
        Extent(data + 512, 1024),
    ]


@pytest.mark.parametrize(
    "boot",
    [
        b"",
        bytes(512),
        make_boot(per_cluster=3),
        make_boot(sectors=10),
        make_boot(table_sectors=0),
        make_boot(table_sectors=4),
    ],
)
def test_what_is_no_fat_is_refused(boot: bytes) -> None:
    with pytest.raises(AgentError, match="not a FAT boot sector"):
        fat.fat_shape(boot)


def test_a_dirty_fat_is_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    device = tmp_path / "esp.img"
    device.write_bytes(make_boot(table_sectors=20, dirty=True).ljust(5000 * 512, b"\0"))
    with pytest.raises(SourceUnfit, match="not unmounted cleanly") as caught:
        fat.fat_used_extents(device)
    assert caught.value.hint
    assert f"fsck.vfat -a {device}" in caught.value.hint
    device.write_bytes(make_boot(table_sectors=20).ljust(5000 * 512, b"\0"))
    fat.fat_used_extents(device)


def test_an_output_that_is_no_page_is_refused() -> None:
    with pytest.raises(AgentError, match="is this an ext filesystem"):
        dumpe2fs.ext_facts(FakeRun({"dumpe2fs": Output(b"", "", 0)}), Path("/dev/sda2"))


RUNS = st.lists(st.integers(1, 9), max_size=20).map(
    lambda gaps: Extents(
        Extent(sum(gaps[: number + 1]), size)
        for number, size in enumerate(gaps[1:])
        if number % 2 == 0
    )
)


@given(RUNS, RUNS)
def test_runs_without_others_have_each_byte_that_is_in_them_alone(
    ours: Extents, others: Extents
) -> None:
    def inside(runs: Extents) -> set[int]:
        return {byte for offset, end in runs.bounds() for byte in range(offset, end)}

    assert inside(ours.without(others)) == inside(ours) - inside(others)
