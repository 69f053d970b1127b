"""The system of every source server: its tree, and what makes it one of the harness."""

from pathlib import Path

from tests.guest.conftest import sh
from tests.harness.source import PASSWORD_HASH
from tests.shapes import ROOT_TAR

BY_ID = Path("/dev/disk/by-id")
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
