"""Which partition an fstab means."""

import pytest

from agent.identity.survey import find_partition, parse_fstab
from tests.unit.make_plan import guid
from tests.unit.test_plan_capture import make_found

PARTS = make_found().partitions


@pytest.mark.parametrize(
    ("spec", "number"),
    [
        (f"UUID={guid(101)}", 3),
        (f'UUID="{guid(101).upper()}"', 3),
        ("UUID=ABCD-1234", 2),
        ("UUID=abcd-1234", 2),
        (f"/dev/disk/by-uuid/{guid(101)}", 3),
        (f"PARTUUID={guid(1)}", 1),
        (f"/dev/disk/by-partuuid/{guid(1)}", 1),
        ("LABEL=root", 3),
        ("LABEL=", None),
        ("PARTLABEL=", None),
        ("UUID=-", None),
        ("/dev/sda3", 3),
        ("/dev/vda4", 4),
        ("/dev/nvme0n1p2", 2),
        ("/dev/sda9", None),
        ("/dev/vdb1", None),
        ("/dev/mapper/vg-root", None),
        ("server:/export", None),
    ],
)
def test_a_first_field(spec: str, number: int | None) -> None:
    assert find_partition(spec, PARTS) == number


def test_a_whole_fstab() -> None:
    text = f"""
# /etc/fstab: static file system information.
UUID={guid(101)} / ext4 errors=remount-ro 0 1
UUID=ABCD-1234 /boot/efi vfat umask=0077 0 1
UUID={guid(102)} none swap sw 0 0
/dev/vdb1 /data ext4 defaults 0 2 # big
/dev/vdc1 /my\\040data ext4 nofail 0 2
UUID=1-1 /gone ext4 defaults 0 2
tmpfs /tmp tmpfs size=1g 0 0
/srv /export none bind 0 0
broken
"""
    found, strangers = parse_fstab(text, PARTS)
    assert found == {3: "/", 2: "/boot/efi"}
    assert strangers == ("/dev/vdb1 on /data", "UUID=1-1 on /gone")
