"""Peak memory, measured in a process of its own: bounded, and the same for any size."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.stream.levels import most_lanes
from agent.units import MiB
from tests.contracts.registries import netboot
from tests.loop.children import answer_of

LIMIT = 160 * MiB
"""Of the whole process, the interpreter and what it imports included."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with netboot(tmp_path_factory.mktemp("registry")) as found:
        yield found


def child(
    mode: str, url: str, disk: Path, lanes: int | None = None, level: int | None = None
) -> dict[str, Any]:
    more = ("" if word is None else word for word in (lanes, level))
    found = answer_of("tests.loop.stream_child", mode, url, disk, *more)
    print(found)
    return found


def make_disk(path: Path, size_bytes: int) -> Path:
    """Write a disk that does not compress at all: the worst for memory."""
    draw = random.Random(1)
    with path.open("wb") as file:
        for _ in range(size_bytes // (8 * MiB)):
            file.write(draw.randbytes(8 * MiB))
    return path


def test_memory_is_bounded_whatever_the_size(url: str, tmp_path: Path) -> None:
    peaks: dict[str, list[int]] = {"capture": [], "restore": [], "verify": []}
    for size in (64 * MiB, 320 * MiB):
        source = make_disk(tmp_path / "source.img", size)
        target = tmp_path / "target.img"
        with target.open("wb") as file:
            file.truncate(size)
        for mode, disk in (("capture", source), ("restore", target), ("verify", target)):
            peaks[mode].append(child(mode, url, disk)["peak_bytes"])
        assert target.stat().st_blocks * 512 >= size
    for mode, (small, large) in peaks.items():
        print(f"{mode}: peak {small / MiB:.0f} MiB of 64 MiB, {large / MiB:.0f} MiB of 320 MiB")
        assert large < LIMIT, mode
        assert large - small < 24 * MiB, mode


@pytest.mark.parametrize(("mode", "lanes"), [("capture", 8), ("restore", 12), ("verify", 12)])
def test_it_is_bounded_with_as_many_lanes_as_there_can_be(
    mode: str, lanes: int, url: str, tmp_path: Path
) -> None:
    """As on a machine of sixteen cores."""
    size = 320 * MiB
    disk = make_disk(tmp_path / "disk.img", size)
    if mode != "capture":
        child("capture", url, disk)
    peak = child(mode, url, disk, lanes)["peak_bytes"]
    print(f"{mode} by {lanes} lanes: peak {peak / MiB:.0f} MiB")
    assert peak < LIMIT


@pytest.mark.parametrize("level", [6, 9, 11, 12, 15])
def test_it_is_bounded_at_dear_levels_with_the_lanes_of_a_large_machine(
    level: int, url: str, tmp_path: Path
) -> None:
    disk = make_disk(tmp_path / "disk.img", 96 * MiB)
    peak = child("capture", url, disk, most_lanes(level), level)["peak_bytes"]
    print(f"level {level} by {most_lanes(level)} lanes: peak {peak / MiB:.0f} MiB")
    assert peak < LIMIT
