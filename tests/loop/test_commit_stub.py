"""A BIOS runs our stub: it says what the disk is and lets the BIOS go on."""

import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from agent.tools.boot_sector import PENDING_STUB, write_boot_code
from agent.units import MiB

LIMIT_S = 60.0


@pytest.mark.qemu
def test_the_bios_prints_why_and_goes_on(tmp_path: Path) -> None:
    if not shutil.which("qemu-system-x86_64"):
        if "CI" in os.environ:
            pytest.fail("qemu-system-x86_64 is not installed")
        pytest.skip("qemu-system-x86_64 is not installed")
    disk = tmp_path / "disk.img"
    with disk.open("wb") as file:
        file.truncate(16 * MiB)
    write_boot_code(disk, PENDING_STUB)
    machine = subprocess.Popen(
        [
            "qemu-system-x86_64",
            *("-accel", "tcg", "-machine", "q35,graphics=off", "-nodefaults", "-no-reboot"),
            *("-m", "64", "-display", "none", "-serial", "stdio"),
            *("-drive", f"file={disk},format=raw,if=virtio"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    said = b""
    limit = threading.Timer(LIMIT_S, machine.kill)
    limit.start()
    try:
        assert machine.stdout is not None
        while b"No bootable device" not in said:
            piece = os.read(machine.stdout.fileno(), 4096)
            if not piece:
                break
            said += piece
    finally:
        limit.cancel()
        machine.kill()
        machine.wait()
    assert b"half deployed by Metalcast; it will not boot" in said
    assert b"No bootable device" in said
