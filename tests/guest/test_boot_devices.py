"""What GRUB reads past an array is what was written through it."""

import os
from pathlib import Path

from agent.identity.boot.renew import forget_old_reads
from agent.units import KiB
from tests.guest.conftest import sh

_ARRAY = Path("/dev/md/seen")


def test_what_went_through_an_array_is_seen_past_it(scratch: list[Path]) -> None:
    members = scratch[:2]
    sh(
        *("mdadm", "--create", _ARRAY, "--run", "--level=1", "--raid-devices=2"),
        *("--metadata=1.2", "--assume-clean", "--bitmap=none", *members),
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


def _page(device: Path, offset: int) -> bytes:
    with device.open("rb") as file:
        file.seek(offset)
        return file.read(4 * KiB)
