"""Source disks of every layout, made by the tools that made those of real servers."""

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

from agent.model.nodes import Array, MdLevel, MdMetadata
from agent.tools import arrays, boot_sector
from agent.tools.sfdisk import read_table
from tests.guest.conftest import sh
from tests.guest.workbench import (
    DATA,
    KEY,
    RUN,
    Bench,
    Mount,
    Source,
    make,
    mounted_btrfs,
    table,
    with_boot_code,
)


def gpt(root: str = "ext4", sector_bytes: int = 512) -> Callable[[Bench], Source]:
    def build(bench: Bench) -> Source:
        disk = bench.disk(448 if root == "xfs" else 320, sector_bytes)
        table(
            disk,
            "label: gpt\nsize=1MiB, type=21686148-6449-6E6F-744E-656564454649\n"
            "size=40MiB, type=U\nsize=16MiB, type=S\nsize=+\n",
        )
        with_boot_code(disk)
        make("vfat", f"{disk}p2")
        sh("mkswap", "-q", f"{disk}p3")
        make(root, f"{disk}p4")
        return Source((disk,), (Mount(f"{disk}p4", "/", root),))

    return build


def hybrid(bench: Bench) -> Source:
    """A GPT whose MBR names two of its partitions too, as for a BIOS that wants one active."""
    source = gpt()(bench)
    (disk,) = source.disks
    found = read_table(RUN, disk)
    assert found is not None
    places = {
        part.number: (part.offset_bytes // 512, part.size_bytes // 512) for part in found.partitions
    }
    entries = [
        (0x00, 0xEE, 1, places[1][0] - 1),
        (0x80, 0x83, *places[4]),
        (0x00, 0x0C, *places[2]),
    ]
    data = b"".join(
        struct.pack("<B3sB3sII", boot, b"\xff\xff\xff", kind, b"\xff\xff\xff", at, size)
        for boot, kind, at, size in entries
    )
    boot_sector.write_hybrid_entries(disk, data.ljust(64, b"\0").hex())
    return source


def mbr_logical(bench: Bench) -> Source:
    disk = bench.disk()
    table(
        disk,
        "label: dos\n1: start=2048, size=64MiB, type=83, bootable\n2: size=250MiB, type=5\n"
        "5: size=32MiB, type=82\n6: size=200MiB, type=83\n",
    )
    with_boot_code(disk)
    with disk.open("r+b") as file:
        file.seek(512)
        file.write(b"core image" * 3000)
    make("ext4", f"{disk}p1")
    sh("mkswap", "-q", f"{disk}p5")
    make("ext4", f"{disk}p6")
    return Source((disk,), (Mount(f"{disk}p6", "/", "ext4"), Mount(f"{disk}p1", "/boot", "ext4")))


def two_disks(bench: Bench) -> Source:
    """The second one without a table, its filesystem on the bare disk."""
    first = gpt()(bench)
    data = bench.disk(400)
    make("xfs", data)
    return Source((*first.disks, data), (*first.mounts, Mount(str(data), DATA, "xfs")))


def _legs(bench: Bench, count: int, size_mib: int = 224) -> tuple[Path, ...]:
    disks = tuple(bench.disk(size_mib) for _ in range(count))
    for disk in disks:
        table(
            disk,
            "label: gpt\nsize=1MiB, type=21686148-6449-6E6F-744E-656564454649\n"
            "size=34MiB, type=R\nsize=+, type=R\n",
        )
    with_boot_code(*disks)
    return disks


def _md(name: str, level: str, members: list[str], *more: str) -> str:
    device = f"/dev/md/{name}"
    sh(
        *("mdadm", "--create", device, f"--level={level}", f"--raid-devices={len(members)}"),
        *("--run", "--homehost=any", *more, *members),
    )
    sh("udevadm", "settle")
    subprocess.run(["mdadm", "--wait", device], check=False, capture_output=True)
    return str(Path(device).resolve())


def md(level: str, count: int, *more: str) -> Callable[[Bench], Source]:
    def build(bench: Bench) -> Source:
        disks = _legs(bench, count)
        esp = _md("esp", "1", [f"{disk}p2" for disk in disks], "--metadata=1.0")
        make("vfat", esp)
        root = _md("root", level, [f"{disk}p3" for disk in disks], *more)
        make("ext4", root)
        return Source(disks, (Mount(root, "/", "ext4"),))

    return build


def md_whole_disks(bench: Bench) -> Source:
    """The system on one disk, a RAID 1 of two bare disks for its data."""
    first = gpt()(bench)
    disks = tuple(bench.disk(128) for _ in range(2))
    data = _md("data", "1", [str(disk) for disk in disks], "--metadata=1.2")
    make("ext4", data)
    return Source((*first.disks, *disks), (*first.mounts, Mount(data, DATA, "ext4")))


_SYSTEM_TABLE = (
    "label: gpt\nsize=1MiB, type=21686148-6449-6E6F-744E-656564454649\n"
    "size=34MiB, type=U\nsize=+, type=L\n"
)


def _system_in(array: str, *disks: Path) -> Source:
    """Use an array as if it were a disk: table, boot code, ESP, root."""
    table(Path(array), _SYSTEM_TABLE)
    with_boot_code(Path(array))
    make("vfat", f"{array}p2")
    make("ext4", f"{array}p3")
    return Source(disks, (Mount(f"{array}p3", "/", "ext4"),))


def table_in_md(level: str, count: int, *more: str) -> Callable[[Bench], Source]:
    def build(bench: Bench) -> Source:
        disks = tuple(bench.disk(128) for _ in range(count))
        return _system_in(_md("whole", level, [str(disk) for disk in disks], *more), *disks)

    return build


def imsm(level: str, count: int, *more: str) -> Callable[[Bench], Source]:
    """A volume of Intel's RAID, with a table in it."""

    def build(bench: Bench) -> Source:
        disks = tuple(bench.disk(128) for _ in range(count))
        words: list[str | Path] = ["mdadm", "--create", "--run", f"--raid-devices={count}"]
        for these in (
            [*words, "/dev/md/imsm", "--metadata=imsm", *disks],
            [*words, "/dev/md/Volume0", f"--level={level}", *more, "/dev/md/imsm"],
        ):
            RUN(these, env={"IMSM_NO_PLATFORM": "1"})
        sh("udevadm", "settle")
        array = str(Path("/dev/md/Volume0").resolve())
        subprocess.run(["mdadm", "--wait", array], check=False, capture_output=True)
        return _system_in(array, *disks)

    return build


def linear(bench: Bench) -> Source:
    """The system on one disk, its data on a linear array of two others, of unequal size."""
    first = gpt()(bench)
    disks = (bench.disk(64), bench.disk(96))
    array = Array(
        id="md0",
        members=("disk1", "disk2"),
        level=MdLevel.LINEAR,
        metadata=MdMetadata.V1_2,
        uuid="0a0b0c0d:11121314:21222324:31323334",
        name="any:data",
        size_bytes=0,
    )
    data = str(arrays.make(RUN, array, disks))
    make("ext4", data)
    return Source((*first.disks, *disks), (*first.mounts, Mount(data, DATA, "ext4")))


def lvm(root: str = "ext4") -> Callable[[Bench], Source]:
    def build(bench: Bench) -> Source:
        disks = (bench.disk(448), bench.disk(448))
        for disk in disks:
            table(disk, "label: gpt\nsize=40MiB, type=L\nsize=+, type=V\n")
        with_boot_code(disks[0])
        sh("pvcreate", "--yes", *(f"{disk}p2" for disk in disks))
        sh("vgcreate", "--yes", "vg-sys", *(f"{disk}p2" for disk in disks))
        create = ("lvcreate", "--yes", "--wipesignatures", "n", "--name")
        sh(*create, "root", "--size", "320m", "vg-sys")
        sh(*create, "data", "--size", "128m", "--stripes", "2", "vg-sys")
        make(root, "/dev/vg-sys/root")
        make("ext4", "/dev/vg-sys/data")
        make("ext4", f"{disks[0]}p1")
        return Source(
            disks,
            (
                Mount("/dev/vg-sys/root", "/", root),
                Mount(f"{disks[0]}p1", "/boot", "ext4"),
                Mount("/dev/vg-sys/data", DATA, "ext4"),
            ),
        )

    return build


def thin(bench: Bench) -> Source:
    disk = bench.disk(448)
    table(disk, "label: gpt\nsize=+, type=V\n")
    with_boot_code(disk)
    sh("pvcreate", "--yes", f"{disk}p1")
    sh("vgcreate", "--yes", "vgt", f"{disk}p1")
    sh("lvcreate", "--yes", "--type", "thin-pool", "--name", "pool", "--size", "360m", "vgt")
    for name, size in (("root", "256m"), ("data", "512m")):
        sh("lvcreate", "--yes", "--name", name, "--virtualsize", size, "--thinpool", "pool", "vgt")
        make("ext4", f"/dev/vgt/{name}")
    return Source(
        (disk,), (Mount("/dev/vgt/root", "/", "ext4"), Mount("/dev/vgt/data", DATA, "ext4"))
    )


def luks(version: str = "2") -> Callable[[Bench], Source]:
    def build(bench: Bench) -> Source:
        disk = bench.disk()
        table(disk, "label: gpt\nsize=40MiB, type=L\nsize=+, type=L\n")
        with_boot_code(disk)
        make("ext4", f"{disk}p1")
        device = _crypt(f"{disk}p2", version)
        make("ext4", device)
        return Source((disk,), (Mount(device, "/", "ext4"), Mount(f"{disk}p1", "/boot", "ext4")))

    return build


def _crypt(device: str, version: str) -> str:
    cheap = ["--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"]
    sh(
        *("cryptsetup", "luksFormat", "--batch-mode", f"--type=luks{version}", *cheap),
        *("--key-file=-", device),
        stdin=KEY,
    )
    sh("cryptsetup", "open", "--key-file=-", device, "rootcrypt", stdin=KEY)
    return "/dev/mapper/rootcrypt"


def lvm_on_luks_on_md(bench: Bench) -> Source:
    disks = _legs(bench, 2, 320)
    boot = _md("boot", "1", [f"{disk}p2" for disk in disks])
    make("ext4", boot)
    below = _md("crypt", "1", [f"{disk}p3" for disk in disks])
    device = _crypt(below, "2")
    sh("pvcreate", "--yes", device)
    sh("vgcreate", "--yes", "deep", device)
    sh("lvcreate", "--yes", "--name", "root", "--extents", "100%FREE", "deep")
    make("ext4", "/dev/deep/root")
    return Source(disks, (Mount("/dev/deep/root", "/", "ext4"), Mount(boot, "/boot", "ext4")))


def btrfs_subvolumes(bench: Bench) -> Source:
    return _on_btrfs(bench, bench.disk(400))


def btrfs_of_two(bench: Bench) -> Source:
    """Root on a mirror of btrfs, a partition of each disk."""
    return _on_btrfs(bench, bench.disk(400), bench.disk(400), "--data=raid1", "--metadata=raid1")


def _on_btrfs(bench: Bench, *words: Path | str) -> Source:
    disks = tuple(word for word in words if isinstance(word, Path))
    head = "label: gpt\nsize=1MiB, type=21686148-6449-6E6F-744E-656564454649\n"
    for disk in disks:
        table(disk, f"{head}size=+, type=L\n")
    with_boot_code(*disks)
    first, *further = [Path(f"{disk}p2") for disk in disks]
    make("btrfs", first, *(word for word in words if isinstance(word, str)), *map(str, further))
    with mounted_btrfs([first, *further], bench.folder / "top") as top:
        for name in ("@rootfs", "@srv"):
            sh("btrfs", "subvolume", "create", top / name)
    (bench.folder / "top").rmdir()
    devices = "".join(f",device={device}" for device in further)
    return Source(
        disks,
        (
            Mount(str(first), "/", "btrfs", f"subvol=@rootfs{devices}"),
            Mount(str(first), DATA, "btrfs", f"subvol=@srv,compress=zstd{devices}"),
        ),
    )
