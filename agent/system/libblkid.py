"""libblkid by call: each signature in a run of a device, where blkid(8) has one answer or none.

Of two signatures that contradict each other blkid(8) names neither, and that of util-linux 2.41
ends as if there were nothing. wipefs(8) lists all, but only of a whole device.
"""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import DiskError
from agent.system import block
from agent.units import Extent

_LIBRARY: Final = "libblkid.so.1"
# <blkid/blkid.h>: BLKID_SUBLKS_LABEL, _UUID, _TYPE, _USAGE
_FLAGS: Final = 1 << 1 | 1 << 3 | 1 << 5 | 1 << 7


@dataclass(frozen=True, slots=True)
class Signature:
    """What libblkid calls it: `ext4`, `LVM2_member`; `usage` is `filesystem`, `raid`, `crypto`."""

    what: str
    usage: str
    uuid: str | None = None
    label: str | None = None


def find_all(device: Path, extent: Extent) -> tuple[Signature, ...]:
    """Return all superblocks in `extent` of `device`, each kind once. Raises DiskError."""
    lib = _library()
    with block.opened(device, os.O_RDONLY) as fd:
        probe = ctypes.c_void_p(lib.blkid_new_probe())
        if not probe:
            raise DiskError("libblkid has no memory")
        try:
            size, offset = ctypes.c_int64(extent.size), ctypes.c_int64(extent.offset)
            if lib.blkid_probe_set_device(probe, fd, offset, size) != 0:
                raise DiskError(f"could not look for signatures on {device}")
            lib.blkid_probe_enable_superblocks(probe, 1)
            lib.blkid_probe_set_superblocks_flags(probe, _FLAGS)
            found: dict[tuple[str, str | None], Signature] = {}
            while (status := lib.blkid_do_probe(probe)) == 0:
                one = Signature(
                    what=_value(lib, probe, "TYPE") or "unknown",
                    usage=_value(lib, probe, "USAGE") or "other",
                    uuid=_value(lib, probe, "UUID"),
                    label=_value(lib, probe, "LABEL"),
                )
                found.setdefault((one.what, one.uuid), one)
            if status < 0:
                raise DiskError(f"could not read the signatures on {device} at {extent.offset}")
        finally:
            lib.blkid_free_probe(probe)
    return tuple(found.values())


def _library() -> ctypes.CDLL:
    lib = ctypes.CDLL(_LIBRARY)
    lib.blkid_new_probe.restype = ctypes.c_void_p
    return lib


def _value(lib: ctypes.CDLL, probe: ctypes.c_void_p, name: str) -> str | None:
    data = ctypes.c_char_p()
    if lib.blkid_probe_lookup_value(probe, name.encode(), ctypes.byref(data), None) != 0:
        return None
    return (data.value or b"").decode("utf-8", "replace").strip() or None
