"""Inside a guest: a system captured from one disk is put on a mirror of two and made to boot."""

import os
from pathlib import Path

from agent.identity.boot.esp import copy_esp
from agent.identity.boot.renew import BootTarget, boot_devices, renew_boot, take_boot_code
from agent.identity.boot.rewrite import rewrite_boot_files
from agent.model.template import Firmware
from agent.system.command import Run
from agent.system.mount import TARGET_OPTIONS, mounted
from agent.system.rooted import RootedTree
from agent.tools import boot_sector
from tests.guest.conftest import sh
from tests.shapes import LEGS
from tests.shapes.captured import BY_ID, leave_as_captured, make_table, unpack
from tests.shapes.layouts import ARRAY_UUID, ESP_SERIALS, NEW_ROOT_UUID, mirror, single

_ARRAY = Path("/dev/md/metalcast-md0")


def test_a_system_of_one_disk_goes_onto_a_mirror(tmp_path: Path) -> None:
    run = Run()
    disks = [(BY_ID / f"virtio-{serial}").resolve() for serial in LEGS]
    for name, disk in zip(("disk0", "disk1"), disks, strict=True):
        make_table(mirror(), name, disk)
    legs = [Path(f"{disk}2") for disk in disks]
    for leg, serial in zip(legs, ESP_SERIALS, strict=True):
        sh("mkfs.vfat", "-F", "32", "-s", "1", "-n", "ESP", "-i", serial, leg)
    members = [f"{disk}3" for disk in disks]
    words: list[str | Path] = [
        "mdadm",
        "--create",
        _ARRAY,
        "--run",
        "--level=1",
        "--raid-devices=2",
    ]
    words += ["--metadata=1.2", "--assume-clean", f"--uuid={ARRAY_UUID}", "--bitmap=none"]
    sh(*words, *members)
    sh("mkfs.ext4", "-q", "-U", NEW_ROOT_UUID, "-L", "root", _ARRAY)
    sh("udevadm", "settle")

    target = BootTarget((Firmware.BIOS, Firmware.UEFI), tuple(disks), boot_devices(disks, [_ARRAY]))
    root = tmp_path / "root"
    with mounted(run, _ARRAY, root, "ext4", TARGET_OPTIONS):
        unpack(root)
        leave_as_captured(root)
        with mounted(run, legs[0], root / "boot/efi", "vfat", TARGET_OPTIONS):
            with RootedTree(root) as tree:
                touched = {one.path for one in rewrite_boot_files(tree, single(), mirror())}
            renew_boot(run, root, target)
            copy_esp(run, root / "boot/efi", legs[1:], tmp_path / "leg")
            assert (root / "boot/efi/EFI/BOOT/BOOTX64.EFI").stat().st_size > 100_000
        assert {"/etc/fstab", "/etc/mdadm/mdadm.conf"} <= touched
        menu = (root / "boot/grub/grub.cfg").read_text()
        assert f"root=UUID={NEW_ROOT_UUID}" in menu
        assert "mduuid/" in menu

    # what could boot is withheld, and given back as the commit does
    for disk in disks:
        code = take_boot_code(disk)
        assert boot_sector.read_boot_code(disk) == boot_sector.PENDING_STUB
        boot_sector.write_boot_code(disk, code)
    sh("mdadm", "--stop", _ARRAY)
    for disk in disks:
        with disk.open("rb") as file:
            os.fsync(file.fileno())
