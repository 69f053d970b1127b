"""What the kernel calls a logical volume, and how much a physical volume holds."""

from pathlib import Path
from typing import Final

from agent.model.nodes import mapped_name
from agent.units import MiB

DATA_OFFSET_BYTES: Final = MiB
"""Where the first extent begins: label and metadata are before it."""


def mapper_path(group: str, lv: str) -> Path:
    """Return the device node of a volume: `/dev/mapper/vg--a-root`."""
    return Path("/dev/mapper") / mapped_name(group, lv)


def usable_extents(device_bytes: int, extent_bytes: int) -> int:
    """Return how many extents a physical volume on a device of `device_bytes` has."""
    return max(0, device_bytes - DATA_OFFSET_BYTES) // extent_bytes
