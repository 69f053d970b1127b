"""Several paths to one disk: two cables to one array or one SAS drive. Seen as one disk.

Nothing here sets up device-mapper; one path that works is enough to write a disk once.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from agent.model.inventory import Drive, Transport
from agent.probe.contents import UNREADABLE

_SHARED: Final = frozenset({Transport.SAS, Transport.SCSI, Transport.FC, Transport.ISCSI})
"""What can have a second cable. USB bridges and cheap disks share names that they should not."""

Key = tuple[str | int | None, ...]


def multipath_key(drive: Drive, wwid: str | None) -> Key | None:
    """Return what only the paths to one disk have in common; None if it can have but one.

    `wwid` is how the kernel names the unit that it talks to (VPD page 83). Made of maker, model and
    serial number (`t10.`), it counts only with the serial number in it. A serial number alone
    counts only where there is neither that nor a WWN.
    """
    name = drive.wwn
    if name is None and drive.transport in _SHARED and drive.serial:
        name = wwid or drive.serial
        if drive.serial not in name:
            return None
    if name is None or drive.transport not in _SHARED | {Transport.NVME}:
        return None
    said = (drive.vendor, drive.model, drive.serial)
    return (name, *said, drive.size_bytes, drive.sector_bytes)


def merge_paths(drives: Sequence[Drive], keys: Mapping[str, Key | None]) -> tuple[Drive, ...]:
    """Return `drives` with those of one key made one, in the order given.

    The first path that can be read and written stands for the disk; it is in use if any path is.
    """
    groups: dict[object, list[Drive]] = {}
    for drive in drives:
        groups.setdefault(keys.get(drive.path) or drive.path, []).append(drive)
    return tuple(_merged(group) for group in groups.values())


def _merged(group: Sequence[Drive]) -> Drive:
    if len(group) == 1:
        return group[0]
    best = min(group, key=lambda drive: (_is_unreadable(drive), drive.read_only))
    return replace(
        best,
        users=tuple(dict.fromkeys(_users(group))),
        paths=tuple(drive.path for drive in group),
    )


def _users(group: Iterable[Drive]) -> Iterable[str]:
    return (user for drive in group for user in drive.users)


def _is_unreadable(drive: Drive) -> bool:
    """The other controller of an array has it, and this one only says that it is there."""
    return any(found.what == UNREADABLE and found.path == drive.path for found in drive.contents)
