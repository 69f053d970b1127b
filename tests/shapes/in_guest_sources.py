"""Inside a guest: the disks of source servers are made, with the real programs of each layout."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from agent.identity.boot.renew import BootTarget, boot_devices, renew_boot
from agent.model.template import Firmware
from agent.system.command import Run
from agent.system.mount import SYSTEM_OPTIONS, Part, mounted, mounted_system
from tests.guest.conftest import sh
from tests.shapes.captured import BY_ID, DEFAULT_GRUB, set_password, unpack
from tests.shapes.sources import LOGICAL, MIRROR, SUBVOLUMES, TWO

_FILES = Path(__file__).parents[1] / "harness/source-files"
_BOTH_FIRMWARES = """\
label: gpt
1: start=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649
2: start=4096, size=131072, type=U, name="EFI"
3: start=135168, size=262144, type=S, name="swap"
4: start=397312, type=L, name="root"
"""
_LOGICAL = """\
label: dos
label-id: 0x5f1c9a60
1: start=2048, size=262144, type=82
2: start=264192, type=5
5: start=266240, type=83
"""
_ONE = """\
label: gpt
1: start=2048, type=L, name="srv"
"""


def test_btrfs_in_subvolumes(tmp_path: Path) -> None:
    disk = _partitioned(SUBVOLUMES, _BOTH_FIRMWARES)
    esp, swap, root = _formatted_esp_and_swap(disk)
    sh("mkfs.btrfs", "--quiet", "--label", "system", root)
    _install_in_subvolumes(tmp_path, (disk,), esp, swap, root)


def test_btrfs_on_two_disks(tmp_path: Path) -> None:
    disks = _partitioned(MIRROR[0], _BOTH_FIRMWARES), _partitioned(MIRROR[1], _ONE)
    esp, swap, root = _formatted_esp_and_swap(disks[0])
    second = Path(f"{disks[1]}1")
    sh("mkfs.btrfs", "--quiet", "--label=system", "--data=raid1", "--metadata=raid1", root, second)
    _install_in_subvolumes(tmp_path, disks, esp, swap, root, second)


def test_root_on_a_logical_partition(tmp_path: Path) -> None:
    disk = _partitioned(LOGICAL, _LOGICAL)
    swap, root = Path(f"{disk}1"), Path(f"{disk}5")
    sh("mkswap", swap)
    sh("mkfs.ext4", "-q", root)
    _install(tmp_path / "root", disk, (Part(root, "/"),), swap, (Firmware.BIOS,))


def test_srv_on_a_second_disk(tmp_path: Path) -> None:
    disk, second = _partitioned(TWO[0], _BOTH_FIRMWARES), _partitioned(TWO[1], _ONE)
    esp, swap, root = _formatted_esp_and_swap(disk)
    srv = Path(f"{second}1")
    sh("mkfs.ext4", "-q", root)
    sh("mkfs.xfs", "-q", srv)
    parts = (Part(root, "/"), Part(esp, "/boot/efi", "vfat"), Part(srv, "/srv", "xfs"))
    _install(tmp_path / "root", disk, parts, swap, (Firmware.BIOS, Firmware.UEFI))
    with second.open("rb") as file:
        os.fsync(file.fileno())


def _install_in_subvolumes(
    folder: Path, disks: Sequence[Path], esp: Path, swap: Path, root: Path, *further: Path
) -> None:
    top = Part(root, "/", "btrfs", further=further)
    options = top.options(SYSTEM_OPTIONS)
    with mounted(Run(), root, folder / "top", "btrfs", options) as where:
        for name in ("@", "@home"):
            sh("btrfs", "subvolume", "create", where / name)
    _install(
        folder / "root",
        disks[0],
        (
            Part(root, "/", "btrfs", "@", further),
            Part(esp, "/boot/efi", "vfat"),
            Part(root, "/home", "btrfs", "@home", further),
        ),
        swap,
        (Firmware.BIOS, Firmware.UEFI),
        disks[1:],
    )


def _partitioned(serial: str, table: str) -> Path:
    disk = (BY_ID / f"virtio-{serial}").resolve()
    sh("sfdisk", "--quiet", disk, stdin=table)
    sh("udevadm", "settle")
    return disk


def _formatted_esp_and_swap(disk: Path) -> tuple[Path, Path, Path]:
    """Return the ESP, the swap and the root of a disk that _BOTH_FIRMWARES parts."""
    esp, swap, root = (Path(f"{disk}{number}") for number in (2, 3, 4))
    sh("mkfs.vfat", "-F", "32", "-s", "1", "-n", "ESP", esp)
    sh("mkswap", swap)
    return esp, swap, root


def _install(
    where: Path,
    disk: Path,
    parts: Sequence[Part],
    swap: Path,
    firmware: tuple[Firmware, ...],
    others: Sequence[Path] = (),
) -> None:
    """Put the source server's files on `parts`, and let its own programs make it boot."""
    run = Run()
    sh("udevadm", "settle")
    fstab = [_mount_line(part) for part in parts]
    fstab.append(f"UUID={_uuid(swap)} none swap sw 0 0")
    devices = boot_devices([disk, *others], [])
    with mounted_system(run, where, parts, SYSTEM_OPTIONS, make_places=True):
        unpack(where)
        shutil.copytree(_FILES, where, dirs_exist_ok=True)
        (where / "usr/local/sbin/live-in").chmod(0o755)
        (where / "etc/fstab").write_text("\n".join(fstab) + "\n")
        (where / "etc/default/grub").write_text(DEFAULT_GRUB)
        (where / "etc/initramfs-tools/conf.d/resume").write_text(f"RESUME=UUID={_uuid(swap)}\n")
        wanted = where / "etc/systemd/system/multi-user.target.wants"
        for service in ("systemd-networkd.service", "ssh.service"):
            (wanted / service).unlink(missing_ok=True)
            (wanted / service).symlink_to(f"/usr/lib/systemd/system/{service}")
        set_password(where)
        renew_boot(run, where, BootTarget(firmware, (disk,), devices))
    for one in (disk, *others):
        with one.open("rb") as file:
            os.fsync(file.fileno())


def _mount_line(part: Part) -> str:
    match part.fstype:
        case "vfat":
            options, check = "umask=0077", 1
        case "ext4":
            options, check = "errors=remount-ro", 1
        case "btrfs":
            options, check = f"defaults,subvol={part.subvolume}", 0
        case _:
            options, check = "defaults", 0
    return f"UUID={_uuid(part.device)} {part.where} {part.fstype} {options} 0 {check}"


def _uuid(device: Path) -> str:
    return sh("blkid", "-p", "-o", "value", "-s", "UUID", device).strip()
