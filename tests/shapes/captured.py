"""The captured system: one disk with ext4, as its files tell."""

from pathlib import Path

from agent.model.layout import Layout
from agent.model.nodes import BIOS_BOOT_TYPE, Partition
from tests.guest.conftest import sh
from tests.harness.source import PASSWORD_HASH
from tests.shapes import ROOT_TAR

BY_ID = Path("/dev/disk/by-id")
_FSTAB = """\
# <file system> <mount point> <type> <options> <dump> <pass>
UUID=5f1c9a52-0c63-4a0e-9a5a-8f8e21d5a001 / ext4 errors=remount-ro 0 1
UUID=4D43-0001 /boot/efi vfat umask=0077 0 1
UUID=5f1c9a52-0c63-4a0e-9a5a-8f8e21d5a002 none swap sw 0 0
"""
DEFAULT_GRUB = """\
GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX="console=ttyS0,115200 quiet"
GRUB_TERMINAL=serial
"""


def unpack(root: Path) -> None:
    """Put the captured tree at `root`; what is mounted below gets its part."""
    sh("tar", "x", "--numeric-owner", "-f", BY_ID / f"virtio-{ROOT_TAR}", "-C", root)


def make_table(layout: Layout, name: str, disk: Path) -> None:
    """Write the partitions that `layout` has on its disk `name`."""
    lines = ["label: gpt"]
    parts = [one for one in layout.nodes if isinstance(one, Partition) and one.on == name]
    for part in parts:
        start, size = part.offset_bytes // 512, part.size_bytes // 512
        lines.append(f"{part.number}: start={start}, size={size}, type={part.type}")
    assert parts[0].type == BIOS_BOOT_TYPE
    sh("sfdisk", "--quiet", disk, stdin="\n".join(lines) + "\n")
    sh("udevadm", "settle")


def leave_as_captured(root: Path) -> None:
    """Give the tree the files that the source server had."""
    (root / "etc/fstab").write_text(_FSTAB)
    (root / "etc/default/grub").write_text(DEFAULT_GRUB)
    (root / "etc/hostname").write_text("mirrored\n")
    set_password(root)


def set_password(root: Path) -> None:
    """Let root log in on the console with the password of the harness."""
    shadow = root / "etc/shadow"
    lines = shadow.read_text().splitlines()
    shadow.write_text(
        "\n".join(
            f"root:{PASSWORD_HASH}:" + line.split(":", 2)[2] if line.startswith("root:") else line
            for line in lines
        )
        + "\n"
    )
