"""Real signatures of everything that an old disk may hold, made by the programs that own them.

What no program of the image makes (ZFS, Ceph, VMFS) is written as its documents say.
"""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from agent.units import KiB, MiB
from tests.guest.conftest import sh

KEY = b"a pass phrase"
_QUICK = ("--batch-mode", "--key-file=-", "--pbkdf-force-iterations=1000")


def put(device: Path, offset: int, data: bytes) -> None:
    with device.open("r+b") as file:
        file.seek(offset)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def size_of(device: Path) -> int:
    return int(sh("blockdev", "--getsize64", device))


def _md(metadata: str) -> Callable[[Path], None]:
    def make(device: Path) -> None:
        array = make_array(device, metadata)
        sh("mdadm", "--stop", array)
        sh("udevadm", "settle")

    return make


def make_array(device: Path, metadata: str = "1.2") -> Path:
    """Return a running mirror with one leg."""
    words = ["--create", "/dev/md/old", "--run", "--level=1", "--raid-devices=2", "--bitmap=none"]
    sh("mdadm", *words, f"--metadata={metadata}", device, "missing")
    sh("udevadm", "settle")
    return Path("/dev/md/old")


def _container(metadata: str) -> Callable[[Path], None]:
    def make(device: Path) -> None:
        words = ["mdadm", "--create", "/dev/md/old", "--run", "--force", f"--metadata={metadata}"]
        done = subprocess.run(
            [*words, "--raid-devices=1", str(device)],
            env={**os.environ, "IMSM_NO_PLATFORM": "1", "IMSM_DEVNAME_AS_SERIAL": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        sh("mdadm", "--stop", "/dev/md/old")
        sh("udevadm", "settle")

    return make


def _luks(kind: str) -> Callable[[Path], None]:
    def make(device: Path) -> None:
        pbkdf = () if kind == "luks1" else ("--pbkdf=pbkdf2",)
        words = ["cryptsetup", "luksFormat", f"--type={kind}", *_QUICK, *pbkdf, str(device)]
        done = subprocess.run(words, input=KEY, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        sh("udevadm", "settle")

    return make


def _run(*words: str) -> Callable[[Path], None]:
    def make(device: Path) -> None:
        sh(*words, device)
        sh("udevadm", "settle")

    return make


def make_group(device: Path) -> Path:
    """Return an active logical volume on `device`."""
    sh("vgcreate", "--yes", "old", device)
    sh("lvcreate", "--yes", "--wipesignatures=n", "--extents=50%FREE", "--name=data", "old")
    sh("udevadm", "settle")
    return Path("/dev/old/data")


def _group(device: Path) -> None:
    make_group(device)
    sh("vgchange", "--activate", "n", "old")


def _nvlist(**pairs: int | str) -> bytes:
    """Return name-value pairs as ZFS keeps them: XDR, numbers of 64 bits and strings."""
    data = bytes.fromhex("01010000 00000000 00000001")
    for name, value in pairs.items():
        key = name.encode()
        text = value.encode() if isinstance(value, str) else b""
        kind, size = (9, len(text)) if text else (8, 0)
        body = size.to_bytes(4, "big") + _padded(text) if text else int(value).to_bytes(8, "big")
        body = kind.to_bytes(4, "big") + (1).to_bytes(4, "big") + body
        body = len(key).to_bytes(4, "big") + _padded(key) + body
        data += (len(body) + 8).to_bytes(4, "big") + (40).to_bytes(4, "big") + body
    return data + bytes(8)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _zfs(device: Path) -> None:
    """Four labels of 256 KiB, two at each end: name-value pairs, and a ring of uberblocks.

    libblkid has gone by the pairs since util-linux 2.41, by the ring before.
    """
    pairs = _nvlist(version=5000, name="tank", state=0, txg=7, pool_guid=11, guid=12, ashift=12)
    uberblock = (0x00BAB10C).to_bytes(8, "little") + (5000).to_bytes(8, "little")
    ring = (uberblock + (7).to_bytes(8, "little")).ljust(KiB, b"\0") * 128
    label, size = 256 * KiB, size_of(device) // (256 * KiB) * (256 * KiB)
    for at in (0, label, size - 2 * label, size - label):
        put(device, at + 16 * KiB, pairs)
        put(device, at + 128 * KiB, ring)


def _ceph(device: Path) -> None:
    put(device, 0, b"bluestore block device\n5f1c9a52-0c63-4a0e-9a5a-8f8e21d5a0ff\n")


def _vmfs(device: Path) -> None:
    put(device, MiB, b"\x0d\xd0\x01\xc0" + bytes(252))
    put(device, 2 * MiB, b"\x5e\xf1\xab\x2f" + bytes(252))


VALUABLE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "md-0.90": ("linux_raid_member", _md("0.90")),
    "md-1.0": ("linux_raid_member", _md("1.0")),
    "md-1.1": ("linux_raid_member", _md("1.1")),
    "md-1.2": ("linux_raid_member", _md("1.2")),
    "pv": ("LVM2_member", _run("pvcreate", "--yes")),
    "vg": ("LVM2_member", _group),
    "luks1": ("crypto_LUKS", _luks("luks1")),
    "luks2": ("crypto_LUKS", _luks("luks2")),
    "zfs": ("zfs_member", _zfs),
    "ceph": ("ceph_bluestore", _ceph),
    "vmfs": ("VMFS_volume_member", _vmfs),
}
"""libblkid's name of each, and what makes it on a device."""

FIRMWARE_RAID: dict[str, tuple[str, Callable[[Path], None]]] = {
    "ddf": ("ddf_raid_member", _container("ddf")),
    "imsm": ("isw_raid_member", _container("imsm")),
}
"""Only on whole disks."""

PLAIN: dict[str, tuple[str, Callable[[Path], None]]] = {
    "ext4": ("ext4", _run("mkfs.ext4", "-q", "-F")),
    "xfs": ("xfs", _run("mkfs.xfs", "-q", "-f")),
    "btrfs": ("btrfs", _run("mkfs.btrfs", "--quiet", "--force")),
    "f2fs": ("f2fs", _run("mkfs.f2fs", "-q", "-f")),
    "vfat": ("vfat", _run("mkfs.vfat", "-I")),
    "exfat": ("exfat", _run("mkfs.exfat", "--quiet")),
    "ntfs": ("ntfs", _run("mkfs.ntfs", "--quick", "--force", "--quiet")),
    "swap": ("swap", _run("mkswap", "--force")),
}
