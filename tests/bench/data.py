"""What is measured with: ext4 images of a real system's files, out of Debian's packages.

Made once and kept in the cache: the big image takes some minutes, and 6 GB of the disk. The
packages are those that the release has on that day: `tests.bench.contents` tells them apart.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.units import GiB, TiB
from tests.bench.contents import files, files_of, keep_digest
from tests.harness.cache import key_of, made_once

SUITE: Final = "trixie"
PACKAGES: Final = (
    *("linux-image-amd64", "systemd", "openssh-server", "postgresql", "nginx", "python3-scipy"),
    *("python3-sympy", "python3-django", "git", "golang-go", "openjdk-21-jdk-headless"),
    *("libreoffice-core", "libreoffice-common", "texlive-latex-extra", "llvm-19-dev", "clang-19"),
    *("rustc", "nodejs", "ghc", "gcc", "g++", "perl", "ruby", "php", "mariadb-server"),
    *("qemu-system-x86", "samba", "ansible", "fonts-noto-cjk", "emacs-nox", "vim-runtime"),
    *("erlang-base", "libboost1.83-dev", "ocaml-nox", "wireshark-common", "libwebkit2gtk-4.1-0"),
)
# The same for everyone, as far as mke2fs allows.
UUID: Final = "7c1d4f0a-5b0e-4c55-9d0f-2f6f1c9be001"
HASH_SEED: Final = "7c1d4f0a-5b0e-4c55-9d0f-2f6f1c9be002"
EPOCH: Final = "1767225600"
MKFS: Final = ("-F", "-q", "-U", UUID, "-E", f"hash_seed={HASH_SEED},lazy_itable_init=1", "-m", "0")
SUBSET_BYTES: Final = 1 * GiB
WIDE_BYTES: Final = 16 * TiB - 1 * GiB
"""Just below what a file on ext4 can have."""
WIDE_MKFS: Final = (*MKFS, "-J", "size=64")
"""The journal that the small disk has by default."""
XFS_MKFS: Final = ("-q", "-f", "-m", f"uuid={UUID}", "-l", "size=64m")
"""A log of the same size for any disk: beside it, what XFS keeps of a disk hardly grows with it."""


@dataclass(frozen=True, slots=True)
class Images:
    """Two disks, one file each, both sparse."""

    system: Path
    """12 GiB, of which a real system takes 5.9."""
    small: Path
    """4 GiB, of which a part of that system takes one."""


@dataclass(frozen=True, slots=True)
class XfsImages:
    """The files of `Images.small` on XFS, on two sparse disks."""

    small: Path
    """4 GiB."""
    wide: Path
    """Just below 16 TiB."""


def images() -> Images:
    """Return the images, made on the first call."""
    key = key_of(SUITE, PACKAGES, MKFS, SUBSET_BYTES)
    folder = made_once("bench-images", key, make_images)
    return Images(folder / "system.img", folder / "small.img")


def xfs_images() -> XfsImages:
    """Return the images, made on the first call."""
    small = images().small
    key = key_of(str(small), WIDE_BYTES, XFS_MKFS)
    folder = made_once("bench-xfs", key, lambda at: make_xfs_images(at, small))
    return XfsImages(folder / "small.img", folder / "wide.img")


def wide_ext4() -> Path:
    """Return an ext4 of WIDE_BYTES with the files of `Images.small`, made on the first call."""
    small = images().small
    key = key_of(str(small), WIDE_BYTES, WIDE_MKFS)
    return made_once("bench-wide", key, lambda at: make_wide_ext4(at, small)) / "wide.img"


def make_images(folder: Path) -> None:
    tree, part = folder / "tree", folder / "part"
    bootstrap(tree)
    make_part(tree, part, SUBSET_BYTES)
    for name, size_bytes, source in (("system", 12 * GiB, tree), ("small", 4 * GiB, part)):
        make_ext4(folder / f"{name}.img", size_bytes, source)
        keep_digest(folder / f"{name}.img", source / "usr")
    shutil.rmtree(part)
    shutil.rmtree(tree)


def bootstrap(tree: Path) -> None:
    """Unpack PACKAGES and what they need; nothing of them is run. As root or in a namespace."""
    if tree.exists():
        return
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    words = [
        "mmdebstrap",
        "--mode=" + ("root" if os.geteuid() == 0 else "unshare"),
        "--variant=extract",
        '--aptopt=Acquire::Languages "none"',
        '--aptopt=APT::Install-Recommends "false"',
        "--include=" + ",".join(PACKAGES),
        *([f"--keyring={keyring}"] if keyring.exists() else []),
        "--format=directory",
        SUITE,
        str(tree),
    ]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"mmdebstrap ended with {done.returncode}:\n{done.stderr[-3000:]}")


def make_part(tree: Path, part: Path, limit_bytes: int) -> None:
    """Link files of `tree` into `part`, in the order of their names below /usr, up to a size."""
    left = limit_bytes
    for file in files(tree / "usr"):
        size = file.stat().st_size
        if size > left:
            return
        left -= size
        place = part / file.relative_to(tree)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, place)


def make_xfs_images(folder: Path, small: Path) -> None:
    tree = folder / "tree"
    files_of(small, tree)
    listed = folder / "files"
    listed.write_text("".join(f"{line}\n" for line in _prototype(tree)))
    for name, size_bytes in (("small.img", 4 * GiB), ("wide.img", WIDE_BYTES)):
        with (folder / name).open("wb") as file:
            file.truncate(size_bytes)
        words = ["mkfs.xfs", *XFS_MKFS, "-p", str(listed), str(folder / name)]
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
    shutil.rmtree(tree)


def make_wide_ext4(folder: Path, small: Path) -> None:
    tree = folder / "tree"
    files_of(small, tree)
    make_ext4(folder / "wide.img", WIDE_BYTES, tree, WIDE_MKFS)
    shutil.rmtree(tree)


def _prototype(tree: Path) -> Iterator[str]:
    """Yield what mkfs.xfs reads with -p, for the files below `tree` whose names it can read."""

    def inside(place: Path) -> Iterator[str]:
        for found in sorted(place.iterdir()):
            if found.is_symlink() or " " in found.name:
                continue
            if found.is_dir():
                yield f"{found.name} d--755 0 0"
                yield from inside(found)
            elif found.is_file():
                yield f"{found.name} ---644 0 0 {found}"
        yield "$"

    yield from ("nothing", "0 0", "d--755 0 0", *inside(tree))


def make_ext4(image: Path, size_bytes: int, tree: Path, options: tuple[str, ...] = MKFS) -> None:
    """Make a clean ext4 in a sparse file that holds `tree`."""
    with image.open("wb") as file:
        file.truncate(size_bytes)
    env = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "E2FSPROGS_FAKE_TIME": EPOCH}
    words = ["mke2fs", "-t", "ext4", *options, "-d", str(tree), str(image)]
    subprocess.run(words, check=True, env=env, stdin=subprocess.DEVNULL)
