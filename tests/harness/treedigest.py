"""A tree as text, a line for each path: what two servers must share when one came of the other."""

import fnmatch
import hashlib
import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.harness.ext4 import Ext4, Inode

# What makes a server itself. Nothing else may differ before the copy's first boot.
PERSONAL = (
    "/etc/hostname",
    "/etc/hosts",
    "/etc/machine-id",
    "/var/lib/dbus/machine-id",
    "/etc/ssh/ssh_host_*",
    "/root/.ssh",
    "/root/.ssh/authorized_keys",
    "/etc/systemd/network/*",
    "/etc/resolv.conf",
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/credential.secret",
)
_ROOT_TYPE = bytes.fromhex("af3dc60f838472478e793d69d8477de4")


@dataclass(frozen=True, slots=True)
class Partition:
    number: int
    type: bytes
    offset: int
    size_bytes: int
    name: str


def partitions(disk: Path, sector_bytes: int = 512) -> tuple[Partition, ...]:
    """Return the used entries of the primary GPT, in the order of their numbers."""
    with disk.open("rb") as file:
        file.seek(sector_bytes)
        header = file.read(92)
        if header[:8] != b"EFI PART":
            raise ValueError(f"{disk}: no GPT")
        at, count, size = struct.unpack_from("<QII", header, 72)
        file.seek(at * sector_bytes)
        entries = file.read(count * size)
    found = []
    for number in range(count):
        entry = entries[number * size : (number + 1) * size]
        if entry[:16] != bytes(16):
            first, last = struct.unpack_from("<QQ", entry, 32)
            name = entry[56:128].decode("utf-16-le").rstrip("\0")
            extent = first * sector_bytes, (last - first + 1) * sector_bytes
            found.append(Partition(number + 1, entry[:16], *extent, name))
    return tuple(found)


def root_partition(disk: Path) -> Partition:
    """Return the last partition that holds a Linux filesystem."""
    return [part for part in partitions(disk) if part.type == _ROOT_TYPE][-1]


def tree_of(disk: Path) -> dict[str, str]:
    """Return a line of JSON for each path of the root filesystem on `disk`."""
    filesystem = Ext4(disk, root_partition(disk).offset)
    try:
        return _lines(filesystem)
    finally:
        filesystem.close()


def _lines(filesystem: Ext4) -> dict[str, str]:
    entries = [(printable(path), inode) for path, inode in filesystem.walk()]
    first_name: dict[int, str] = {}
    for path, inode in sorted(entries, key=lambda entry: entry[0]):
        first_name.setdefault(inode.number, path)
    digests: dict[int, str] = {}
    lines = {}
    for path, inode in entries:
        if inode.type in ("file", "symlink") and inode.number not in digests:
            digests[inode.number] = filesystem.digest(inode)
        lines[path] = _line(inode, digests.get(inode.number), first_name[inode.number])
    return lines


def _line(inode: Inode, digest: str | None, first_name: str) -> str:
    facts: dict[str, object] = {
        "type": inode.type,
        "mode": f"{inode.mode & 0o7777:04o}",
        "owner": f"{inode.uid}:{inode.gid}",
    }
    if inode.type != "folder":  # a folder's size and time follow what was put into it
        facts |= {"size": inode.size, "mtime_ns": inode.mtime_ns}
    if digest:
        facts["sha256"] = digest
    if inode.type in ("char", "block"):
        facts["device"] = "{}:{}".format(*inode.device)
    if inode.xattrs:
        facts["xattrs"] = {name: inode.xattrs[name].hex() for name in sorted(inode.xattrs)}
    if inode.type != "folder" and inode.links > 1:
        facts |= {"links": inode.links, "same_as": first_name}
    if inode.lasting_flags:
        facts["flags"] = f"{inode.lasting_flags:#x}"
    return json.dumps(facts, sort_keys=True)


def printable(path: bytes) -> str:
    """Return a path on one line: what is no printable UTF-8 is written as `\\xNN`."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_personal(path: str, personal: Iterable[str] = PERSONAL) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in personal)


def shared_digest(tree: dict[str, str], personal: Sequence[str] = PERSONAL) -> str:
    """Return one digest over all lines but those of personal paths."""
    digest = hashlib.sha256()
    for path in sorted(tree):
        if not is_personal(path, personal):
            digest.update(f"{path} {tree[path]}\n".encode())
    return digest.hexdigest()


def differences(
    source: dict[str, str], target: dict[str, str], personal: Sequence[str] = PERSONAL
) -> list[str]:
    """Return a line for each path that is not the same on both sides and not personal."""
    found = []
    for path in sorted(source.keys() | target.keys()):
        if is_personal(path, personal) or source.get(path) == target.get(path):
            continue
        found.append(f"{path}: {source.get(path, 'absent')} became {target.get(path, 'absent')}")
    return found
