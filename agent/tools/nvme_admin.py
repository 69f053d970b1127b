"""NVMe admin commands by ioctl: what a drive can erase by itself, format, sanitize.

Field by field after the NVM Express base specification 1.4 and <linux/nvme_ioctl.h>.
"""

import ctypes
import errno
import fcntl
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import DiskError
from agent.model.wipe import Abilities, Way
from agent.system import block

_ADMIN_COMMAND: Final = 0xC0484E41
_NAMESPACE_ID: Final = 0x4E40
_PASSTHROUGH: Final = struct.Struct("=BBHIIIQQIIIIIIIIII")

_IDENTIFY: Final = 0x06
_GET_LOG: Final = 0x02
_FORMAT: Final = 0x80
_SANITIZE: Final = 0x84
_SANITIZE_LOG: Final = 0x81
_ALL_NAMESPACES: Final = 0xFFFFFFFF
_PAGE_BYTES: Final = 4096
_FORMAT_TIMEOUT_S: Final = 4 * 3600
_POLL_S: Final = 2.0

_SECURE_ERASE_SETTING: Final = {Way.FORMAT_USER_DATA: 1, Way.FORMAT_CRYPTO: 2}
_SANITIZE_ACTION: Final = {
    Way.SANITIZE_BLOCK: 2,
    Way.SANITIZE_OVERWRITE: 3,
    Way.SANITIZE_CRYPTO: 4,
}
_IN_PROGRESS: Final = 2
_FAILED: Final = 3
_SUCCEEDED: Final = (1, 4)
_PROGRESS_ONE: Final = 65536


@dataclass(frozen=True, slots=True)
class NvmeFacts:
    """What Identify says of a controller and one of its namespaces."""

    sanitize: tuple[Way, ...]
    formats: tuple[Way, ...]
    namespaces: tuple[int, ...]
    format_index: int
    """The namespace's present LBA format; a format keeps it."""
    metadata_settings: int
    """The other bits of a format's dword 10 that keep metadata and protection as they are."""


def parse_identify(controller: bytes, namespace: bytes, active: bytes) -> NvmeFacts:
    """Return what the three pages of Identify say. Raises DiskError for pages cut short."""
    if min(len(controller), len(namespace), len(active)) < _PAGE_BYTES:
        raise DiskError("the NVMe drive's Identify page is cut short")
    (optional,) = struct.unpack_from("<H", controller, 256)
    (sanitize,) = struct.unpack_from("<I", controller, 328)
    format_attributes = controller[524]
    ways = ((0, Way.SANITIZE_CRYPTO), (1, Way.SANITIZE_BLOCK), (2, Way.SANITIZE_OVERWRITE))
    formats: tuple[Way, ...] = ()
    if optional & 2:
        crypto = (Way.FORMAT_CRYPTO,) if format_attributes & 4 else ()
        formats = (*crypto, Way.FORMAT_USER_DATA)
    listed = struct.unpack_from("<1024I", active)
    size, protection = namespace[26], namespace[29]
    settings = (size >> 4 & 1) << 4 | (protection & 0xF) << 5 | (size >> 5 & 3) << 12
    return NvmeFacts(
        sanitize=tuple(way for bit, way in ways if sanitize >> bit & 1),
        formats=formats,
        namespaces=tuple(number for number in listed if number),
        format_index=size & 0xF,
        metadata_settings=settings,
    )


def nvme_facts(device: Path) -> NvmeFacts:
    """Return what the drive of the namespace at `device` says. Raises DiskError."""
    with block.opened(device, os.O_RDONLY) as fd:
        number = _namespace(fd, device)
        return parse_identify(
            _admin(fd, device, _IDENTIFY, cdw10=1, answer_bytes=_PAGE_BYTES),
            _admin(fd, device, _IDENTIFY, nsid=number, cdw10=0, answer_bytes=_PAGE_BYTES),
            _admin(fd, device, _IDENTIFY, nsid=0, cdw10=2, answer_bytes=_PAGE_BYTES),
        )


def nvme_abilities(facts: NvmeFacts, *, discards: bool) -> Abilities:
    """Return the ways for a wipe, the strongest first.

    Sanitize is for the whole drive, and so may a format be: both only with one namespace.
    """
    strong = (*facts.sanitize, *facts.formats)
    obstacles = []
    if len(facts.namespaces) != 1 and strong:
        obstacles.append(
            f"the drive has {len(facts.namespaces)} namespaces, and sanitize or format could "
            "erase them all"
        )
        strong = ()
    elif not facts.sanitize:
        obstacles.append("the drive has no sanitize")
    weak = (Way.DISCARD, Way.ZERO) if discards else (Way.ZERO,)
    # DLFEAT may say that deallocated blocks read as zeros, but to deallocate is advice: a drive
    # may leave any block as it was, and QEMU's does. So no discard is known to zero here.
    return Abilities(ways=(*strong, *weak), obstacles=tuple(obstacles))


def format_dword(facts: NvmeFacts, way: Way) -> int:
    """Return command dword 10 of Format NVM: the same LBA format, with erasing."""
    return facts.format_index | facts.metadata_settings | _SECURE_ERASE_SETTING[way] << 9


def sanitize_dword(way: Way) -> int:
    """Return command dword 10 of Sanitize: restricted completion, one pass of overwriting."""
    passes = 1 << 4 if way is Way.SANITIZE_OVERWRITE else 0
    return _SANITIZE_ACTION[way] | passes


def parse_sanitize_log(page: bytes) -> tuple[int, int]:
    """Return progress, of 65536, and status (NVMe figure 268) of the Sanitize log page."""
    if len(page) < 4:
        raise DiskError("the NVMe drive's sanitize log is cut short")
    progress, status = struct.unpack_from("<HH", page)
    return progress, status & 7


def format_namespace(device: Path, way: Way) -> None:
    """Format the namespace at `device`, data erased; returns when the drive is done."""
    facts = nvme_facts(device)
    with block.opened(device, os.O_RDWR) as fd:
        _admin(
            fd,
            device,
            _FORMAT,
            nsid=_namespace(fd, device),
            cdw10=format_dword(facts, way),
            timeout_s=_FORMAT_TIMEOUT_S,
        )


def sanitize(device: Path, way: Way, progress: Callable[[float], None]) -> None:
    """Sanitize the drive at `device`; `progress` is told the share that is done, 0 to 1.

    The drive goes on by itself, also after a power cut; until it is done it does nothing else.
    """
    with block.opened(device, os.O_RDWR) as fd:
        _admin(fd, device, _SANITIZE, cdw10=sanitize_dword(way))
        while True:
            page = _admin(
                fd,
                device,
                _GET_LOG,
                nsid=_ALL_NAMESPACES,
                cdw10=_SANITIZE_LOG | (512 // 4 - 1) << 16,
                answer_bytes=512,
            )
            done, status = parse_sanitize_log(page)
            if status in _SUCCEEDED:
                progress(1.0)
                return
            if status != _IN_PROGRESS:
                word = "failed" if status == _FAILED else f"ended with status {status}"
                raise DiskError(
                    f"sanitize {word} on {device}", hint="wipe again, or destroy the drive"
                )
            progress(done / _PROGRESS_ONE)
            time.sleep(_POLL_S)


def _namespace(fd: int, device: Path) -> int:
    try:
        return int(fcntl.ioctl(fd, _NAMESPACE_ID))
    except OSError as error:
        raise DiskError(f"{device} is no NVMe namespace: {error.strerror}") from error


def _admin(
    fd: int,
    device: Path,
    opcode: int,
    *,
    nsid: int = 0,
    cdw10: int = 0,
    answer_bytes: int = 0,
    timeout_s: int = 60,
) -> bytes:
    """Send one admin command; return its answer. Raises DiskError with the drive's status."""
    answer = ctypes.create_string_buffer(max(answer_bytes, 1))
    where = ctypes.addressof(answer) if answer_bytes else 0
    dwords = (cdw10, 0, 0, 0, 0, 0)
    command = bytearray(
        _PASSTHROUGH.pack(
            opcode, 0, 0, nsid, 0, 0, 0, where, 0, answer_bytes, *dwords, timeout_s * 1000, 0
        )
    )
    try:
        status = fcntl.ioctl(fd, _ADMIN_COMMAND, command, True)
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "?")
        raise DiskError(
            f"NVMe command {opcode:#04x} failed on {device}: {error.strerror} ({name})"
        ) from error
    if status:
        raise DiskError(f"{device} refuses NVMe command {opcode:#04x}: status {status:#06x}")
    return answer.raw[:answer_bytes]
