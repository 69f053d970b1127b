"""The first sector of a disk: boot code in, boot code out, one write of one sector."""

import os
from pathlib import Path
from typing import Final

from agent.errors import DiskError
from agent.model.layout import BOOT_CODE_BYTES
from agent.system import block

_SIGNATURE: Final = b"\x55\xaa"
_SIGNATURE_AT: Final = 510
_ENTRIES_AT: Final = 446
_ENTRY_BYTES: Final = 16
_PROTECTIVE: Final = 0xEE

_MESSAGE: Final = (
    b"\r\nThis disk is half deployed by Metalcast; it will not boot.\r\n"
    b"Start the machine from the network again.\r\n\0"
)


def _stub() -> bytes:
    """Return 440 bytes of real-mode code that prints why, then lets the BIOS go on.

    The BIOS loads the sector at 0000:7C00 and jumps there.
    """
    code = bytes.fromhex(
        "fa"  # cli: no interrupt while there is no stack
        "31c0"  # xor ax, ax
        "8ed8"  # mov ds, ax
        "8ed0"  # mov ss, ax
        "bc007c"  # mov sp, 0x7c00
        "fb"  # sti
        "fc"  # cld
        "be0000"  # mov si, message (filled in below)
        "ac"  # next: lodsb
        "84c0"  # test al, al
        "7409"  # jz done
        "b40e"  # mov ah, 0x0e: teletype
        "bb0700"  # mov bx, 7: page 0, grey
        "cd10"  # int 0x10
        "ebf2"  # jmp next
        "cd18"  # done: int 0x18: "no boot here", the BIOS tries the next device
        "f4"  # halt: hlt
        "ebfd"  # jmp halt
    )
    at = code.index(bytes.fromhex("be0000")) + 1
    message_at = (0x7C00 + len(code)).to_bytes(2, "little")
    code = code[:at] + message_at + code[at + 2 :] + _MESSAGE
    assert len(code) <= BOOT_CODE_BYTES
    return code.ljust(BOOT_CODE_BYTES, b"\0")


PENDING_STUB: Final = _stub()


GAP_MAX_BYTES: Final = 1024 * 1024
"""Where partitions have begun since 2008; a boot loader embeds less."""
RECORD_OFFSET: Final = 512 * 1024
RECORD_BYTES: Final = 4 * 1024
RECORD_MAGIC: Final = b"METALCAST RECORD\n"
"""Our own note about the last deployment, in front of the first partition."""


def read_boot_code(device: Path) -> bytes:
    """Return the 440 bytes that a BIOS would run."""
    return _read_sector(device, 512)[:BOOT_CODE_BYTES]


def read_foreign_mbr_entries(device: Path) -> int:
    """Return how many partitions the MBR names beside the protective one: a hybrid MBR has some."""
    sector = _read_sector(device, 512)
    kinds = [sector[_ENTRIES_AT + n * _ENTRY_BYTES + 4] for n in range(4)]
    return sum(1 for kind in kinds if kind not in (0, _PROTECTIVE))


def is_gpt_of_whole(device: Path) -> bool:
    """Return whether `device` has a GPT whose other copy is in its last sector.

    The place of that copy is 32 bytes into the header (UEFI 2.10, table 5.5).
    """
    sector = block.sector_bytes(device)
    header = read_at(device, sector, sector)
    other = int.from_bytes(header[32:40], "little")
    return header.startswith(b"EFI PART") and (other + 1) * sector == block.size_bytes(device)


def read_hybrid_entries(device: Path) -> str | None:
    """Return the 64 bytes of a hybrid MBR's entries as hexadecimal digits, None if it has none."""
    if not read_foreign_mbr_entries(device):
        return None
    sector = _read_sector(device, 512)
    return sector[_ENTRIES_AT : _ENTRIES_AT + 4 * _ENTRY_BYTES].hex()


def write_hybrid_entries(device: Path, entries: str) -> None:
    """Put the entries of a hybrid MBR back: one write, then a flush. The GPT stays as it is."""
    data = bytes.fromhex(entries)
    if len(data) != 4 * _ENTRY_BYTES:
        raise DiskError(f"the entries of an MBR have 64 bytes, not {len(data)}")
    sector = bytearray(_read_sector(device, block.sector_bytes(device)))
    sector[_ENTRIES_AT : _ENTRIES_AT + len(data)] = data
    write_at(device, 0, bytes(sector))


def read_gap(device: Path, sector_bytes: int, first_offset: int) -> int:
    """Return how much of the gap between the first sector and the first partition holds something.

    In bytes from the second sector on, whole sectors; more than `GAP_MAX_BYTES` is never looked at.
    A record that a deployment left there counts as nothing.
    """
    end = min(first_offset, sector_bytes + GAP_MAX_BYTES)
    if end <= sector_bytes:
        return 0
    data = bytearray(read_at(device, sector_bytes, end - sector_bytes))
    at = RECORD_OFFSET - sector_bytes
    if data[at : at + len(RECORD_MAGIC)] == RECORD_MAGIC:
        data[at : at + RECORD_BYTES] = bytes(len(data[at : at + RECORD_BYTES]))
    used = len(data.rstrip(b"\0"))
    return -(-used // sector_bytes) * sector_bytes


def is_filesystem(sector: bytes | bytearray) -> bool:
    """Return whether a first sector is that of a FAT on the bare disk, not an MBR.

    Both end in the same two bytes. What decides is the kernel's rule: an MBR's entries all begin
    with 0 or 80, and one that names nothing counts less than FAT's own header. mkfs.vfat names the
    whole disk from its first sector on, which is nothing new.
    """
    entries = [
        sector[at : at + _ENTRY_BYTES] for at in range(_ENTRIES_AT, _SIGNATURE_AT, _ENTRY_BYTES)
    ]
    names_something = any(entry[4] and any(entry[8:12]) and any(entry[12:16]) for entry in entries)
    if names_something and all(entry[0] in (0, 0x80) for entry in entries):
        return False
    cluster = sector[13]
    return (
        sector[0] in (0xE9, 0xEB)
        and int.from_bytes(sector[11:13], "little") in (512, 1024, 2048, 4096)
        and cluster > 0
        and cluster & (cluster - 1) == 0
        and any(sector[14:16])
        and sector[16] in (1, 2)
        and sector[21] >= 0xF0
    )


def is_boot_code(code: bytes) -> bool:
    """Return whether `code` is some, and not our own stub."""
    return any(code) and code[:BOOT_CODE_BYTES] != PENDING_STUB


def write_boot_code(device: Path, code: bytes) -> None:
    """Put `code` before the partition entries of the first sector: one write, then a flush."""
    if len(code) > BOOT_CODE_BYTES:
        raise DiskError(f"boot code of {len(code)} bytes, at most {BOOT_CODE_BYTES} fit")
    sector_bytes = block.sector_bytes(device)
    old = _read_sector(device, sector_bytes)
    new = bytearray(code.ljust(BOOT_CODE_BYTES, b"\0") + old[BOOT_CODE_BYTES:])
    new[_SIGNATURE_AT : _SIGNATURE_AT + 2] = _SIGNATURE
    write_at(device, 0, bytes(new))


def write_at(device: Path, offset: int, data: bytes) -> None:
    """Write `data` and flush. Raises DiskError, also when it shows only at the flush."""
    with block.opened(device, os.O_WRONLY) as fd:
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(fd, data[done:], offset + done)
            os.fsync(fd)
        except OSError as error:
            raise DiskError(
                f"could not write {len(data)} bytes to {device} at offset {offset}: "
                f"{error.strerror}"
            ) from error


def read_at(device: Path, offset: int, size: int) -> bytes:
    with block.opened(device, os.O_RDONLY) as fd:
        try:
            data = os.pread(fd, size, offset)
        except OSError as error:
            raise DiskError(
                f"could not read {device} at offset {offset}: {error.strerror}"
            ) from error
    if len(data) != size:
        raise DiskError(f"{device} ends at offset {offset + len(data)}")
    return data


def _read_sector(device: Path, size: int) -> bytes:
    return read_at(device, 0, size)
