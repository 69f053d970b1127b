"""Reads an ext4 filesystem inside a disk file: no mount, no root, and no code of Metalcast's.

It is the judge of whether a deployed tree is the captured one, so it refuses what it does not know
rather than guess. The layout is that of the kernel's documentation (filesystems/ext4).
"""

import hashlib
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_MAGIC = 0xEF53
_NEEDS_RECOVERY = 0x4
# filetype, extents, 64bit, flex_bg, csum_seed, largedir
_KNOWN_INCOMPAT = 0x2 | 0x40 | 0x80 | 0x200 | 0x2000 | 0x4000
_64BIT = 0x80
_EXTENTS_FLAG = 0x80000
# What lsattr shows and a copy must keep: sync, immutable, append, nodump, noatime, dirsync.
_LASTING_FLAGS = 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x10000
_ROOT_INODE = 2
_PREFIXES = {
    1: "user.",
    2: "system.posix_acl_access",
    3: "system.posix_acl_default",
    4: "trusted.",
    6: "security.",
    7: "system.",
}
_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFSOCK: "socket",
}


class NotReadable(Exception):
    """This is no ext4 that we know how to read, or it was not unmounted cleanly."""


@dataclass(frozen=True, slots=True)
class Inode:
    number: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    links: int
    flags: int
    block: bytes
    xattrs: dict[str, bytes]

    @property
    def type(self) -> str:
        return _TYPES[stat.S_IFMT(self.mode)]

    @property
    def lasting_flags(self) -> int:
        return self.flags & _LASTING_FLAGS

    @property
    def device(self) -> tuple[int, int]:
        """Major and minor number of a device node."""
        old, new = struct.unpack_from("<2I", self.block)
        if old:
            return old >> 8 & 0xFF, old & 0xFF
        return new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00


class Ext4:
    """The filesystem that begins at `offset` of `disk`."""

    def __init__(self, disk: Path, offset: int) -> None:
        self._file: BinaryIO = disk.open("rb")
        self._offset = offset
        head = self._bytes(1024, 1024)
        self.clean = False
        if struct.unpack_from("<H", head, 0x38)[0] != _MAGIC:
            raise NotReadable(f"{disk} at {offset}: no ext4")
        incompat, self._inode_size = (
            struct.unpack_from("<I", head, 0x60)[0],
            struct.unpack_from("<H", head, 0x58)[0],
        )
        if incompat & _NEEDS_RECOVERY:
            raise NotReadable(f"{disk} at {offset}: the journal has not been replayed")
        if unknown := incompat & ~_KNOWN_INCOMPAT:
            raise NotReadable(f"{disk} at {offset}: unknown features {unknown:#x}")
        self.block_bytes = 1024 << struct.unpack_from("<I", head, 0x18)[0]
        blocks = struct.unpack_from("<I", head, 4)[0]
        if incompat & _64BIT:
            blocks |= struct.unpack_from("<I", head, 0x150)[0] << 32
        self.size_bytes = blocks * self.block_bytes
        self.uuid = head[0x68:0x78].hex()
        self._inodes_per_group = struct.unpack_from("<I", head, 0x28)[0]
        self._descriptor = struct.unpack_from("<H", head, 0xFE)[0] if incompat & _64BIT else 32
        self._groups_at = (struct.unpack_from("<I", head, 0x14)[0] + 1) * self.block_bytes

    def close(self) -> None:
        self._file.close()

    def walk(self) -> Iterator[tuple[bytes, Inode]]:
        """Yield every path below the root, and the root as b"/"; names as they are on disk."""
        waiting = [(b"/", self.inode(_ROOT_INODE))]
        while waiting:
            path, inode = waiting.pop()
            yield path, inode
            if inode.type == "folder":
                base = path.rstrip(b"/")
                for name, number in self._entries(inode):
                    if name not in (b".", b".."):
                        waiting.append((base + b"/" + name, self.inode(number)))

    def inode(self, number: int) -> Inode:
        group, index = divmod(number - 1, self._inodes_per_group)
        descriptor = self._bytes(self._groups_at + group * self._descriptor, self._descriptor)
        table = struct.unpack_from("<I", descriptor, 8)[0]
        if self._descriptor >= 64:
            table |= struct.unpack_from("<I", descriptor, 0x28)[0] << 32
        raw = self._bytes(table * self.block_bytes + index * self._inode_size, self._inode_size)
        mode, uid, size, mtime = struct.unpack_from("<HHI8xI", raw)
        gid, links = struct.unpack_from("<HH", raw, 0x18)
        acl_high, uid_high, gid_high = struct.unpack_from("<3H", raw, 0x76)
        extra = struct.unpack_from("<H", raw, 0x80)[0] if self._inode_size > 128 else 0
        more = struct.unpack_from("<I", raw, 0x88)[0] if extra >= 12 else 0
        seconds = (mtime - (mtime >> 31 << 32)) + ((more & 3) << 32)
        xattrs: dict[str, bytes] = {}
        start = 128 + extra
        if extra and raw[start : start + 4] == b"\x00\x00\x02\xea":
            xattrs |= _xattrs(raw[start + 4 :], 0)
        if acl := struct.unpack_from("<I", raw, 0x68)[0] | acl_high << 32:
            xattrs |= _xattrs(self._bytes(acl * self.block_bytes, self.block_bytes), 32)
        return Inode(
            number=number,
            mode=mode,
            uid=uid | uid_high << 16,
            gid=gid | gid_high << 16,
            size=size | struct.unpack_from("<I", raw, 0x6C)[0] << 32,
            mtime_ns=seconds * 10**9 + (more >> 2),
            links=links,
            flags=struct.unpack_from("<I", raw, 0x20)[0],
            block=raw[0x28:0x64],
            xattrs=xattrs,
        )

    def read(self, inode: Inode) -> Iterator[bytes]:
        """Yield the content of a file, a folder or a symlink, holes as zeros."""
        if inode.type == "symlink" and not inode.flags & _EXTENTS_FLAG:
            yield inode.block[: inode.size]
            return
        done = 0
        for logical, physical, count in self._extents(inode):
            at = logical * self.block_bytes
            yield from _zeros(min(at, inode.size) - done)
            done = min(max(at, done), inode.size)
            left = min(count * self.block_bytes, inode.size - done)
            place = physical * self.block_bytes
            while left > 0:
                data = self._bytes(place, min(left, 1 << 20))
                yield data
                place, left, done = place + len(data), left - len(data), done + len(data)
        yield from _zeros(inode.size - done)

    def digest(self, inode: Inode) -> str:
        """Return the SHA-256 of the content, the one that `sha256sum` gives."""
        digest = hashlib.sha256()
        for data in self.read(inode):
            digest.update(data)
        return digest.hexdigest()

    def find(self, path: str) -> Inode | None:
        """Return the inode at an absolute path; symbolic links are not followed."""
        inode = self.inode(_ROOT_INODE)
        for name in path.encode().strip(b"/").split(b"/"):
            number = dict(self._entries(inode)).get(name) if inode.type == "folder" else None
            if number is None:
                return None
            inode = self.inode(number)
        return inode

    def _entries(self, inode: Inode) -> Iterator[tuple[bytes, int]]:
        data = b"".join(self.read(inode))
        at = 0
        while at < len(data):
            number, length, name_length = struct.unpack_from("<IHB", data, at)
            if length < 8:
                raise NotReadable(f"inode {inode.number}: a folder entry of {length} bytes")
            if number:  # an index block of a large folder looks like one empty entry
                yield data[at + 8 : at + 8 + name_length], number
            at += length

    def _extents(self, inode: Inode) -> Iterator[tuple[int, int, int]]:
        if not inode.flags & _EXTENTS_FLAG:
            if inode.size:
                raise NotReadable(f"inode {inode.number}: not mapped by extents")
            return
        yield from self._extent_node(inode.block)

    def _extent_node(self, node: bytes) -> Iterator[tuple[int, int, int]]:
        magic, count, _, depth = struct.unpack_from("<4H", node)
        if magic != 0xF30A:
            raise NotReadable("an extent node without its magic")
        for at in range(12, 12 + 12 * count, 12):
            if depth:
                low, high = struct.unpack_from("<4xIH", node, at)
                below = (low | high << 32) * self.block_bytes
                yield from self._extent_node(self._bytes(below, self.block_bytes))
                continue
            logical, length, high, low = struct.unpack_from("<IHHI", node, at)
            if length <= 32768:  # a longer one is promised space: it reads as zeros
                yield logical, low | high << 32, length

    def _bytes(self, at: int, size: int) -> bytes:
        self._file.seek(self._offset + at)
        data = self._file.read(size)
        if len(data) != size:
            raise NotReadable(f"the disk ends before {at + size} of its filesystem")
        return data


def _zeros(count: int) -> Iterator[bytes]:
    piece = bytes(1 << 20)
    while count > 0:
        yield piece[:count]
        count -= len(piece)


def _xattrs(area: bytes, entries_at: int) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    at = entries_at
    while at + 4 <= len(area) and area[at : at + 4] != bytes(4):
        length, prefix, offset, inode, size = struct.unpack_from("<BBHII", area, at)
        if inode:
            raise NotReadable("an extended attribute in an inode of its own")
        name = area[at + 16 : at + 16 + length].decode("utf-8", "surrogateescape")
        found[_PREFIXES.get(prefix, f"{prefix}.") + name] = area[offset : offset + size]
        at += (16 + length + 3) & ~3
    return found
