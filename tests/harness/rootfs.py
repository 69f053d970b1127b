"""The root tree of the source server: a small Debian 13 with its own kernel, GRUB and sshd."""

import os
import subprocess
from pathlib import Path

from tests.harness.cache import key_of, made_once

SUITE = "trixie"
ROOT_UUID = "5f1c9a52-0c63-4a0e-9a5a-8f8e21d5a001"
PACKAGES = (
    *("acl", "attr", "ca-certificates", "dbus", "dosfstools", "e2fsprogs", "fdisk"),
    *("grub-efi-amd64-bin", "grub-pc-bin", "grub2-common", "initramfs-tools", "iproute2", "kmod"),
    *("libcap2-bin", "linux-image-cloud-amd64", "openssh-server", "systemd", "systemd-sysv"),
    *("udev", "zstd"),
)
# What a server can do without, to keep the disk and every flow over it small.
LEFT_OUT = (
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
)
# GRUB's own tools in the tree make its boot code, so that code and modules are of one version.
# Where the code finds its modules and grub.cfg: the filesystem's UUID, on any disk.
BOOT_CODE = f"""set -e
mkdir -p "$1/boot/grub" "$1/boot/efi" "$1/usr/share/source-server"
cat > "$1/tmp/early.cfg" <<'END'
search.fs_uuid {ROOT_UUID} root
set prefix=($root)/boot/grub
END
for format in i386-pc x86_64-efi; do
    mkdir -p "$1/boot/grub/$format"
    cp "$1/usr/lib/grub/$format"/*.mod "$1/usr/lib/grub/$format"/*.lst "$1/boot/grub/$format/"
done
cp "$1/usr/lib/grub/i386-pc/boot.img" "$1/boot/grub/i386-pc/boot.img"
chroot "$1" grub-mkimage --format=i386-pc --config=/tmp/early.cfg --prefix=/boot/grub \\
    --output=/boot/grub/i386-pc/core.img biosdisk part_gpt ext2 search_fs_uuid
chroot "$1" grub-mkimage --format=x86_64-efi --config=/tmp/early.cfg --prefix=/boot/grub \\
    --output=/usr/share/source-server/grubx64.efi part_gpt ext2 fat search_fs_uuid normal linux \\
    boot configfile all_video serial terminal echo
rm "$1/tmp/early.cfg" "$1/etc/ssh/"ssh_host_*
rm -rf "$1/var/cache/apt/"* "$1/var/lib/apt/lists/"*
: > "$1/etc/machine-id"
"""
# A system that can be put on any layout: what each kind of carrier and filesystem needs.
STORAGE_PACKAGES = (
    *PACKAGES,
    *("btrfs-progs", "cryptsetup", "cryptsetup-initramfs", "lvm2", "mdadm", "xfsprogs"),
)


def source_root() -> Path:
    """Return `root.tar`, the tree of the source server as Debian's packages leave it."""
    key = key_of(SUITE, PACKAGES, LEFT_OUT, BOOT_CODE)
    made = made_once("rootfs", key, lambda folder: _bootstrap(folder, PACKAGES, BOOT_CODE))
    return made / "root.tar"


def storage_root() -> Path:
    """Return `root.tar`, the same with the tools of every layout and filesystem."""
    key = key_of(SUITE, STORAGE_PACKAGES, LEFT_OUT, BOOT_CODE)
    made = made_once(
        "rootfs-storage", key, lambda folder: _bootstrap(folder, STORAGE_PACKAGES, BOOT_CODE)
    )
    return made / "root.tar"


def _bootstrap(folder: Path, packages: tuple[str, ...], script: str) -> None:
    hook = folder / "boot-code"
    hook.write_text("#!/bin/sh\n" + script)
    hook.chmod(0o755)
    folder.chmod(0o755)  # the bootstrap may run under another user id
    words = [
        "mmdebstrap",
        "--mode=" + ("root" if os.geteuid() == 0 else "unshare"),
        "--variant=minbase",
        "--include=" + ",".join(packages),
        '--aptopt=Acquire::Languages "none"',
        "--customize-hook=" + str(hook),
        *(f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT),
        "--format=tar",
        SUITE,
        "-",
    ]
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    words[-1:-1] = [f"--keyring={keyring}"] if keyring.exists() else []
    log = folder / "bootstrap.log"
    with (folder / "root.tar").open("wb") as tar, log.open("wb") as errors:
        done = subprocess.run(words, stdout=tar, stderr=errors, stdin=subprocess.DEVNULL)
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise RuntimeError(f"mmdebstrap ended with {done.returncode}:\n{tail}")
