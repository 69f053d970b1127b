"""A file tree as a value: what is in the image, by path, all owned by root.

Holding it in memory means that owners and modes are right without being root, and that nothing of
the building machine (times, order, umask) can leak in.
"""

import posixpath
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

_PERMISSIONS = 0o1777
"""Modes that are kept. Set-user-id has no meaning where everyone is root."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, folder, symbolic link (`body` is its target) or device node."""

    mode: int
    body: bytes = b""
    device: tuple[int, int] = (0, 0)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode)


def make_file(body: bytes, mode: int = 0o644) -> Entry:
    return Entry(stat.S_IFREG | mode, body)


def make_link(target: str) -> Entry:
    return Entry(stat.S_IFLNK | 0o777, target.encode())


def make_folder(mode: int = 0o755) -> Entry:
    return Entry(stat.S_IFDIR | mode)


def make_character_device(major: int, minor: int, mode: int) -> Entry:
    return Entry(stat.S_IFCHR | mode, device=(major, minor))


class Tree(dict[str, Entry]):
    """Entries by path without a leading slash. `add` makes the folders above."""

    def add(self, path: str, entry: Entry) -> None:
        above = posixpath.dirname(path)
        while above and above not in self:
            self[above] = make_folder()
            above = posixpath.dirname(above)
        self[path] = entry

    def resolve(self, path: str) -> str | None:
        """Return where `path` leads through symbolic links, or None if nowhere in this tree."""
        for _ in range(32):
            parts = path.split("/")
            for count in range(1, len(parts) + 1):
                entry = self.get("/".join(parts[:count]))
                if entry is not None and entry.is_link:
                    above = "/" + "/".join(parts[: count - 1])
                    target = posixpath.join(above, entry.body.decode(), *parts[count:])
                    path = posixpath.normpath(target).lstrip("/")
                    break
            else:
                return path if path in self else None
        return None


def read_folder(folder: Path) -> Tree:
    """Return what is in `folder`, owned by root and writable by nobody else."""
    tree = Tree()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        info = path.lstat()
        if stat.S_ISLNK(info.st_mode):
            tree.add(name, make_link(str(path.readlink())))
        elif stat.S_ISDIR(info.st_mode):
            tree.add(name, make_folder())
        elif stat.S_ISREG(info.st_mode):
            # A clone may have been made under any umask: only "may be run" counts.
            mode = 0o755 if info.st_mode & stat.S_IXUSR else 0o644
            tree.add(name, make_file(path.read_bytes(), mode))
        else:
            raise ValueError(f"{path} is neither a file, a folder nor a link")
    return tree


def read_tar(stream: IO[bytes]) -> Iterator[tuple[str, Entry]]:
    """Yield the files, folders and links of a tar archive, hard links as copies of their file."""
    bodies: dict[str, Entry] = {}
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            name = posixpath.normpath(member.name).lstrip("/")
            if name == ".":
                continue
            mode = member.mode & _PERMISSIONS
            if member.isdir():
                yield name, make_folder(mode)
            elif member.issym():
                yield name, make_link(member.linkname)
            elif member.isreg():
                source = archive.extractfile(member)
                entry = make_file(source.read() if source else b"", mode)
                bodies[name] = entry
                yield name, entry
            elif member.islnk():
                yield name, bodies[posixpath.normpath(member.linkname)]


def write_tar(out: IO[bytes], tree: Tree, epoch: int) -> None:
    """Write `tree` to `out` as a tar archive, sorted, all owned by root, at one time."""
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.GNU_FORMAT) as archive:
        for name in sorted(tree):
            entry = tree[name]
            member = tarfile.TarInfo(name)
            member.mode = stat.S_IMODE(entry.mode)
            member.mtime = epoch
            if entry.is_file:
                member.size = len(entry.body)
                archive.addfile(member, BytesIO(entry.body))
                continue
            if entry.is_link:
                member.type, member.linkname = tarfile.SYMTYPE, entry.body.decode()
            elif stat.S_ISDIR(entry.mode):
                member.type = tarfile.DIRTYPE
            else:
                member.type = tarfile.CHRTYPE
                member.devmajor, member.devminor = entry.device
            archive.addfile(member)


def unpack(tree: Tree, folder: Path) -> None:
    """Write the files, folders and links of `tree` below `folder`, as whoever runs this."""
    for name in sorted(tree):
        entry, path = tree[name], folder / name
        if entry.is_link:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(entry.body.decode())
        elif entry.is_file:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(entry.body)
            path.chmod(stat.S_IMODE(entry.mode) | stat.S_IRUSR | stat.S_IWUSR)
        elif stat.S_ISDIR(entry.mode):
            path.mkdir(parents=True, exist_ok=True)
