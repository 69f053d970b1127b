"""A whole deployment in miniature on files: real sfdisk, mkfs, mount; only the stream is a fake.

Partitions get their device nodes from losetup, so the kernel need not read partition tables.
"""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from agent.apply import Host
from agent.errors import DiskError
from agent.model.inventory import Drive
from agent.model.job import Identity, Verify
from agent.model.layout import Ext, Layout
from agent.model.plan import Plan
from agent.model.table import PlannedTable
from agent.model.template import TemplateConfig
from agent.planning.deploy import plan_deploy
from agent.probe.contents import probe_contents
from agent.report import Report
from agent.system.command import Run
from agent.units import Extent, MiB
from tests.unit.make_plan import (
    JOB,
    make_drive,
    make_inventory,
    make_layout,
    make_os,
    make_spec,
    make_template,
)

SOURCE_BYTES = 128 * MiB
TARGET_BYTES = 192 * MiB
BLOCK = 4096
BOOT_CODE = bytes(range(1, 221)) * 2


def sh(*words: str | Path, stdin: str | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in words], check=True, capture_output=True, text=True, input=stdin
    )
    return done.stdout


@dataclass
class FakeSource:
    """The template's volumes as bytes. `broken` names one whose data cannot be fetched."""

    volumes: Mapping[str, bytes]
    broken: str | None = None
    skipped: dict[str, tuple[Extent, ...]] = field(default_factory=dict)

    def restore(
        self,
        volume: str,
        device: Path,
        offset_bytes: int,
        withhold: Sequence[Extent],
        report: Report,
    ) -> Mapping[Extent, bytes]:
        if volume == self.broken:
            raise DiskError(f"cannot fetch {volume}")
        data = self.volumes[volume]
        hidden = max((run.end for run in withhold), default=0)
        with device.open("r+b") as file:
            for at in range(hidden, len(data), BLOCK):
                piece = data[at : at + BLOCK]
                if any(piece):
                    file.seek(offset_bytes + at)
                    file.write(piece)
        return {run: data[run.offset : run.end] for run in withhold}

    def verify(
        self,
        volume: str,
        device: Path,
        offset_bytes: int,
        mode: Verify,
        skip: Sequence[Extent],
        report: Report,
    ) -> None:
        self.skipped[volume] = tuple(skip)
        hidden = max((run.end for run in skip), default=0)
        data = self.volumes[volume]
        with device.open("rb") as file:
            file.seek(offset_bytes)
            found = file.read(len(data))
        for at in range(hidden, len(data), BLOCK):
            piece = data[at : at + BLOCK]
            if any(piece) and found[at : at + BLOCK] != piece:
                raise DiskError(f"{volume} differs at {at}")

    def small(self, volume: str, max_bytes: int) -> bytes:
        return self.volumes[volume]

    def view(self, volume: str) -> AbstractContextManager[Path]:
        raise NotImplementedError(f"nobody copies {volume} here")


@dataclass(frozen=True)
class Small:
    """A template, where it goes, and the host that takes it there."""

    template: TemplateConfig
    source: FakeSource
    disk: Path
    drive: Drive
    host: Host
    loops: "Loops"

    @property
    def plan(self) -> Plan:
        spec = make_spec(
            identity=Identity(hostname="web1.example", authorized_keys=(KEY,)),
            consent=tuple({found.what for found in self.drive.contents}),
        )
        inventory = self.host.inventory
        return plan_deploy(inventory, self.template, spec, {"disk0": self.drive}, JOB)


KEY = "ssh-ed25519 " + "A" * 68 + " ada@example"


@dataclass
class Loops:
    """Loop devices of partitions, by sfdisk's word on where they are."""

    sector_bytes: int = 512
    made: list[str] = field(default_factory=list)

    def node(self, disk: Path, number: int) -> Path:
        self.close()  # the kernel keeps no stale bytes of an earlier one
        return self.another(disk, number)

    def another(self, disk: Path, number: int) -> Path:
        """Return a device of a partition beside those that are there already."""
        table = msgspec.json.decode(sh("sfdisk", "--json", disk))["partitiontable"]
        unit = table.get("sectorsize", 512)
        part = next(
            p for p in table["partitions"] if p["node"] == f"{disk}{separator(disk)}{number}"
        )
        loop = sh(
            "losetup", "--find", "--show", "--offset", str(part["start"] * unit),
            "--sizelimit", str(part["size"] * unit), disk,
        ).strip()  # fmt: skip
        self.made.append(loop)
        return Path(loop)

    def close(self) -> None:
        while self.made:
            sh("losetup", "--detach", self.made.pop())


def separator(disk: Path) -> str:
    return "p" if disk.name[-1].isdigit() else ""


def make_tree(top: Path, fstab: str = "") -> Path:
    """Make the root of a system that could be Debian 13 with ifupdown."""
    files = {
        "etc/os-release": 'ID=debian\nVERSION_ID="13"\nPRETTY_NAME="Debian GNU/Linux 13"\n',
        "etc/fstab": fstab,
        "etc/hostname": "golden\n",
        "etc/hosts": "127.0.0.1\tlocalhost\n127.0.1.1\tgolden\n",
        "etc/machine-id": "0" * 31 + "1\n",
        "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n",
        "etc/ssh/sshd_config": "",
        "etc/ssh/ssh_host_ed25519_key": "OLD PRIVATE KEY\n",
        "etc/ssh/ssh_host_ed25519_key.pub": "old\n",
        "etc/network/interfaces": "auto lo\niface lo inet loopback\niface eth0 inet dhcp\n",
        "sbin/ifup": "#!/bin/sh\n",
        "root/.ssh/authorized_keys": "ssh-rsa old\n",
        "var/lib/systemd/random-seed": "seed",
        "var/lib/dhcp/dhclient.eth0.leases": "lease {}\n",
    }
    for name, text in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return top


def make_volumes(place: Path, layout: Layout, fstab: str = "") -> dict[str, bytes]:
    """Make the data of each volume of `layout` that has any, with the real programs."""
    volumes = {"boot-code": BOOT_CODE, "bios-boot": b"\xeb\x63core.img" * 3000}
    esp, root = place / "esp.img", place / "root.img"
    with esp.open("wb") as file:
        file.truncate(layout.volume("esp").size_bytes)
    sh("mkfs.vfat", "-n", "EFI", esp)
    loader = place / "loader.efi"
    loader.write_bytes(b"MZ" + bytes(range(256)) * 1000)
    sh("mmd", "-i", esp, "::/EFI", "::/EFI/BOOT", "::/EFI/debian")
    sh("mcopy", "-i", esp, loader, "::/EFI/BOOT/BOOTX64.EFI")
    sh("mcopy", "-i", esp, loader, "::/EFI/debian/shimx64.efi")
    tree = make_tree(place / "tree", fstab)
    with root.open("wb") as file:
        file.truncate(layout.volume("root").size_bytes)
    content = layout.volume("root").content
    assert isinstance(content, Ext)
    sh("mkfs.ext4", "-q", "-b", "4096", "-U", content.uuid, "-d", tree, root)
    volumes["esp"], volumes["root"] = esp.read_bytes(), root.read_bytes()
    size = layout.volume("bios-boot").size_bytes
    volumes["bios-boot"] = volumes["bios-boot"].ljust(size, b"\0")[:size]
    return volumes


def make_small_layout(sector_bytes: int = 512) -> Layout:
    return make_layout(
        size_bytes=SOURCE_BYTES,
        sector_bytes=sector_bytes,
        esp_bytes=16 * MiB,
        root_bytes=64 * MiB,
        swap_bytes=8 * MiB,
    )


def planned_table(layout: Layout) -> PlannedTable:
    """Return the table of the disk that `layout` was captured from."""
    template = make_template(layout)
    drive = make_drive(
        size_bytes=layout.disks[0].size_bytes, sector_bytes=layout.disks[0].sector_bytes
    )
    return plan_deploy(
        make_inventory(drive), template, make_spec(grow=None), {"disk0": drive}, JOB
    ).table


@contextmanager
def small(
    place: Path, disk: Path, sector_bytes: int = 512, firmware: str = "bios"
) -> Iterator[Small]:
    """Yield a deployment that is ready to go to `disk`, a file or loop device of TARGET_BYTES."""
    layout = make_small_layout(sector_bytes)
    template = make_template(layout, os=make_os())
    source = FakeSource(make_volumes(place, layout))
    loops = Loops(sector_bytes)
    run = Run()

    def look(path: str) -> Drive:
        return make_drive(
            path=path,
            size_bytes=TARGET_BYTES,
            sector_bytes=sector_bytes,
            physical_sector_bytes=sector_bytes,
            contents=probe_contents(run, [path]),
        )

    drive = look(str(disk))
    host = Host(
        run=run,
        source=source,
        look=look,
        inventory=make_inventory(drive, firmware=firmware),
        mount_dir=place / "mnt",
        efivars=place / "no-efivars",
        partition=loops.node,
    )
    try:
        yield Small(template, source, disk, drive, host, loops)
    finally:
        loops.close()


needs_root = pytest.mark.root
