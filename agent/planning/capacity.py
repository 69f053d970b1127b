"""What arrays, LUKS and groups surely offer of what they stand on, never more than that. Pure."""

from collections.abc import Sequence
from typing import Final

from agent.model.nodes import Array, MdLevel
from agent.units import MiB, align_down

_MD_HEAD_BYTES: Final = 128 * MiB
"""mdadm keeps at most this in front of the data, and 1/16 of small members."""
_LUKS2_HEAD_BYTES: Final = 16 * MiB
_PV_HEAD_BYTES: Final = 2 * MiB
_MD_GRAIN: Final = 4 * MiB


def array_bytes(array: Array, member_bytes: Sequence[int]) -> int:
    """Return what an array of members of these sizes has at least; 0 if there are too few."""
    count = len(member_bytes)
    least = [
        align_down(size - min(_MD_HEAD_BYTES, size // 16 + 4 * MiB), _MD_GRAIN)
        for size in member_bytes
    ]
    if min(least, default=0) <= 0:
        return 0
    each = min(least)
    match array.level:
        case MdLevel.LINEAR:
            return sum(least)
        case MdLevel.RAID0:
            return count * each
        case MdLevel.RAID1:
            return each
        case MdLevel.RAID4 | MdLevel.RAID5:
            return (count - 1) * each if count >= 3 else 0
        case MdLevel.RAID6:
            return (count - 2) * each if count >= 4 else 0
        case MdLevel.RAID10:
            return align_down(count * each // 2, _MD_GRAIN) if count >= 2 else 0


def payload_bytes(device_bytes: int) -> int:
    """Return what is inside a LUKS2 container with an ordinary header."""
    return max(0, device_bytes - _LUKS2_HEAD_BYTES)


def group_bytes(device_bytes: int, extent_bytes: int) -> int:
    """Return what the extents of a physical volume hold."""
    return max(0, align_down(device_bytes - _PV_HEAD_BYTES, extent_bytes))
