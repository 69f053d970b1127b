"""A tree with one of everything that a copy can lose, and what is compared of two trees."""

import hashlib
import os
import random
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.units import MiB
from tests.guest.conftest import sh

UUID = "ce3cc2af-727f-4b57-b60d-5d98c0dda39f"
MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-U", UUID),
    "xfs": ("mkfs.xfs", "-q", "-m", f"uuid={UUID}"),
    "btrfs": ("mkfs.btrfs", "-q"),
}
TARGET_BYTES = {"ext4": 160 * MiB, "xfs": 320 * MiB, "btrfs": 256 * MiB}
BIG = random.Random(1).randbytes(20 * MiB)
# user::rw-, user:1000:rw-, group::r--, mask::rw-, other::---
ACL = bytes.fromhex(
    "02000000"
    "01000600ffffffff" "02000600e8030000" "04000400ffffffff" "10000600ffffffff" "20000000ffffffff"
)  # fmt: skip
# cap_net_bind_service=ep, revision 2.
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


def make_tree(top: Path) -> None:
    """Fill `top` with one of everything that a copy can lose."""
    draw = random.Random(2)
    for number in range(300):
        folder = top / f"d{number % 17}"
        folder.mkdir(exist_ok=True)
        (folder / f"f{number}").write_bytes(draw.randbytes(draw.randrange(60_000)))
    (top / "big").write_bytes(BIG)
    with (top / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(150 * MiB)
        file.write(b"end")
    (top / "swap").write_bytes(bytes(4 * MiB))
    names = top / "names"
    names.mkdir()
    for name in (b"not-utf8-\xff\xfe", b"new\nline", b"-rf", b" ", b"x" * 255, b"'\"$(id)"):
        (names / os.fsdecode(name)).write_bytes(name)
    os.link(top / "big", names / "big-again")
    os.link(top / "d1" / "f1", top / "d2" / "linked")
    (top / "link").symlink_to("nowhere/at all")
    os.setxattr(top / "link", "security.selinux", b"a:b:c:s1\0", follow_symlinks=False)
    os.setxattr(top / "link", "trusted.note", b"on a link", follow_symlinks=False)
    os.utime(top / "link", ns=(1, 1_234_567_890_123_456_789), follow_symlinks=False)
    os.link(top / "link", names / "link-again", follow_symlinks=False)
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "disk", stat.S_IFBLK | 0o660, os.makedev(8, 1))
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chown(top / "fifo", 33, 44)
    tool = top / "tool"
    tool.write_bytes(b"#!/bin/true\n")
    os.chown(tool, 4_000_000_000, 1000)
    tool.chmod(0o6755)
    os.setxattr(tool, "security.capability", CAPABILITY)
    os.setxattr(tool, "security.selinux", b"system_u:object_r:bin_t:s0\0")
    os.setxattr(tool, "user.comment", bytes(range(256)))
    os.setxattr(tool, "trusted.overlay.opaque", b"y")
    secret = top / "secret"
    secret.mkdir(mode=0o700)
    os.setxattr(secret, "system.posix_acl_access", ACL)
    os.setxattr(secret, "system.posix_acl_default", ACL)
    (secret / "inherits").write_bytes(b"acl of the folder")
    (secret / "none").touch()
    os.removexattr(secret / "none", "system.posix_acl_access")
    (secret / "none").chmod(0o000)
    (top / "empty").mkdir(mode=0o1777)
    sh("chattr", "+i", tool)
    sh("chattr", "+a", top / "swap")
    sh("chattr", "+i", secret)
    for folder in (top / "names", top / "empty", top):
        os.utime(folder, ns=(5, 1_111_111_111_000_000_001))


def tree_of(top: Path) -> dict[str, tuple[object, ...]]:
    """Return every fact of each path below `top`, `lost+found` left out."""
    found: dict[str, tuple[object, ...]] = {}
    first: dict[tuple[int, int], str] = {}
    for path in sorted([top, *top.rglob("*")]):
        if path.name == "lost+found":
            continue
        name = str(path.relative_to(top))
        state = path.lstat()
        kind = stat.S_IFMT(state.st_mode)
        facts: list[object] = [oct(state.st_mode), state.st_uid, state.st_gid, state.st_mtime_ns]
        for xattr in sorted(os.listxattr(path, follow_symlinks=False)):
            if not xattr.startswith("trusted.SGI_ACL_"):  # XFS shows ACLs a second time as these
                facts += [xattr, os.getxattr(path, xattr, follow_symlinks=False)]
        if kind != stat.S_IFDIR:
            same_as = first.setdefault((state.st_dev, state.st_ino), name)
            facts += [state.st_size, state.st_nlink, same_as]
        if kind == stat.S_IFREG:
            facts.append(hashlib.sha256(path.read_bytes()).hexdigest())
        elif kind == stat.S_IFLNK:
            facts.append(str(path.readlink()))
        elif kind in (stat.S_IFBLK, stat.S_IFCHR):
            facts.append(state.st_rdev)
        found[name] = tuple(facts)
    return found


def differences(one: dict[str, tuple[object, ...]], two: dict[str, tuple[object, ...]]) -> str:
    return "\n".join(
        f"{name!r}: {one.get(name)} is not {two.get(name)}"
        for name in sorted(one.keys() | two.keys())
        if one.get(name) != two.get(name)
    )


def flags_of(path: Path) -> set[str]:
    return set(sh("lsattr", "-d", path).split()[0]) & set("iaACdDSsu")


@contextmanager
def loop(folder: Path, name: str, size: int, *make: str) -> Iterator[Path]:
    file = folder / name
    with file.open("wb") as opened:
        opened.truncate(size)
    device = Path(sh("losetup", "--find", "--show", file).strip())
    try:
        if make:
            sh(*make, device)
        yield device
    finally:
        sh("losetup", "--detach", device)
        file.unlink()


def in_use() -> list[str]:
    return [path.parent.name for path in Path("/sys/block").glob("nbd*/pid")]


def is_none_left() -> bool:
    """Return whether all devices are gone, or go within a while: udev may still look at one."""
    deadline = time.monotonic() + 30
    while in_use() and time.monotonic() < deadline:
        time.sleep(0.1)
    return not in_use()
