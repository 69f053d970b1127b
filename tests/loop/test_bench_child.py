"""What the bench runs in a process of its own goes with the engine as it is."""

import random
import subprocess
from pathlib import Path

from agent.units import MiB
from tests.contracts.registries import netboot
from tests.loop.children import answer_of

CHILD = "tests.bench.child"


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
        assert answer_of(CHILD, "capture", url, "demo", disk, "latest")["used_bytes"] > 24 * MiB
        found = answer_of(CHILD, "python-share", f"{url}/v2/demo", "latest", target)
    assert set(found["native"]) >= {"receive", "digest", "unpack", "write"}
    assert 0 < found["python_seconds"] < found["all_seconds"]
    assert found["chunks"] >= 3 * 6
