"""Inside a guest: a system of one plain ext4 goes onto xfs in LVM in LUKS, and is made to boot."""

import os
from contextlib import ExitStack
from pathlib import Path

from agent.identity.boot.renew import BootTarget, boot_devices, renew_boot, take_boot_code
from agent.identity.boot.rewrite import rewrite_boot_files
from agent.model.template import Firmware
from agent.system.command import Run
from agent.system.mount import TARGET_OPTIONS, mounted
from agent.system.rooted import RootedTree
from agent.tools import boot_sector
from tests.guest.conftest import sh
from tests.shapes import ALONE, PASSPHRASE
from tests.shapes.captured import BY_ID, leave_as_captured, make_table, unpack
from tests.shapes.layouts import (
    BOOT_UUID,
    ESP_SERIALS,
    GROUP,
    LUKS_NAME,
    LUKS_UUID,
    NEW_ROOT_UUID,
    SWAP_UUID,
    encrypted,
    single,
)


def test_a_plain_system_goes_onto_an_encrypted_volume(tmp_path: Path) -> None:
    run = Run()
    disk = (BY_ID / f"virtio-{ALONE}").resolve()
    make_table(encrypted(), "disk0", disk)
    esp, boot, container = (Path(f"{disk}{number}") for number in (2, 3, 4))
    sh("mkfs.vfat", "-F", "32", "-s", "1", "-n", "ESP", "-i", ESP_SERIALS[0], esp)
    sh("mkfs.ext4", "-q", "-U", BOOT_UUID, boot)
    # opened under a name of ours, as a deployment does: the system has another in its crypttab
    words = ["cryptsetup", "luksFormat", "--batch-mode", "--type=luks2", f"--uuid={LUKS_UUID}"]
    words += ["--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--key-file=-"]
    sh(*words, container, stdin=PASSPHRASE)
    sh("cryptsetup", "open", "--key-file=-", container, "metalcast-luks0", stdin=PASSPHRASE)
    opened = Path("/dev/mapper/metalcast-luks0")
    sh("vgcreate", GROUP, opened)
    sh("lvcreate", "--yes", "--size", "2g", "--name", "root", GROUP)
    sh("lvcreate", "--yes", "--size", "128m", "--name", "swap", GROUP)
    volumes = [Path(f"/dev/{GROUP}/root"), Path(f"/dev/{GROUP}/swap")]
    sh("mkfs.xfs", "-q", "-m", f"uuid={NEW_ROOT_UUID}", volumes[0])
    sh("mkswap", "-U", SWAP_UUID, volumes[1])
    sh("udevadm", "settle")

    target = BootTarget((Firmware.BIOS,), (disk,), boot_devices([disk], [opened, *volumes]))
    root = tmp_path / "root"
    with ExitStack() as stack:
        stack.enter_context(mounted(run, volumes[0], root, "xfs", TARGET_OPTIONS))
        stack.enter_context(mounted(run, boot, root / "boot", "ext4", TARGET_OPTIONS))
        stack.enter_context(mounted(run, esp, root / "boot/efi", "vfat", TARGET_OPTIONS))
        unpack(root)
        leave_as_captured(root)
        with RootedTree(root) as tree:
            touched = {one.path for one in rewrite_boot_files(tree, single(), encrypted())}
        renew_boot(run, root, target)
        assert {"/etc/fstab", "/etc/crypttab"} <= touched
        assert (
            f"{LUKS_NAME} UUID={LUKS_UUID} none luks,initramfs"
            in (root / "etc/crypttab").read_text()
        )
        menu = (root / "boot/grub/grub.cfg").read_text()
        assert "root=/dev/mapper/vg--sys-root" in menu
    code = take_boot_code(disk)
    boot_sector.write_boot_code(disk, code)
    sh("vgchange", "--activate", "n", GROUP)
    sh("cryptsetup", "close", "metalcast-luks0")
    with disk.open("rb") as file:
        os.fsync(file.fileno())
