"""What the bench runs in a process of its own goes with the engine as it is."""

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.units import MiB
from tests.bench.peaks import ChildrenPeaks
from tests.bench.servers import nginx
from tests.contracts.registries import netboot
from tests.loop.children import answer_of

CHILD = "tests.bench.child"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ext4 of 64 MiB with a file of 24."""
    folder = tmp_path_factory.mktemp("disk")
    disk, tree = folder / "disk.img", folder / "tree"
    tree.mkdir()
    (tree / "data").write_bytes(random.Random(3).randbytes(24 * MiB))
    with disk.open("wb") as file:
        file.truncate(64 * MiB)
    subprocess.run(["mkfs.ext4", "-q", "-d", tree, disk], check=True)
    return disk


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with netboot(tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture(scope="module")
def captured(url: str, disk: Path) -> str:
    """The URL of a template of `disk`."""
    words = (url, "demo", disk, "latest", "adaptive")
    answer = answer_of(CHILD, "capture-with-children", *words)
    assert answer["used_bytes"] > 24 * MiB
    # partclone mostly sleeps for two seconds, but may be over before anybody looks
    assert answer["children"].get("partclone.extfs", 0) < answer["peak_bytes"]
    return f"{url}/v2/demo"


def check_share(found: dict[str, Any], *native: str) -> None:
    assert set(found["native"]) >= set(native)
    assert 0 < found["python_seconds"] < found["all_seconds"]


def test_of_a_deployment_python_is_told_from_every_native_call(
    captured: str, tmp_path: Path
) -> None:
    target = tmp_path / "target.img"
    target.write_bytes(b"")
    with target.open("r+b") as file:
        file.truncate(64 * MiB)
    found = answer_of(CHILD, "python-share-deploy", captured, "latest", target)
    check_share(found, "receive", "digest", "unpack", "write")
    assert found["chunks"] >= 3 * 6


def test_of_a_capture_python_is_told_too_and_what_one_thread_does(url: str, disk: Path) -> None:
    found = answer_of(CHILD, "python-share-capture", url, "share", disk, "3")
    check_share(found, "read", "digest", "compress", "sha256", "send")
    assert found["native"]["sha256"] < found["placing_seconds"] < found["all_seconds"]
    assert found["chunks"] >= 6


def test_of_a_reading_back_python_is_told_too(captured: str, disk: Path) -> None:
    found = answer_of(CHILD, "python-share-read-back", captured, "latest", disk)
    check_share(found, "read", "digest")
    assert found["chunks"] >= 6


def test_the_peak_of_a_program_is_not_that_of_who_started_it() -> None:
    ballast = bytearray(random.Random(1).randbytes(64 * MiB))
    with ChildrenPeaks() as peaks:
        subprocess.run(["sleep", "0.3"], check=True)
    assert 0 < peaks.by_name["sleep"] < 16 * MiB < len(ballast)


def test_nginx_counts_what_is_asked_for_there_alone(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "blob").write_bytes(bytes(3 * MiB))
    (tmp_path / "work").mkdir()
    with nginx(tmp_path / "root", tmp_path / "work") as server:
        for url, expected in ((server.url, 0), (server.counted_url, 3 * MiB)):
            subprocess.run(["curl", "-sSf", "-o", "/dev/null", f"{url}/blob"], check=True)
            assert server.counted_bytes() == expected
        part = ("curl", "-sSf", "-o", "/dev/null", "-r", "0-99", f"{server.counted_url}/blob")
        subprocess.run(part, check=True)
        assert server.counted_bytes() == 3 * MiB + 100
