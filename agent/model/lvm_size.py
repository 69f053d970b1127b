"""How much a physical volume of LVM holds. Pure; arrays: `md_size`, encryption: `luks`."""

from typing import Final

from agent.units import MiB

DATA_OFFSET_BYTES: Final = MiB
"""Where the first extent begins, as we make them: label and metadata are before it."""


def usable_extents(device_bytes: int, extent_bytes: int) -> int:
    """Return how many extents a physical volume on a device of `device_bytes` has."""
    return max(0, device_bytes - DATA_OFFSET_BYTES) // extent_bytes


def physical_bytes(device_bytes: int, extent_bytes: int) -> int:
    """Return what these extents hold."""
    return usable_extents(device_bytes, extent_bytes) * extent_bytes
