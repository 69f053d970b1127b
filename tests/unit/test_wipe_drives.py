"""What drives say of erasing, byte by byte; what QEMU's cannot do is here and in no guest.

The IDENTIFY words are of real drives, serials blanked: a Samsung SSD 870 QVO, from a report of
CrystalDiskInfo, and a Toshiba MK4025GAS and a Maxtor 6B200M0, from a kernel mailing list.
The NVMe pages are made after the specification, field by field.
"""

import itertools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.errors import DiskError
from agent.model.wipe import Way
from agent.tools import ata_security, nvme_admin
from agent.tools.ata_security import ata_abilities, parse_identify, password_block
from agent.tools.erase_disk import (
    EDGE_BYTES,
    all_places,
    check_gone,
    check_zeros,
    erase,
    fingerprints,
    sample_places,
)
from agent.tools.nvme_admin import format_dword, nvme_abilities, parse_sanitize_log, sanitize_dword
from agent.units import MiB

SAMSUNG = """
0040 3fff c837 0010 0000 0000 003f 0000 0000 0000
2020 2020 2020 2020 2020 2020 2020 2020 2020 2020
0000 0000 0000 5356 5130 3242 3651 5361 6d73 756e
6720 5353 4420 3837 3020 5156 4f20 3454 4220 2020
2020 2020 2020 2020 2020 2020 2020 8001 4001 2f00
4000 0200 0200 0007 3fff 0010 003f fc10 00fb 0101
ffff 0fff 0000 0007 0003 0078 0078 0078 0078 4f30
0000 0000 0000 0000 0000 001f 850e 00c6 056c 0060
09fc 005e 746b 7d01 4163 7469 bc01 4163 407f 0002
0004 0000 fffe 0000 0000 0000 0000 0000 0000 0000
beb0 d1c0 0001 0000 0000 0008 4000 0000 5002 538f
0000 0000 0000 0000 0000 0000 0000 0000 0000 401e
401c 0000 0000 0000 0000 0000 0000 0000 0029 0000
"""
SAMSUNG_LATER = {168: 0x0003, 169: 0x0001}
TOSHIBA = {1: 0x3FFF, 82: 0x7C6B, 83: 0x5908, 85: 0x7C69, 88: 0x043F, 89: 0x0012, 128: 0x0001}
MAXTOR = {1: 0x3FFF, 82: 0x7869, 83: 0x7D09, 85: 0x7869, 88: 0x203F, 128: 0x0000}


def samsung() -> bytes:
    words = [int(word, 16) for word in SAMSUNG.split()]
    words += [0] * (256 - len(words))
    for number, word in SAMSUNG_LATER.items():
        words[number] = word
    return struct.pack("<256H", *words)


def identify(words: dict[int, int]) -> bytes:
    return struct.pack("<256H", *(words.get(number, 0) for number in range(256)))


def test_a_drive_that_the_firmware_has_frozen() -> None:
    facts = parse_identify(samsung())
    assert (facts.supported, facts.frozen, facts.locked, facts.enabled) == (
        True,
        True,
        False,
        False,
    )
    assert (facts.enhanced, facts.minutes, facts.enhanced_minutes) == (True, 4, 8)
    assert facts.zeros_after_trim
    can = ata_abilities(facts, discards=True)
    assert can.ways == (Way.DISCARD, Way.ZERO)
    assert can.zeros_after_discard
    assert "frozen" in can.obstacles[0]
    assert can.minutes is None


def test_the_same_drive_after_it_was_without_power() -> None:
    data = bytearray(samsung())
    data[256] &= ~8
    can = ata_abilities(parse_identify(bytes(data)), discards=True)
    assert can.ways == (Way.ATA_ENHANCED, Way.ATA_NORMAL, Way.DISCARD, Way.ZERO)
    assert (can.obstacles, can.minutes) == ((), 8)


def test_an_old_disk_without_enhanced_erase() -> None:
    can = ata_abilities(parse_identify(identify(TOSHIBA)), discards=False)
    assert (can.ways, can.minutes) == ((Way.ATA_NORMAL, Way.ZERO), 36)
    assert not can.zeros_after_discard


def test_a_disk_without_security() -> None:
    can = ata_abilities(parse_identify(identify(MAXTOR)), discards=False)
    assert can.ways == (Way.ZERO,)
    assert "no ATA security" in can.obstacles[0]


@pytest.mark.parametrize(("bits", "word"), [(0x3, "password"), (0x7, "password"), (0x11, "wrong")])
def test_a_drive_under_a_password_is_left_alone(bits: int, word: str) -> None:
    can = ata_abilities(parse_identify(identify({**TOSHIBA, 128: bits})), discards=False)
    assert can.ways == (Way.ZERO,)
    assert word in can.obstacles[0]


def test_long_erase_times_are_read_whole() -> None:
    facts = parse_identify(identify({**TOSHIBA, 89: 0x8000 | 300, 90: 0xFF}))
    assert (facts.minutes, facts.enhanced_minutes) == (600, 510)


def test_ata_commands_as_sat_has_them() -> None:
    assert ata_security.cdb(0xEC, -3).hex() == "850" + "80e0000000100000000000000ec00"
    assert ata_security.cdb(0xF3, -1).hex() == "85060000000000000000000000" + "00f300"
    assert ata_security.cdb(0xF4, -2).hex() == "850a060000000100000000000000f400"
    assert password_block(enhanced=True)[:11] == b"\x02\0metalcast"
    assert len(password_block(enhanced=False)) == 512
    assert password_block(enhanced=False)[0] == 0


@pytest.mark.parametrize("refused", [0xF3, 0xF4])
def test_the_password_is_taken_away_when_the_erasing_fails(
    refused: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A drive left under a password would be lost to whoever does not know it."""
    device = tmp_path / "disk"
    device.touch()
    sent: list[int] = []

    def command(_fd: int, _device: Path, word: int, _way: int, **_: Any) -> bytes:
        sent.append(word)
        if word == refused:
            raise DiskError("refused")
        return identify(TOSHIBA)

    monkeypatch.setattr(ata_security, "_command", command)
    with pytest.raises(DiskError, match="refused"):
        ata_security.secure_erase(device, Way.ATA_NORMAL)
    assert sent[:2] == [0xEC, 0xF1]
    assert sent[-1] == 0xF6


def test_a_secure_erase_is_prepared_and_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    device = tmp_path / "disk"
    device.touch()
    sent: list[tuple[int, bytes, int]] = []

    def command(
        _fd: int, _device: Path, word: int, _way: int, *, data: bytes = b"", timeout_s: int = 60
    ) -> bytes:
        sent.append((word, data[:1], timeout_s))
        return identify({**TOSHIBA, 89: 0x8000 | 300, 128: 0x21})

    monkeypatch.setattr(ata_security, "_command", command)
    ata_security.secure_erase(device, Way.ATA_ENHANCED)
    assert [word for word, _, _ in sent] == [0xEC, 0xF1, 0xF3, 0xF4, 0xEC]
    assert sent[3][1] == b"\x02"
    ata_security.secure_erase(device, Way.ATA_NORMAL)
    assert sent[8][1:] == (b"\0", 2 * 600 * 60)  # twice what the drive thinks
    assert all(0 < seconds * 1000 < 2**32 for _, _, seconds in sent)


def nvme(
    sanicap: int = 0, oacs: int = 0, fna: int = 0, flbas: int = 0, dps: int = 0
) -> tuple[bytes, bytes]:
    controller, namespace = bytearray(4096), bytearray(4096)
    struct.pack_into("<H", controller, 256, oacs)
    struct.pack_into("<I", controller, 328, sanicap)
    controller[524] = fna
    namespace[26], namespace[29], namespace[33] = flbas, dps, 1
    return bytes(controller), bytes(namespace)


def active(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers).ljust(4096, b"\0")


def test_an_nvme_drive_that_sanitizes() -> None:
    facts = nvme_admin.parse_identify(*nvme(sanicap=0b011, oacs=0x17, fna=4), active(1))
    can = nvme_abilities(facts, discards=True)
    assert can.ways == (
        *(Way.SANITIZE_CRYPTO, Way.SANITIZE_BLOCK, Way.FORMAT_CRYPTO, Way.FORMAT_USER_DATA),
        *(Way.DISCARD, Way.ZERO),
    )
    assert not can.zeros_after_discard  # whatever it says of deallocated blocks
    assert can.obstacles == ()


def test_other_namespaces_are_never_erased_along() -> None:
    facts = nvme_admin.parse_identify(*nvme(sanicap=7, oacs=2), active(1, 2))
    can = nvme_abilities(facts, discards=True)
    assert can.ways == (Way.DISCARD, Way.ZERO)
    assert "2 namespaces" in can.obstacles[0]


def test_a_format_keeps_the_sectors_and_erases() -> None:
    facts = nvme_admin.parse_identify(*nvme(oacs=2, flbas=0x12, dps=0x0B), active(1))
    assert facts.formats == (Way.FORMAT_USER_DATA,)
    # LBA format 2, metadata inline, protection type 3 in first bytes, secure erase setting 1
    wanted = 2 | 1 << 4 | 3 << 5 | 1 << 8 | 1 << 9
    assert format_dword(facts, Way.FORMAT_USER_DATA) == wanted
    assert format_dword(facts, Way.FORMAT_CRYPTO) >> 9 == 2


def test_sanitize_commands() -> None:
    assert sanitize_dword(Way.SANITIZE_BLOCK) == 2
    assert sanitize_dword(Way.SANITIZE_CRYPTO) == 4
    assert sanitize_dword(Way.SANITIZE_OVERWRITE) == 3 | 1 << 4


def _sanitizing(
    monkeypatch: pytest.MonkeyPatch, answers: list[bytes]
) -> tuple[list[int], Callable[..., bytes]]:
    sent: list[int] = []

    def admin(_fd: int, _device: Path, opcode: int, **words: Any) -> bytes:
        sent.append(opcode)
        return answers.pop(0) if opcode == 0x02 else b""

    monkeypatch.setattr(nvme_admin, "_admin", admin)
    monkeypatch.setattr("agent.tools.nvme_admin.time.sleep", lambda _: None)
    return sent, admin


def log(progress: int, status: int) -> bytes:
    return struct.pack("<HH", progress, status).ljust(512, b"\0")


def test_a_sanitize_is_followed_to_its_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """3761 is a progress that `nvme sanitize-log` showed for a real drive."""
    device = tmp_path / "disk"
    device.touch()
    sent, _ = _sanitizing(monkeypatch, [log(3761, 2), log(32768, 2), log(65535, 0x101)])
    shares: list[float] = []
    nvme_admin.sanitize(device, Way.SANITIZE_BLOCK, shares.append)
    assert sent == [0x84, 0x02, 0x02, 0x02]
    assert shares == [3761 / 65536, 0.5, 1.0]


def test_a_sanitize_that_fails_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device = tmp_path / "disk"
    device.touch()
    _sanitizing(monkeypatch, [log(100, 2), log(65535, 3)])
    with pytest.raises(DiskError, match="sanitize failed"):
        nvme_admin.sanitize(device, Way.SANITIZE_CRYPTO, lambda _: None)
    assert parse_sanitize_log(log(5, 4)) == (5, 4)


def test_pages_that_are_cut_short_are_refused() -> None:
    for call in (
        lambda: parse_identify(b"\0" * 100),
        lambda: nvme_admin.parse_identify(b"", b"", b""),
        lambda: parse_sanitize_log(b"\0"),
    ):
        with pytest.raises(DiskError, match="cut short"):
            call()


@pytest.mark.parametrize("size", [64 * MiB, 64 * MiB + 4096 * 3, 3 * MiB, 4096])
def test_a_sample_has_both_ends_and_something_of_each_part(size: int) -> None:
    places = sample_places(size)
    assert places[0].offset == 0
    assert places[-1].end == size
    assert all(one.end <= other.offset for one, other in itertools.pairwise(places))
    ends = sum(place.size for place in places if place.end <= EDGE_BYTES)
    assert ends == min(EDGE_BYTES, size)
    assert len(sample_places(64 * MiB, 100)) >= 100
    assert sum(place.size for place in all_places(size)) == size


def test_zeros_are_written_and_what_is_left_is_found(tmp_path: Path) -> None:
    device = tmp_path / "disk"
    device.write_bytes(b"secret " * (MiB // 2))
    size = device.stat().st_size
    before = fingerprints(device, sample_places(size))
    assert None not in before
    done: list[int] = []
    erase(device, Way.ZERO, done.append)
    assert sum(done) == size
    assert device.read_bytes().count(0) == size
    verified = check_zeros(device, all_places(size), "full", lambda _: None)
    assert (verified.read_bytes, verified.zeros) == (size, True)
    with device.open("r+b") as file:
        file.seek(2 * MiB + 7)
        file.write(b"x")
    with pytest.raises(DiskError, match=f"offset {2 * MiB + 7} is not zero"):
        check_zeros(device, all_places(size), "full", lambda _: None)


def test_what_is_as_before_is_found(tmp_path: Path) -> None:
    device = tmp_path / "disk"
    device.write_bytes(b"\xff" * MiB + b"secret " * (MiB // 2))
    places = sample_places(device.stat().st_size)
    before = fingerprints(device, places)
    assert before[0] is None  # blank space cannot be known again
    with pytest.raises(DiskError, match=f"at offset {MiB} is what was there before"):
        check_gone(device, places, before, lambda _: None)
    device.write_bytes(b"\xff" * device.stat().st_size)
    verified = check_gone(device, places, before, lambda _: None)
    assert verified.comparable_pieces == sum(one is not None for one in before) > 0
