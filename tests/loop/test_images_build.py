"""The built image, looked at file by file: what must be there is, what must not is not."""

import json
import re
import shutil
import struct
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from agent.units import MiB
from images.elf import LIBRARIES, is_elf, library_closure
from images.host import environment
from images.iso import parse_cmdline, write_iso
from images.tree import Tree, read_folder
from tests.harness.cache import cache_dir
from tests.harness.image import boot_image


def words(text: str) -> list[str]:
    return text.split()


DRIVERS = words("""
megaraid_sas mpt3sas aacraid hpsa smartpqi nvme ahci ata_piix sd_mod sr_mod usb_storage uas xhci_pci
ehci_pci uhci_hcd ixgbe i40e ice igb igc e1000 e1000e bnxt_en bnx2x mlx4_en mlx5_core tg3 r8169
virtio_net virtio_blk virtio_scsi vmxnet3 vmw_pvscsi bonding 8021q bridge ext4 xfs btrfs vfat
nls_cp437 nls_ascii nls_utf8 nls_iso8859_1 exfat ntfs3 f2fs isofs raid0 raid1 raid10 raid456 dm_mod
dm_crypt dm_raid dm_thin_pool dm_snapshot dm_mirror efivarfs loop squashfs overlay
usbhid hid_generic
""")

PROGRAMS = words("""
awk bash blkdiscard blkid blockdev btrfs busybox chroot cryptsetup debugfs dmsetup dumpe2fs e2fsck
efibootmgr findmnt ip losetup lsblk lvm mdadm mke2fs mkfs.btrfs mkfs.fat mkfs.vfat mkfs.xfs mkswap
modprobe mount nsenter partclone.btrfs partclone.extfs partclone.fat partclone.xfs prlimit python3
resize2fs setpriv sfdisk sh ssh-keygen swaplabel sync tune2fs udevadm udhcpc umount unshare wipefs
xfs_db xfs_growfs xfs_logprint xfs_repair
""")


@pytest.fixture(scope="module")
def image() -> Path:
    if shutil.which("mksquashfs", path=environment()["PATH"]) is None:
        pytest.skip("mksquashfs is not installed")
    return boot_image()


@pytest.fixture(scope="module")
def root(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's root filesystem, unpacked as whoever runs this."""
    folder = tmp_path_factory.mktemp("root")
    data = (image / "base.img").read_bytes()
    start = data.index(b"hsqs")
    (size,) = struct.unpack_from("<Q", data, start + 40)
    (folder / "squashfs").write_bytes(data[start : start + size])
    argv: list[str | Path] = [
        "unsquashfs",
        "-quiet",
        "-no-progress",
        "-dest",
        folder / "tree",
        folder / "squashfs",
    ]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, env=environment())
    return folder / "tree"


@pytest.fixture(scope="module")
def tree(root: Path) -> Tree:
    return read_folder(root)


def python(root: Path, code: str) -> str:
    """Run `code` by the image's own Python; its loader needs no chroot."""
    argv: list[str | Path] = [
        *(root / LIBRARIES / "ld-linux-x86-64.so.2", "--argv0", "python3"),
        *("--library-path", root / LIBRARIES, root / "usr/bin/python3.13", "-S", "-c", code),
    ]
    extra = {"PYTHONHOME": str(root / "usr"), "PYTHONDONTWRITEBYTECODE": "1"}
    extra["PYTHONPATH"] = str(root / "usr/lib/python3/dist-packages")
    done = subprocess.run(argv, env=environment(extra), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_everything_belongs_to_root_and_nothing_is_set_user_id(root: Path) -> None:
    argv: list[str | Path] = ["unsquashfs", "-lln", root.parent / "squashfs"]
    listing = subprocess.run(argv, check=True, capture_output=True, text=True, env=environment())
    lines = [
        line.split()
        for line in listing.stdout.splitlines()
        if re.match(r"[-dlcbps][rwxst-]{9}", line)
    ]
    assert len(lines) > 2000
    assert {line[1] for line in lines} == {"0/0"}
    assert lines[0][0] == "drwxr-xr-x"
    assert not [line for line in lines if "s" in line[0][1:].lower()]


def test_every_program_finds_its_libraries(tree: Tree) -> None:
    programs = [path for path, entry in tree.items() if entry.is_file and is_elf(entry.body)]
    assert len(programs) > 150
    assert library_closure(tree, programs)[1] == set()


def test_no_link_leads_nowhere(tree: Tree) -> None:
    places = ("proc", "run", "dev", "sys")
    lost = [
        path
        for path, entry in tree.items()
        if entry.is_link
        and tree.resolve(path) is None
        and not entry.body.decode().lstrip("/").startswith(places)
    ]
    assert lost == []


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_image_has(name: str, tree: Tree) -> None:
    assert any(tree.resolve(f"usr/{folder}/{name}") for folder in ("bin", "sbin"))


@pytest.mark.parametrize("name", DRIVERS)
def test_modprobe_can_load(name: str, root: Path, image: Path) -> None:
    release = json.loads((image / "manifest.json").read_text())["kernel"]
    loader: list[str | Path] = [
        *(root / LIBRARIES / "ld-linux-x86-64.so.2", "--argv0", "modprobe"),
        *("--library-path", root / LIBRARIES, root / "usr/bin/kmod"),
    ]
    asked = ["--dirname", root, "--set-version", release, "--show-depends", name]
    done = subprocess.run([*loader, *asked], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        kind, path = line.split()[:2]
        assert kind == "builtin" or Path(path).is_file()


def test_python_has_what_the_agent_imports_and_nothing_that_changes_http(root: Path) -> None:
    wanted = "jinja2 msgspec pyroute2 pyudev requests zstandard unittest sqlite3 ssl lzma ctypes"
    python(root, f"import {', '.join(wanted.split())}")
    for name in ("backports.zstd", "brotli", "brotlicffi", "cffi", "test", "idlelib"):
        code = f"try: import {name}\nexcept ImportError: print('none')"
        assert python(root, code).strip() == "none", name


def test_all_python_is_compiled_and_trusted_as_it_is(tree: Tree) -> None:
    sources = [path for path in tree if path.endswith(".py")]
    assert len(sources) > 500
    for path in sources:
        folder, _, name = path.rpartition("/")
        entry = tree[f"{folder}/__pycache__/{name.removesuffix('.py')}.cpython-313.pyc"]
        assert entry.body[4:8] == b"\1\0\0\0", path  # PEP 552: by hash, not checked


def test_nothing_of_the_build_is_left_in_it(tree: Tree) -> None:
    forbidden = r".*(?:/perl|libicu|gconv|/apt/|dpkg|hwdb|machine-id|\.log$|share/doc|locale/)"
    assert [path for path in tree if re.fullmatch(forbidden, path)] == []
    assert "etc/machine-id" not in tree


def test_nothing_is_assembled_behind_the_agents_back(tree: Tree) -> None:
    rules = [path for path in tree if path.startswith("usr/lib/udev/rules.d/")]
    assert len(rules) > 10
    for path in rules:
        body = tree[path].body
        assert b"mdadm --incremental" not in body.replace(b"-I", b"--incremental"), path
        assert b"pvscan" not in body, path


def test_the_image_is_its_two_layers(image: Path) -> None:
    parts = [(image / name).read_bytes() for name in ("base.img", "agent.img")]
    assert (image / "initrd.img").read_bytes() == b"".join(parts)
    assert len(parts[0]) % 4 == 0


def test_the_manifest_tells_sizes_and_digests(image: Path) -> None:
    files = json.loads((image / "manifest.json").read_text())["files"]
    assert set(files) == {"agent.img", "base.img", "initrd.img", "vmlinuz"}
    for name, facts in files.items():
        data = (image / name).read_bytes()
        assert facts == {"size_bytes": len(data), "sha256": sha256(data).hexdigest()}


def test_the_medium_starts_on_bios_and_uefi(image: Path, tmp_path: Path) -> None:
    if shutil.which("xorriso") is None:
        pytest.skip("xorriso is not installed")
    medium = tmp_path / "metalcast.iso"
    write_iso(image, medium, parse_cmdline("metalcast.server=http://10.0.0.5:8470"))
    again = tmp_path / "again.iso"
    write_iso(image, again, parse_cmdline("metalcast.server=http://10.0.0.5:8470"))
    argv: list[str | Path] = ["xorriso", "-indev", medium, "-report_el_torito", "plain"]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    assert re.search(r"El Torito boot img :\s+1\s+BIOS\s+y", done.stdout)
    assert re.search(r"El Torito boot img :\s+2\s+UEFI\s+y", done.stdout)
    sector = medium.read_bytes()[:512]
    assert sector[510:] == b"\x55\xaa"
    assert sector[446] == 0x80  # a BIOS that wants an active partition finds one
    assert sector[446 + 16 + 4] == 0xEF
    assert medium.read_bytes() == again.read_bytes()


@pytest.mark.full
def test_the_same_input_gives_the_same_bytes_and_they_are_few(tmp_path: Path) -> None:
    argv: list[str | Path] = [
        sys.executable,
        "-m",
        "images",
        "--compression",
        "release",
        "--check-reproducible",
    ]
    argv += ["--cache", str(cache_dir()), "--output", str(tmp_path / "image"), "--json"]
    argv += ["--iso", str(tmp_path / "metalcast.iso")]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = json.loads(done.stdout)["files"]
    assert files["vmlinuz"]["size_bytes"] + files["initrd.img"]["size_bytes"] <= 72 * MiB
