"""Which disks are captured together. Pure."""

from collections.abc import Sequence
from typing import Final

from agent.model.inventory import Drive
from agent.model.job import CaptureSpec
from agent.planning.hints import pick_disk

_SPANNING: Final = frozenset({"linux_raid_member", "btrfs"})
"""What libblkid gives the same UUID on each of its disks."""
_UNNAMED: Final = "isw_raid_member"
"""What it gives none: where one disk is named, all that Intel's RAID has come along."""


def source_disks(spec: CaptureSpec, drives: Sequence[Drive]) -> dict[str, Drive]:
    """Return the drives that `spec` means, by the ids that they get in the layout: `disk0`, …

    To each that is named come those that hold other pieces of an array or btrfs on it. The ids
    follow the order in which disks are named, then that of the drives. Raises PlanRefused.
    """
    hints = spec.disks or (spec.disk,)
    chosen: list[Drive] = []
    for hint in hints:
        drive = pick_disk(hint, drives)
        if drive not in chosen:
            chosen.append(drive)
    waiting = list(chosen)
    # who names several of Intel's RAID means these: there may be two containers
    named = sum(any(found.what == _UNNAMED for found in drive.contents) for drive in chosen)
    while waiting:
        pieces = _pieces(waiting.pop(), unnamed=named == 1)
        for other in drives:
            if other not in chosen and pieces & _pieces(other, unnamed=True):
                chosen.append(other)
                waiting.append(other)
    return {f"disk{number}": drive for number, drive in enumerate(chosen)}


def _pieces(drive: Drive, *, unnamed: bool) -> frozenset[tuple[str, str]]:
    return frozenset(
        (found.what, found.uuid or "")
        for found in drive.contents
        if (unnamed and found.what == _UNNAMED) or (found.what in _SPANNING and found.uuid)
    )
