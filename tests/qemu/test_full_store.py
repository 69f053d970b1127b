"""The store's disk is full in the middle of a capture: said at both ends, and nothing is listed."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import ExitStatus
from agent.units import MiB
from netboot.store import Limits
from tests.harness import source
from tests.harness.disks import copy_disk, disk_digest
from tests.harness.flow import machine_id
from tests.harness.machine import Disk
from tests.harness.server import Server
from tests.qemu.agents import BOOT_S, agent_machine, ended

pytestmark = [pytest.mark.qemu, pytest.mark.root]

MAC = "52:54:00:12:34:31"
ROOM_BYTES = 48 * MiB
"""Less than the source server's template, more than its first packs."""


@pytest.fixture
def small_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder on a filesystem of its own, with little room above the store's reserve."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small filesystem")
    folder = tmp_path / "small"
    folder.mkdir()
    size = Limits().reserve_bytes + ROOM_BYTES
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_store_ends_the_capture(small_folder: Path, image: Path, tmp_path: Path) -> None:
    disk = copy_disk(source.source_disk() / "disk.raw", tmp_path / "source.raw")
    before = disk_digest(disk)
    server = Server(tmp_path, image, small_folder / "data")
    server.start()
    try:
        where = f"metalcast.server={server.guest_url}"
        with agent_machine("full", tmp_path, image, MAC, where, (Disk(disk, "FULL"),)) as machine:
            words = ("job", "create", "capture", "--machine", machine_id(MAC), "--name", "big")
            job = ended(server, server.ask(*words)["id"])
            machine.console.expect(r"error: .*", BOOT_S)
            machine.console.expect(r"disk +unchanged", 30)
            shown = machine.console.text
        assert job["state"] == "failed"
        assert job["failure"]["status"] == ExitStatus.REFUSED
        assert job["failure"]["disk"] == "unchanged"
        told = " ".join((job["failure"]["summary"], *job["failure"]["because"]))
        assert "507" in told or "full" in told or "room" in told, told
        assert told.partition(":")[0] in shown
        assert "big" not in server.run("template", "ls")
    finally:
        server.stop()
    assert disk_digest(disk) == before
