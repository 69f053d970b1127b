"""Source servers whose layouts a single ext4 is not: what their disks are called and hold."""

from typing import Final

from agent.units import GiB, MiB

SUBVOLUMES: Final = "SUBVOLUMES"
"""GPT for both firmwares; `/` and `/home` are subvolumes of one btrfs."""
LOGICAL: Final = "LOGICAL"
"""MBR; `/` is a logical partition, the last of the disk."""
TWO: Final = ("TWO-SYSTEM", "TWO-SRV")
"""`/` on the first, GPT for both firmwares; `/srv` is xfs on the second."""
MIRROR: Final = ("MIRROR-ONE", "MIRROR-TWO")
"""`/` and `/home` are subvolumes of one btrfs, a mirror of a partition of each; the first has all
else, GPT for both firmwares."""
SIZES: Final = {
    SUBVOLUMES: 3 * GiB,
    LOGICAL: 3 * GiB,
    TWO[0]: 3 * GiB,
    TWO[1]: 512 * MiB,
    MIRROR[0]: 3 * GiB,
    MIRROR[1]: 3 * GiB,
}
