"""What is lost of a bad disk: sectors where that helps, whole pages where nothing else comes."""

import errno
from pathlib import Path
from typing import cast

from agent.model.layout import Raw, Volume
from agent.stream.blocks import DiskFile
from agent.stream.chunks import VolumeSource
from agent.stream.damage import Damage
from agent.units import Extent, KiB

PAGE = 4 * KiB
SECTOR = 512
SIZE = 64 * KiB


class BadDisk:
    """Fails to read any run that has one of the sectors `bad` in it."""

    sector_bytes = SECTOR
    name = "bad disk"

    def __init__(self, *bad: int) -> None:
        self.bad = frozenset(bad)
        self.tried: list[Extent] = []

    def read_once(self, extent: Extent, into: memoryview) -> None:
        self.tried.append(extent)
        if self.bad & set(range(extent.offset // SECTOR, extent.end // SECTOR)):
            raise OSError(errno.EIO, "Input/output error")
        into[:] = b"x" * extent.size

    def single_sectors(self) -> int:
        return sum(extent.size == SECTOR for extent in self.tried)


def lost_of(disk: BadDisk) -> tuple[tuple[int, int], ...]:
    volume = Volume(
        id="root",
        on="disk0",
        content=Raw(),
        size_bytes=SIZE,
        used_bytes=0,
        minimum_bytes=SIZE,
    )
    damage = Damage()
    source = VolumeSource(volume, Path("/dev/null"), 0, (Extent(0, SIZE),))
    content = bytearray(SIZE)
    damage.salvage(cast(DiskFile, disk), source)(Extent(0, SIZE), memoryview(content))
    good = {at // SECTOR for at in range(0, SIZE, SECTOR) if content[at : at + 1] == b"x"}
    holes = tuple((hole.offset, hole.size) for hole in damage.holes)
    lost = {at // SECTOR for offset, size in holes for at in range(offset, offset + size, SECTOR)}
    assert good.isdisjoint(lost)
    assert good | lost == set(range(SIZE // SECTOR))
    return holes


def sectors_of(*pages: int) -> tuple[int, ...]:
    return tuple(sector for page in pages for sector in range(page * 8, page * 8 + 8))


def test_one_page_that_fails_whole_does_not_cost_good_sectors_elsewhere() -> None:
    disk = BadDisk(*sectors_of(1), 40)
    assert lost_of(disk) == ((PAGE, PAGE), (40 * SECTOR, SECTOR))


def test_a_disk_that_fails_by_the_page_is_not_asked_for_each_sector() -> None:
    disk = BadDisk(*sectors_of(*range(1, 15, 2)))
    assert lost_of(disk) == tuple((page * PAGE, PAGE) for page in range(1, 15, 2))
    assert disk.single_sectors() == 4 * 8


def test_a_disk_that_failed_by_the_sector_is_always_asked_for_each() -> None:
    disk = BadDisk(3, *sectors_of(*range(1, 15, 2)))
    assert lost_of(disk)[0] == (3 * SECTOR, SECTOR)
    assert disk.single_sectors() == 8 * 8
