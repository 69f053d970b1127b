"""What was written through an array or a partition is seen past it, on the disk itself."""

import os
from pathlib import Path

from agent.identity.boot.renew import forget_old_reads, take_head
from agent.units import KiB, MiB
from tests.guest.conftest import sh

_ARRAY = Path("/dev/md/seen")
_ESP_AT = 1 * MiB
_FAT32_STATE_AT = 65
"""A byte whose lowest bit is set while the filesystem is mounted."""


def test_what_went_through_an_array_is_seen_past_it(scratch: list[Path]) -> None:
    members = scratch[:2]
    sh(
        *("mdadm", "--create", _ARRAY, "--run", "--level=1", "--raid-devices=2"),
        *("--metadata=1.2", "--assume-clean", "--bitmap=none"),
        *members,
    )
    state = Path("/sys/block") / _ARRAY.resolve().name / "md"
    places = {
        member: 512 * int((state / f"dev-{member.name}/offset").read_text()) for member in members
    }
    assert [_page(*place) for place in places.items()] == [bytes(4 * KiB)] * 2
    new = os.urandom(4 * KiB)
    with _ARRAY.open("r+b") as file:
        file.write(new)
        file.flush()
        os.fsync(file.fileno())

    # what this is about: the kernel shows what it read before
    assert [_page(*place) for place in places.items()] == [bytes(4 * KiB)] * 2
    forget_old_reads([*members, _ARRAY.resolve()])
    assert [_page(*place) for place in places.items()] == [new] * 2


def test_the_head_of_an_esp_is_taken_as_it_was_unmounted(
    scratch: list[Path], tmp_path: Path
) -> None:
    disk = scratch[0]
    sh("sfdisk", "--quiet", disk, stdin="label: gpt\nstart=1MiB, size=128MiB, type=U\n")
    sh("udevadm", "settle")
    esp = disk.with_name(f"{disk.name}1")
    sh("mkfs.vfat", "-F", "32", esp)
    # a deployment holds its disks as well: the kernel keeps what it read as long as one is open
    with disk.open("rb"):
        sh("mount", esp, tmp_path)
        assert _page(disk, _ESP_AT)[_FAT32_STATE_AT] & 1
        (tmp_path / "loader.efi").write_bytes(b"a loader")
        sh("umount", tmp_path)
        assert not _page(esp, 0)[_FAT32_STATE_AT] & 1

        # what this is about: through the disk, it is still mounted
        assert _page(disk, _ESP_AT)[_FAT32_STATE_AT] & 1
        head = take_head(disk, _ESP_AT, 4 * KiB)
    assert not head[_FAT32_STATE_AT] & 1
    assert _page(esp, 0) == bytes(4 * KiB)


def _page(device: Path, offset: int) -> bytes:
    with device.open("rb") as file:
        file.seek(offset)
        return file.read(4 * KiB)
