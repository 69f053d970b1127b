"""Loop disks to build a server on, and what is done with them: mounted, filled, taken away."""

import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.model.inventory import Drive
from agent.probe.contents import probe_contents
from agent.system import block
from agent.system.command import Output, Run, Runner, Word
from agent.units import MiB
from tests.guest.conftest import sh
from tests.unit.make_plan import make_drive

KEY = "correct horse battery staple"

BOOT_CODE = bytes(range(1, 221)) * 2

ROOT, DATA = "/", "/srv"


def on_loops(words: Sequence[Word], **named: Any) -> Output:
    """Run a program as the agent does; loop devices have no serial, which Intel's RAID goes by."""
    env = {"IMSM_DEVNAME_AS_SERIAL": "1", **(named.pop("env", None) or {})}
    return Run()(words, env=env, **named)


RUN: Runner = on_loops


@dataclass
class Bench:
    """Loop devices with partitions, in memory, and all that was stacked on them."""

    folder: Path
    made: list[Path] = field(default_factory=list)

    def disk(self, size_mib: int = 320, sector_bytes: int = 512) -> Path:
        file = self.folder / f"disk{len(list(self.folder.iterdir()))}.img"
        with file.open("wb") as opened:
            opened.truncate(size_mib * MiB)
        words = ["losetup", "--find", "--show", "--partscan", f"--sector-size={sector_bytes}"]
        device = Path(sh(*words, file).strip())
        sh("blockdev", "--setrw", device)  # the kernel remembers what an earlier disk was
        self.made.append(device)
        return device

    def stop(self) -> None:
        """Stop arrays, groups and mappings, so that only the disks are left."""
        for words in (
            ["vgchange", "--activate", "n"],
            ["dmsetup", "remove_all"],
            ["mdadm", "--stop", "--scan"],
        ):
            subprocess.run(words, check=False, capture_output=True)
        sh("udevadm", "settle")

    def close(self) -> None:
        self.stop()
        for device in self.made:
            subprocess.run(["losetup", "--detach", device], check=False)
        for file in self.folder.glob("disk*.img"):
            with suppress(OSError):
                file.unlink()


@dataclass(frozen=True)
class Mount:
    device: str
    where: str
    fstype: str
    options: str = ""


@dataclass(frozen=True)
class Source:
    disks: tuple[Path, ...]
    mounts: tuple[Mount, ...]
    """`/` first."""
    fstab: tuple[str, ...] = ()


def table(disk: Path, text: str) -> None:
    sh("sfdisk", "--quiet", disk, stdin=text)
    sh("partx", "--update", disk)  # udev may have kept the kernel from reading the table
    sh("udevadm", "settle")


def with_boot_code(*disks: Path) -> None:
    """What a BIOS jumps to, though nothing here does: a template must boot."""
    for disk in disks:
        sector = block.sector_bytes(disk)
        with disk.open("r+b") as file:
            head = bytearray(file.read(sector))
            head[: len(BOOT_CODE)] = BOOT_CODE
            file.seek(0)
            file.write(head)


def make(kind: str, device: str | Path, *more: str) -> None:
    words = {
        "ext4": ["mkfs.ext4", "-q", "-F"],
        "xfs": ["mkfs.xfs", "-q", "-f"],
        "btrfs": ["mkfs.btrfs", "-q", "-f"],
        "vfat": ["mkfs.vfat"],
        "f2fs": ["mkfs.f2fs", "-q", "-f"],
    }[kind]
    sh(*words, *more, device)


def uuid_of(device: str) -> str:
    return sh("blkid", "--probe", "--output=value", "--match-tag=UUID", device).strip()


@contextmanager
def mounted_btrfs(devices: Sequence[Path], where: Path, options: str = "rw") -> Iterator[Path]:
    """Mount a btrfs on several devices."""
    where.mkdir(exist_ok=True)
    named = ",".join([options, *(f"device={one}" for one in devices)])
    sh("mount", "-t", "btrfs", "-o", named, devices[0], where)
    try:
        yield where
    finally:
        sh("umount", where)


def forget_btrfs(*devices: Path) -> None:
    """Take a btrfs away: two devices of one UUID and number are one for it."""
    for device in devices:
        sh("wipefs", "--all", "--quiet", device)
    sh("btrfs", "device", "scan", "--forget")


def scrub(where: Path) -> None:
    """Let btrfs read every copy and all parity at `where`, and demand that nothing is wrong."""
    sh("btrfs", "scrub", "start", "-B", "-r", where)
    errors = sh("btrfs", "device", "stats", "--check", where)
    assert all(line.split()[-1] == "0" for line in errors.splitlines())


_HOOKS = "usr/share/initramfs-tools/hooks"

_PROGRAMS = ("mdadm", "lvm", "cryptsetup", "xfs_repair", "btrfs")

_UPDATE_INITRAMFS = """#!/bin/sh
echo "made of $(cat /etc/fstab)" >/boot/initrd.img
"""

_GRUB_INSTALL = """#!/bin/sh
for disk; do :; done
case $disk in /dev/*) echo boots | dd of=$disk bs=440 count=1 conv=notrunc ;; esac
mkdir -p /boot/grub
"""


def _system(where: Path) -> None:
    """What another layout needs of a system: programs that leave a mark of what they were told."""
    busybox = Path(shutil.which("busybox") or "/usr/bin/busybox")
    (where / "bin").mkdir(exist_ok=True)
    shutil.copy(busybox.resolve(), where / "bin/busybox")
    for name in ("sh", "cat", "dd", "mkdir", "echo"):
        (where / "bin" / name).symlink_to("busybox")
    scripts = {
        "update-initramfs": _UPDATE_INITRAMFS,
        "grub-install": _GRUB_INSTALL,
        "grub-mkconfig": '#!/bin/sh\necho "$(cat /etc/fstab)" >/boot/grub/grub.cfg\n',
    }
    files = {f"usr/sbin/{name}": text for name, text in scripts.items()}
    files |= {f"usr/sbin/{name}": "" for name in _PROGRAMS}
    files |= {f"{_HOOKS}/{name}": "" for name in ("mdadm", "lvm2", "cryptroot")}
    files |= {f"usr/lib/grub/{name}/moddep.lst": "" for name in ("i386-pc", "x86_64-efi")}
    files |= {"etc/initramfs-tools/initramfs.conf": "", "boot/grub/grub.cfg": ""}
    for name, text in files.items():
        path = where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)


def fill(source: Source, where: Path, seed: int = 1) -> None:
    """Put a small system on the source, with files of which each byte is known."""
    with mounted_all(source.mounts, where):
        lines = [
            f"UUID={uuid_of(mount.device)} {mount.where} {mount.fstype} "
            f"{mount.options or 'defaults'} 0 1"
            for mount in source.mounts
        ]
        files = {
            "etc/os-release": 'ID=debian\nVERSION_ID="13"\nPRETTY_NAME="Debian 13"\n',
            "etc/fstab": "\n".join((*lines, *source.fstab)) + "\n",
            "etc/hostname": "golden\n",
            "etc/network/interfaces": "auto lo\niface lo inet loopback\n",
            "sbin/ifup": "#!/bin/sh\n",
            "root/.profile": "",
        }
        for name, text in files.items():
            path = where / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        _system(where)
        draw = random.Random(seed)
        for mount in source.mounts:
            top = where / mount.where.lstrip("/") / "known"
            top.mkdir(exist_ok=True)
            for number in range(40):
                (top / f"f{number}").write_bytes(draw.randbytes(draw.randrange(120_000)))
            with (top / "sparse").open("wb") as file:
                file.seek(9 * MiB)
                file.write(b"end")
            for number in range(0, 40, 3):  # what was deleted must not come along
                (top / f"f{number}").unlink()


@contextmanager
def mounted_all(mounts: tuple[Mount, ...], where: Path, words: str = "") -> Iterator[Path]:
    done: list[Path] = []
    where.mkdir(parents=True, exist_ok=True)
    try:
        for mount in mounts:
            place = where / mount.where.lstrip("/")
            place.mkdir(parents=True, exist_ok=True)
            options = ",".join(word for word in (mount.options, words) if word)
            sh(
                "mount",
                "-t",
                mount.fstype,
                *(["-o", options] if options else []),
                mount.device,
                place,
            )
            done.append(place)
        yield where
    finally:
        for place in reversed(done):
            sh("umount", place)


def drive_of(path: Path) -> Drive:
    """Return a loop device as the agent sees a disk."""
    run = Run()
    nodes = [str(path), *(str(node) for node in block.partition_nodes(path))]
    sector = block.sector_bytes(path)
    return make_drive(
        path=str(path),
        serial=path.name,
        size_bytes=block.size_bytes(path),
        sector_bytes=sector,
        physical_sector_bytes=sector,
        contents=probe_contents(run, nodes),
    )
