"""ATA drives by SG_IO: what IDENTIFY says of erasing, and SECURITY ERASE UNIT.

After ACS-3 and SAT-3 (ATA PASS-THROUGH (16)); no program is needed.
"""

import ctypes
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import DiskError
from agent.model.wipe import Abilities, Way
from agent.system import block

PASSWORD: Final = b"metalcast"
"""Set just before the erasing and gone with it: ATA erases only under a password."""

_SG_IO: Final = 0x2285
_HEADER: Final = struct.Struct("=iiBBHIQQQIIiQBBBBHHiII")
_SECTOR_BYTES: Final = 512
_IDENTIFY: Final = 0xEC
_SET_PASSWORD: Final = 0xF1
_ERASE_PREPARE: Final = 0xF3
_ERASE_UNIT: Final = 0xF4
_DISABLE_PASSWORD: Final = 0xF6
_NO_DATA, _FROM_DRIVE, _TO_DRIVE = -1, -3, -2
_PROTOCOL: Final = {_NO_DATA: 3, _FROM_DRIVE: 4, _TO_DRIVE: 5}
_LEAST_TIMEOUT_S: Final = 2 * 3600
_MOST_TIMEOUT_S: Final = 48 * 3600
_SENSE_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class AtaFacts:
    """What the words of IDENTIFY DEVICE say of erasing. Minutes are the drive's own estimates."""

    supported: bool
    enabled: bool
    locked: bool
    frozen: bool
    expired: bool
    enhanced: bool
    minutes: int | None
    enhanced_minutes: int | None
    zeros_after_trim: bool


def parse_identify(data: bytes) -> AtaFacts:
    """Return the facts in the 512 bytes of IDENTIFY DEVICE. Raises DiskError if cut short."""
    if len(data) != _SECTOR_BYTES:
        raise DiskError("the ATA drive's IDENTIFY is cut short")
    words = struct.unpack("<256H", data)
    security = words[128]
    trims = bool(words[169] & 1)
    return AtaFacts(
        supported=bool(security & 1),
        enabled=bool(security >> 1 & 1),
        locked=bool(security >> 2 & 1),
        frozen=bool(security >> 3 & 1),
        expired=bool(security >> 4 & 1),
        enhanced=bool(security >> 5 & 1),
        minutes=_minutes(words[89]),
        enhanced_minutes=_minutes(words[90]),
        # deterministic, and zeros: both bits, or a trimmed block may read as anything
        zeros_after_trim=trims and bool(words[69] >> 14 & 1) and bool(words[69] >> 5 & 1),
    )


def _minutes(word: int) -> int | None:
    """Return an erase time: units of two minutes, in bits 0-14 if bit 15 is set, else in 0-7."""
    count = word & 0x7FFF if word >> 15 else word & 0xFF
    return 2 * count or None


def ata_facts(device: Path) -> AtaFacts:
    """Return what the drive at `device` says. Raises DiskError if it speaks no ATA."""
    with block.opened(device, os.O_RDONLY) as fd:
        return parse_identify(_command(fd, device, _IDENTIFY, _FROM_DRIVE))


def ata_abilities(facts: AtaFacts, *, discards: bool) -> Abilities:
    """Return the ways for a wipe, the strongest first."""
    obstacle = _obstacle(facts)
    strong: tuple[Way, ...] = ()
    if obstacle is None:
        strong = (Way.ATA_ENHANCED, Way.ATA_NORMAL) if facts.enhanced else (Way.ATA_NORMAL,)
    return Abilities(
        ways=(*strong, *((Way.DISCARD, Way.ZERO) if discards else (Way.ZERO,))),
        zeros_after_discard=facts.zeros_after_trim,
        obstacles=(obstacle,) if obstacle else (),
        minutes=(facts.enhanced_minutes if facts.enhanced else facts.minutes) if strong else None,
    )


def _obstacle(facts: AtaFacts) -> str | None:
    if not facts.supported:
        return "the drive has no ATA security feature, so no secure erase"
    if facts.frozen:
        return (
            "the firmware has frozen the drive's security: no secure erase until the drive was "
            "without power while the system runs"
        )
    if facts.locked or facts.enabled:
        return "the drive has an ATA password that is not ours: no secure erase"
    if facts.expired:
        return "the drive counted too many wrong ATA passwords: no secure erase until power-off"
    return None


def secure_erase(device: Path, way: Way) -> None:
    """Have the drive erase itself; returns when it is done, which takes minutes to hours.

    Raises DiskError. A power cut meanwhile leaves the drive locked, with PASSWORD.
    """
    facts = ata_facts(device)
    if obstacle := _obstacle(facts):
        raise DiskError(f"{device}: {obstacle}")
    enhanced = way is Way.ATA_ENHANCED
    expected = (facts.enhanced_minutes if enhanced else facts.minutes) or 0
    timeout_s = min(max(_LEAST_TIMEOUT_S, 2 * 60 * expected), _MOST_TIMEOUT_S)
    with block.opened(device, os.O_RDWR) as fd:
        _command(fd, device, _SET_PASSWORD, _TO_DRIVE, data=password_block(enhanced=False))
        try:
            _command(fd, device, _ERASE_PREPARE, _NO_DATA)
            _command(
                fd,
                device,
                _ERASE_UNIT,
                _TO_DRIVE,
                data=password_block(enhanced=enhanced),
                timeout_s=timeout_s,
            )
        except DiskError as error:
            _take_password_away(fd, device, error)
            raise
    if ata_facts(device).enabled:
        raise DiskError(f"{device} kept its password after the erasing", hint=_unlock(device))


def _take_password_away(fd: int, device: Path, failure: DiskError) -> None:
    try:
        _command(fd, device, _DISABLE_PASSWORD, _TO_DRIVE, data=password_block(enhanced=False))
    except DiskError:
        failure.hint = _unlock(device)


def _unlock(device: Path) -> str:
    word = PASSWORD.decode()
    return f"the drive may be locked: hdparm --security-disable {word} {device}"


def password_block(*, enhanced: bool) -> bytes:
    """Return the sector that goes with a SECURITY command: the user password, level high.

    Bit 1 of the first word means an enhanced erase, and nothing to the other commands.
    """
    return struct.pack("<H", 2 if enhanced else 0) + PASSWORD.ljust(_SECTOR_BYTES - 2, b"\0")


def cdb(command: int, direction: int) -> bytes:
    """Return ATA PASS-THROUGH (16) for a command of 28 bits with one sector of data, or none."""
    count = 0 if direction == _NO_DATA else 1
    # bytes 2: transfer length in the sector count (2), in blocks (4), from the drive (8)
    transfer = {_NO_DATA: 0, _TO_DRIVE: 0x06, _FROM_DRIVE: 0x0E}[direction]
    head = bytes((0x85, _PROTOCOL[direction] << 1, transfer, 0, 0, 0, count))
    return head + bytes(7) + bytes((command, 0))


def _command(
    fd: int,
    device: Path,
    command: int,
    direction: int,
    *,
    data: bytes = b"",
    timeout_s: int = 60,
) -> bytes:
    words = ctypes.create_string_buffer(cdb(command, direction), 16)
    sense = ctypes.create_string_buffer(_SENSE_BYTES)
    count = 0 if direction == _NO_DATA else _SECTOR_BYTES
    buffer = ctypes.create_string_buffer(data, _SECTOR_BYTES)
    header = bytearray(
        _HEADER.pack(
            ord("S"),
            direction,
            16,
            _SENSE_BYTES,
            0,
            count,
            ctypes.addressof(buffer) if count else 0,
            ctypes.addressof(words),
            ctypes.addressof(sense),
            timeout_s * 1000,
            *(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        )
    )
    try:
        fcntl.ioctl(fd, _SG_IO, header, True)
    except OSError as error:
        raise DiskError(
            f"{device} takes no ATA command {command:#04x}: {error.strerror}"
        ) from error
    fields = _HEADER.unpack(header)
    status, host, driver = fields[13], fields[17], fields[18]
    if status or host or driver & 0x0F:
        raise DiskError(
            f"{device} refuses ATA command {command:#04x}: status {status:#x}, host {host:#x}, "
            f"sense {sense.raw[:8].hex()}"
        )
    return buffer.raw
