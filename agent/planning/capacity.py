"""What LUKS and groups surely offer of what they stand on. Pure; arrays: `agent.model.md_size`."""

from typing import Final

from agent.units import MiB, align_down

_LUKS2_HEAD_BYTES: Final = 16 * MiB
_PV_HEAD_BYTES: Final = 2 * MiB


def payload_bytes(device_bytes: int) -> int:
    """Return what is inside a LUKS2 container with an ordinary header."""
    return max(0, device_bytes - _LUKS2_HEAD_BYTES)


def group_bytes(device_bytes: int, extent_bytes: int) -> int:
    """Return what the extents of a physical volume hold."""
    return max(0, align_down(device_bytes - _PV_HEAD_BYTES, extent_bytes))
