"""What volume groups surely offer. Pure; arrays: agent.model.md_size, LUKS: agent.model.luks."""

from typing import Final

from agent.units import MiB, align_down

_PV_HEAD_BYTES: Final = 2 * MiB


def group_bytes(device_bytes: int, extent_bytes: int) -> int:
    """Return what the extents of a physical volume hold."""
    return max(0, align_down(device_bytes - _PV_HEAD_BYTES, extent_bytes))
