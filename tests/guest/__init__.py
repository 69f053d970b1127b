"""Tests that run as root inside a booted boot image; see tests/harness/guest.py."""

from typing import Literal

from agent.units import MiB

# Serial, bytes a sector. Blank when the guest starts; a test takes what it needs.
SCRATCH = (("SCRATCH-0", 512), ("SCRATCH-1", 512), ("SCRATCH-2", 512), ("SCRATCH-4K", 4096))
SCRATCH_BYTES = 512 * MiB

# The same on other buses: serial, bus. Their own commands are tried on these.
SCRATCH_OTHER: tuple[tuple[str, Literal["ahci", "nvme", "multipath"]], ...] = (
    ("SCRATCH-SATA", "ahci"),
    ("SCRATCH-NVME", "nvme"),
    ("SCRATCH-PATHS", "multipath"),
)
SCRATCH_OTHER_BYTES = 128 * MiB
