"""Which partition an fstab means."""

import msgspec
import pytest

from agent.identity.survey import find_node, parse_crypttab, parse_fstab, with_names
from agent.model.nodes import Luks
from agent.model.steps import MountPoint
from tests.unit.make_plan import guid
from tests.unit.test_plan_capture import make_found

FOUND = make_found()


@pytest.mark.parametrize(
    ("spec", "node"),
    [
        (f"UUID={guid(101)}", "disk0p3"),
        (f'UUID="{guid(101).upper()}"', "disk0p3"),
        ("UUID=ABCD-1234", "disk0p2"),
        ("UUID=abcd-1234", "disk0p2"),
        (f"/dev/disk/by-uuid/{guid(101)}", "disk0p3"),
        (f"PARTUUID={guid(1)}", "disk0p1"),
        (f"/dev/disk/by-partuuid/{guid(1)}", "disk0p1"),
        ("LABEL=root", "disk0p3"),
        ("LABEL=", None),
        ("PARTLABEL=", None),
        ("UUID=-", None),
        ("/dev/sda3", "disk0p3"),
        ("/dev/vda4", "disk0p4"),
        ("/dev/nvme0n1p2", "disk0p2"),
        ("/dev/sda9", None),
        ("/dev/vdb1", None),
        ("/dev/mapper/vg-root", None),
        ("server:/export", None),
    ],
)
def test_a_first_field(spec: str, node: str | None) -> None:
    assert find_node(spec, FOUND) == node


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
    found, strangers = parse_fstab(text, FOUND)
    assert found == [
        MountPoint(node="disk0p3", where="/"),
        MountPoint(node="disk0p2", where="/boot/efi"),
    ]
    assert strangers == ("/dev/vdb1 on /data", "UUID=1-1 on /gone")


def test_a_crypttab_names_what_is_open_and_fstab_is_read_by_it() -> None:
    luks = Luks(
        id="luks0",
        on="disk0p3",
        version=2,
        uuid=guid(900),
        cipher="aes-xts-plain64",
        key_bytes=64,
        size_bytes=1,
    )
    found = make_found()
    inside = msgspec.structs.replace(found.contents[2], on="luks0", path="/dev/mapper/x")
    found = msgspec.structs.replace(found, nodes=(*found.nodes, luks), contents=(inside,))
    for device in (f"UUID={guid(900)}", f"/dev/disk/by-uuid/{guid(900)}", f"PARTUUID={guid(3)}"):
        mapped = parse_crypttab(f"# mine\nvda3_crypt {device} none luks\nother /dev/sdz1\n", found)
        assert mapped == {"luks0": "vda3_crypt"}
    text = "/dev/mapper/vda3_crypt / ext4 defaults 0 1\n"
    assert parse_fstab(text, with_names(found, mapped)) == (
        [MountPoint(node="luks0", where="/")],
        (),
    )
