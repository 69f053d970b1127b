"""The disk of the source server: GPT, BIOS and UEFI boot code, swap, an ext4 root that can grow.

Made without root, loop device or mount: each filesystem is made as a file and laid into the disk.
"""

import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

from agent.units import GiB, MiB
from tests.harness.cache import key_of, made_once
from tests.harness.disks import data_runs, make_disk
from tests.harness.rootfs import ROOT_UUID, source_root, storage_root

SIZE_BYTES = 2 * GiB
SERIAL = "SOURCE-0001"
HOSTNAME = "source-server"
PASSWORD = "metalcast"  # of root, on the serial console of a machine that nobody else can reach
PASSWORD_HASH = (
    "$6$metalcast$."
    "CR62lEEREAwbkcoJ3AzJIYdbFwRwjh9A4b35INgEs9oIFTDZnOlYaXaL.FWZF9u359KWM/Kl4mp7r4B7gSAA1"
)
_FILES = Path(__file__).parent / "source-files"
_SECTOR = 512
_BIOS_AT, _ESP_AT, _SWAP_AT, _ROOT_AT = MiB, 2 * MiB, 66 * MiB, 194 * MiB
_ROOT_END = SIZE_BYTES - MiB
_TABLE = f"""label: gpt
label-id: 5F1C9A52-0C63-4A0E-9A5A-8F8E21D5A000
1: start={_BIOS_AT // _SECTOR}, size={MiB // _SECTOR}, type=21686148-6449-6E6F-744E-656564454649
2: start={_ESP_AT // _SECTOR}, size={64 * MiB // _SECTOR}, type=U, name="EFI"
3: start={_SWAP_AT // _SECTOR}, size={128 * MiB // _SECTOR}, type=S, name="swap"
4: start={_ROOT_AT // _SECTOR}, size={(_ROOT_END - _ROOT_AT) // _SECTOR}, type=L, name="root"
"""
_SWAP_UUID = "5f1c9a52-0c63-4a0e-9a5a-8f8e21d5a002"
_ESP_SERIAL = "4D430001"
_KERNEL_ARGUMENTS = f"root=UUID={ROOT_UUID} ro console=ttyS0,115200 quiet"
# $1: root.tar, $2: our files, $3: where to make the tree, $4: the filesystem's file.
# Under fakeroot an ordinary user's tree has the owners that the tar names.
_MAKE_ROOT = f"""set -e
mkdir "$3" && cd "$3"
tar --extract --file "$1" --numeric-owner --preserve-permissions --exclude './dev/*'
cp -R --no-preserve=ownership "$2/." .
sed -i 's|^root:[^:]*:|root:{PASSWORD_HASH}:|' etc/shadow
for service in systemd-networkd ssh; do
    ln -sf /usr/lib/systemd/system/$service.service etc/systemd/system/multi-user.target.wants/
done
version=$(basename boot/vmlinuz-* | cut -d- -f2-)
cat > boot/grub/grub.cfg <<END
serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
set timeout=0
menuentry 'Debian GNU/Linux' {{
    insmod gzio
    search --no-floppy --fs-uuid --set=root {ROOT_UUID}
    linux /boot/vmlinuz-$version {_KERNEL_ARGUMENTS}
    initrd /boot/initrd.img-$version
}}
END
cat > etc/default/grub <<END
GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX="console=ttyS0,115200 quiet"
GRUB_TERMINAL=serial
END
mke2fs -q -t ext4 -U {ROOT_UUID} -L root -d . "$4"
"""


def source_disk() -> Path:
    """Return the folder with `disk.raw`, never booted, and `vmlinuz`. Copy the disk before use."""
    return _made("source", source_root())


def storage_disk() -> Path:
    """Return the same of a server that has the tools of every layout and filesystem."""
    return _made("source-storage", storage_root())


def _made(kind: str, root: Path) -> Path:
    files = sorted(p for p in _FILES.rglob("*") if p.is_file())
    ours = [(str(p.relative_to(_FILES)), p.read_bytes(), os.access(p, os.X_OK)) for p in files]
    key = key_of(root.parent.name, ours, _MAKE_ROOT, _TABLE, SIZE_BYTES)
    return made_once(kind, key, lambda folder: _build(root, folder))


def _build(root_tar: Path, folder: Path) -> None:
    tree, disk = folder / "tree", make_disk(folder / "disk.raw", SIZE_BYTES)
    root, swap, esp = folder / "root.ext4", folder / "swap", folder / "esp.vfat"
    _run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", disk], stdin=_TABLE)

    make_disk(root, _ROOT_END - _ROOT_AT)
    door = [] if os.geteuid() == 0 else ["fakeroot"]
    _run([*door, "sh", "-c", _MAKE_ROOT, "sh", root_tar, _FILES, tree, root])
    _lay(root, disk, _ROOT_AT)

    make_disk(swap, 128 * MiB)
    _run(["mkswap", "--quiet", "--uuid", _SWAP_UUID, swap])
    _lay(swap, disk, _SWAP_AT)

    make_disk(esp, 64 * MiB)
    _run(["mkfs.vfat", "-F", "32", "-s", "1", "-n", "ESP", "-i", _ESP_SERIAL, esp])
    _run(["mmd", "-i", esp, "::/EFI", "::/EFI/BOOT", "::/EFI/debian"])
    efi_code = tree / "usr/share/source-server/grubx64.efi"
    for name in ("::/EFI/BOOT/BOOTX64.EFI", "::/EFI/debian/grubx64.efi"):
        _run(["mcopy", "-i", esp, efi_code, name])
    _lay(esp, disk, _ESP_AT)

    grub = tree / "boot/grub/i386-pc"
    _write_boot_code(disk, (grub / "boot.img").read_bytes(), (grub / "core.img").read_bytes())
    shutil.copyfile(next((tree / "boot").glob("vmlinuz-*")), folder / "vmlinuz")
    for made in (root, swap, esp):
        made.unlink()
    shutil.rmtree(tree)


def _write_boot_code(disk: Path, boot: bytes, core: bytes) -> None:
    """Write GRUB's first and second stage, each told where the next one lies.

    The first stage reads one sector at 0x5c; that sector ends in the place of the rest. The bytes
    0x66-0x67 are a jump that trusts the BIOS's drive number; a hard disk wants it away.
    """
    first = bytearray(boot[:440])
    struct.pack_into("<Q", first, 0x5C, _BIOS_AT // _SECTOR)
    first[0x66:0x68] = b"\x90\x90"
    second = bytearray(core)
    struct.pack_into("<Q", second, _SECTOR - 12, _BIOS_AT // _SECTOR + 1)
    if len(second) > MiB:
        raise ValueError(f"core.img of {len(second)} bytes does not fit into its partition")
    with disk.open("r+b") as file:
        file.write(first)
        file.seek(_BIOS_AT)
        file.write(second)


def _lay(part: Path, disk: Path, at: int) -> None:
    with part.open("rb") as reader, disk.open("r+b") as writer:
        for start, end in data_runs(part):
            reader.seek(start)
            writer.seek(at + start)
            while start < end:
                data = reader.read(min(4 * MiB, end - start))
                writer.write(data)
                start += len(data)


def _run(words: Sequence[str | Path], stdin: str | None = None) -> None:
    environment = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
    done = subprocess.run(words, input=stdin, text=True, capture_output=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
