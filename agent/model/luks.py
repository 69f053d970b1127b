"""How much room there is inside a LUKS container."""

from typing import Final

from agent.model.nodes import Luks
from agent.units import MiB, align_down

_OFFSETS: Final = {1: 2 * MiB, 2: 16 * MiB}
"""Where a new container's data begin: cryptsetup's own default for keys up to 512 bits."""


def data_offset_bytes(luks: Luks) -> int:
    """Return where the data of the container begin, as it is made on a target."""
    return luks.offset_bytes or _OFFSETS[luks.version]


def payload_bytes(luks: Luks, device_bytes: int) -> int:
    """Return what is inside the container if it is made on a device of that size; 0: no room."""
    return max(align_down(device_bytes - data_offset_bytes(luks), luks.sector_bytes), 0)
