"""What the bench runs in a process of its own goes with the engine as it is."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from agent.units import MiB
from tests.contracts.registries import netboot


def child(*words: str | Path) -> dict[str, Any]:
    said = subprocess.run(
        [sys.executable, "-m", "tests.bench.child", *map(str, words)],
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    )
    answer: dict[str, Any] = json.loads(said.stdout.splitlines()[-1])
    return answer


def test_the_share_of_python_is_told_from_that_of_every_native_call(tmp_path: Path) -> None:
    disk, target = tmp_path / "disk.img", tmp_path / "target.img"
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "data").write_bytes(random.Random(3).randbytes(24 * MiB))
    with disk.open("wb") as file:
        file.truncate(64 * MiB)
    subprocess.run(["mkfs.ext4", "-q", "-d", tree, disk], check=True)
    target.write_bytes(b"")
    with target.open("r+b") as file:
        file.truncate(64 * MiB)
    with netboot(tmp_path / "store") as url:
        assert child("capture", url, "demo", disk, "latest")["used_bytes"] > 24 * MiB
        found = child("python-share", f"{url}/v2/demo", "latest", target)
    assert set(found["native"]) >= {"receive", "digest", "unpack", "write"}
    assert 0 < found["python_seconds"] < found["all_seconds"]
    assert found["chunks"] >= 3 * 6
