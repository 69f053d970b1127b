"""/etc/lvm/devices/system.devices: which disks LVM of RHEL 9 and later looks at.

A captured file names the source's disks, by serial numbers that no target has: the deployed system
would not find its own root. Of a file that is missing LVM thinks as of old: it looks at every disk.
So the file is rendered anew when each physical volume has an id that will hold, and is otherwise
to be removed. A wrong line is a system that does not boot; no file is at worst a slower scan.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from agent.model.nodes import LvmUuid

DEVICES_FILE: Final = "etc/lvm/devices/system.devices"
_ID_TYPES: Final = frozenset({"sys_wwid", "sys_serial", "md_uuid", "crypt_uuid", "mpath_uuid"})
_PLAIN: Final = re.compile(r"[!-~]{1,256}")


@dataclass(frozen=True, slots=True)
class DeviceEntry:
    """One physical volume, and the id by which LVM will know its device."""

    pv_uuid: LvmUuid
    id_type: str
    """`sys_wwid`, `sys_serial`, `md_uuid`, `crypt_uuid`."""
    id_name: str
    """As sysfs gives it, spaces as underscores: `naa.5002538e40a1b2c3`."""
    device: str
    """Today's name; a hint only."""
    partition: int | None = None
    """The id is the disk's, the volume on this partition of it."""


def render_devices_file(entries: Iterable[DeviceEntry]) -> str | None:
    """Return the text of a devices file, None if the file is better removed.

    That is so when a volume has no lasting id: the names of disks change from boot to boot.
    """
    lines = ["# LVM uses devices listed in this file.", "VERSION=1.1.1"]
    for entry in entries:
        if entry.id_type not in _ID_TYPES or not _PLAIN.fullmatch(entry.id_name):
            return None
        if not _PLAIN.fullmatch(entry.device):
            return None
        words = [f"IDTYPE={entry.id_type}", f"IDNAME={entry.id_name}", f"DEVNAME={entry.device}"]
        words.append(f"PVID={entry.pv_uuid.replace('-', '')}")
        if entry.partition is not None:
            words.append(f"PART={entry.partition}")
        lines.append(" ".join(words))
    if len(lines) == 2:
        return None
    return "\n".join(lines) + "\n"
