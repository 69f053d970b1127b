"""Deployed over the network: other filesystems, sectors, firmware and special sources, booted.

The template of the one ext4 is captured where a BIOS started; most targets are started by UEFI.
Each `boot` has a firmware that knows no entry: what boots is found by the fallback loader alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from agent.units import GiB
from tests.harness.machine import Disk, Firmware
from tests.harness.rack import Blank, Booted, Lived, Rack
from tests.harness.source_layouts import source_layout
from tests.shapes.sources import LOGICAL, MIRROR, SUBVOLUMES, TWO

pytestmark = [pytest.mark.qemu, pytest.mark.full]

Template = Callable[[Firmware], str]
PASSPHRASE = "open sesame"
LIVE_S = 600
SECRET = "secret"
_BOOT: dict[str, Any] = {"id": "boot", "type": "partition", "device": "disk0", "size": "384MiB"}
_LV: dict[str, Any] = {"type": "lvm_partition", "volgroup": "vg"}
_ON_LVM: list[dict[str, Any]] = [
    {"id": "lv-swap", **_LV, "name": "swap", "size": "128MiB"},
    {"id": "lv-root", **_LV, "name": "root"},
    {"id": "fs-boot", "type": "format", "volume": "boot", "fstype": "ext4"},
    {"id": "fs-swap", "type": "format", "volume": "lv-swap", "fstype": "swap"},
    {"id": "fs-root", "type": "format", "volume": "lv-root", "fstype": "xfs"},
    {"id": "m-boot", "type": "mount", "device": "fs-boot", "path": "/boot"},
    {"id": "m-root", "type": "mount", "device": "fs-root", "path": "/"},
]


def on_lvm_of(physical: str, *others: dict[str, Any], more: Sequence[dict[str, Any]] = ()) -> Any:
    """Return a storage configuration: xfs on LVM on `physical`, which is one of `others`."""
    disk = {"id": "disk0", "type": "disk", "ptable": "gpt"}
    group = {"id": "vg", "type": "lvm_volgroup", "name": "vg-sys", "devices": [physical]}
    return {"version": 1, "config": [disk, *others, group, *more, *_ON_LVM]}


XFS_ON_LVM = on_lvm_of(
    "pv",
    {"id": "esp", "type": "partition", "device": "disk0", "size": "128MiB", "flag": "boot"},
    _BOOT,
    {"id": "pv", "type": "partition", "device": "disk0"},
    more=(
        {"id": "fs-esp", "type": "format", "volume": "esp", "fstype": "vfat"},
        {"id": "m-esp", "type": "mount", "device": "fs-esp", "path": "/boot/efi"},
    ),
)
XFS_ON_LVM_IN_LUKS = on_lvm_of(
    "crypt",
    {"id": "grub", "type": "partition", "device": "disk0", "size": "1MiB", "flag": "bios_grub"},
    _BOOT,
    {"id": "part", "type": "partition", "device": "disk0"},
    {"id": "crypt", "type": "dm_crypt", "volume": "part", "dm_name": SECRET},
)


@dataclass(frozen=True, slots=True)
class Made:
    """Disks that a deployment made, and the digest of the tree that is on them."""

    disks: tuple[Disk, ...]
    tree: str


def mounted(system: Booted, where: str) -> str:
    """Return what is mounted at `where`: the device and the kind, `` if nothing is."""
    return system.run(f"findmnt --noheadings --output SOURCE,FSTYPE {where} || true")


def size_of(system: Booted, where: str) -> int:
    return int(system.run(f"df --block-size=1 --output=size {where} | tail -1"))


def expect_whole(system: Booted, tree: str) -> None:
    """Demand a healthy system with swap and with all files of its source."""
    system.expect_healthy()
    assert system.run("swapon --noheadings --show=TYPE") == "partition"
    assert system.tree() == tree


def firmware_variables(rack: Rack) -> bytes:
    """Return what the firmware of the machine that was deployed last keeps."""
    found = rack.folder.glob("*-deploy-*.vars.fd")
    return max(found, key=lambda path: path.stat().st_mtime).read_bytes()


@pytest.fixture(scope="module")
def on_lvm(rack: Rack, storage_server: Lived, storage_template: Template) -> Iterator[Made]:
    """The one ext4 put on xfs on LVM, booted once by UEFI and switched off."""
    disks = rack.deploy(storage_template("bios"), [Blank("LVM-4G", 4 * GiB)], XFS_ON_LVM, "uefi")
    assert r"\EFI\debian\grubx64.efi".encode("utf-16-le") in firmware_variables(rack)
    with rack.boot(disks, "uefi", in_place=True) as system:
        expect_whole(system, storage_server.tree)
        assert mounted(system, "/").split() == ["/dev/mapper/vg--sys-root", "xfs"]
        assert mounted(system, "/boot").split()[1] == "ext4"
        assert mounted(system, "/boot/efi").split()[1] == "vfat"
        # the firmware came here without an entry of ours
        said = system.run(r"cat /sys/firmware/efi/efivars/Boot0* | tr -d '\0' | grep -ac debian; :")
        assert said == "0"
    yield Made(disks, storage_server.tree)
    rack.remove(disks)


@pytest.fixture(scope="module")
def xfs_template(rack: Rack, on_lvm: Made) -> str:
    """The template captured of xfs on LVM."""
    rack.capture("xfs-on-lvm", on_lvm.disks, "uefi")
    return "xfs-on-lvm"


def test_ext4_boots_as_xfs_on_lvm(on_lvm: Made) -> None:
    assert on_lvm.tree


def test_xfs_on_lvm_boots_from_a_bigger_disk(rack: Rack, on_lvm: Made, xfs_template: str) -> None:
    disks = rack.deploy(
        xfs_template,
        [Blank("LVM-6G", 6 * GiB, dirty=True)],
        "same",
        "uefi",
        consent=["linux_raid_member"],
    )
    with rack.boot(disks, "uefi") as system:
        expect_whole(system, on_lvm.tree)
        assert mounted(system, "/").split() == ["/dev/mapper/vg--sys-root", "xfs"]
        assert size_of(system, "/") > 5 * GiB
    rack.remove(disks)


def test_xfs_boots_from_a_smaller_disk_by_bios(rack: Rack, on_lvm: Made, xfs_template: str) -> None:
    disks = rack.deploy(xfs_template, [Blank("SMALL-2G", 2 * GiB)], "single", "bios")
    with rack.boot(disks, "bios") as system:
        expect_whole(system, on_lvm.tree)
        source, kind = mounted(system, "/").split()
        assert source.startswith("/dev/vda")
        assert kind == "xfs"
        assert mounted(system, "/boot/efi") == ""
    rack.remove(disks)


def test_an_encrypted_root_boots(
    rack: Rack, storage_server: Lived, storage_template: Template
) -> None:
    keys = [{"passphrase": PASSPHRASE}]
    disks = rack.deploy(
        storage_template("bios"), [Blank("LUKS-4G", 4 * GiB)], "luks", "uefi", keys=keys
    )
    with rack.boot(disks, "uefi", answers=[(r"unlock disk", PASSPHRASE)]) as system:
        system.expect_healthy()
        assert mounted(system, "/").split() == ["/dev/mapper/root_crypt", "ext4"]
        assert mounted(system, "/boot").split()[1] == "ext4"
        assert system.tree() == storage_server.tree
    rack.remove(disks)


def test_xfs_on_lvm_in_luks_boots_by_bios(
    rack: Rack, storage_server: Lived, storage_template: Template
) -> None:
    keys = [{"passphrase": PASSPHRASE}]
    blank = Blank("SECRET-3G", 3 * GiB)
    disks = rack.deploy(storage_template("bios"), [blank], XFS_ON_LVM_IN_LUKS, "bios", keys=keys)
    with rack.boot(disks, "bios", answers=[(r"unlock disk", PASSPHRASE)]) as system:
        expect_whole(system, storage_server.tree)
        assert mounted(system, "/").split() == ["/dev/mapper/vg--sys-root", "xfs"]
        assert system.run(f"cryptsetup status {SECRET} | grep --count LUKS2") == "1"
    rack.remove(disks)


def test_sectors_of_4096_boot(
    rack: Rack, storage_server: Lived, storage_template: Template
) -> None:
    blank = Blank("NATIVE-4K", 4 * GiB, sector_bytes=4096)
    disks = rack.deploy(storage_template("bios"), [blank], "single", "uefi")
    with rack.boot(disks, "uefi") as system:
        expect_whole(system, storage_server.tree)
        assert system.run("cat /sys/block/vda/queue/logical_block_size") == "4096"
        assert mounted(system, "/").split()[0].startswith("/dev/vda")
    rack.remove(disks)


def lived_in(rack: Rack, firmware: Firmware, serials: Sequence[str]) -> Made:
    """Boot a made source server from its own disks, let it live, switch it off."""
    made = [Disk(path, serial) for serial, path in source_layout(*serials).items()]
    disks = rack.copies(made)
    with rack.boot(disks, firmware, in_place=True) as system:
        system.run("live-in && cp -a /srv/lived-in /home/", LIVE_S)
        system.expect_healthy()
        tree = system.tree()
    return Made(disks, tree)


def test_btrfs_with_subvolumes_boots_from_a_bigger_disk(rack: Rack) -> None:
    made = lived_in(rack, "uefi", [SUBVOLUMES])
    rack.capture("subvolumes", made.disks, "uefi")
    disks = rack.deploy("subvolumes", [Blank("BTRFS-5G", 5 * GiB)], "same", "uefi")
    with rack.boot(disks, "uefi") as system:
        expect_whole(system, made.tree)
        assert mounted(system, "/").split() == ["/dev/vda4[/@]", "btrfs"]
        assert mounted(system, "/home").split() == ["/dev/vda4[/@home]", "btrfs"]
        assert size_of(system, "/") > 4 * GiB
    rack.remove((*made.disks, *disks))


def test_a_btrfs_on_two_disks_boots_from_bigger_disks(rack: Rack) -> None:
    made = lived_in(rack, "uefi", MIRROR)
    rack.capture("mirror", made.disks, "uefi")
    blanks = [Blank("MIRROR-4G", 4 * GiB), Blank("MIRROR-5G", 5 * GiB)]
    roles = {f"disk{number}": {"serial": one.serial} for number, one in enumerate(blanks)}
    disks = rack.deploy("mirror", blanks, "same", "uefi", disks=roles)
    with rack.boot(disks, "uefi") as system:
        expect_whole(system, made.tree)
        assert mounted(system, "/").split() == ["/dev/vda4[/@]", "btrfs"]
        assert size_of(system, "/") > 3 * GiB
        shown = system.run("btrfs filesystem show --raw / | grep devid")
        sizes = [int(line.split()[3]) for line in shown.splitlines()]
        assert min(sizes) > 3 * GiB
        assert max(sizes) > 4.9 * GiB
        system.run("btrfs scrub start -B / && btrfs device stats --check /")
    rack.remove((*made.disks, *disks))


def test_a_logical_root_boots_from_a_bigger_disk(rack: Rack) -> None:
    made = lived_in(rack, "bios", [LOGICAL])
    rack.capture("logical", made.disks, "bios")
    disks = rack.deploy("logical", [Blank("LOGICAL-5G", 5 * GiB)], "same", "bios")
    with rack.boot(disks, "bios") as system:
        expect_whole(system, made.tree)
        assert mounted(system, "/").split() == ["/dev/vda5", "ext4"]
        assert size_of(system, "/") > 4 * GiB
    rack.remove((*made.disks, *disks))


def test_two_disks_boot_in_the_other_order(rack: Rack) -> None:
    made = lived_in(rack, "uefi", TWO)
    rack.capture("two-disks", made.disks, "uefi")
    blanks = [Blank("SRV-1G", GiB), Blank("SYSTEM-4G", 4 * GiB)]
    roles = {"disk0": {"serial": "SYSTEM-4G"}, "disk1": {"serial": "SRV-1G"}}
    disks = rack.deploy("two-disks", blanks, "same", "uefi", disks=roles)
    with rack.boot(disks, "uefi") as system:
        expect_whole(system, made.tree)
        assert mounted(system, "/").split() == ["/dev/vdb4", "ext4"]
        assert mounted(system, "/srv").split() == ["/dev/vda1", "xfs"]
        assert size_of(system, "/") > 3 * GiB
        assert size_of(system, "/srv") < GiB
    rack.remove((*made.disks, *disks))
