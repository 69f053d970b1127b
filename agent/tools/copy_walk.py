"""All that is on one filesystem below a folder, hard links once: what a copy takes along."""

import os
import stat
from collections.abc import Iterator

from agent.errors import DiskError
from agent.tools.copy_flags import shown


def walk(top: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield (path from `top` on, its lstat) of each file and folder below `top`, not itself.

    Other filesystems are left out. Raises DiskError with the path of what cannot be read.
    """
    device = _stat(top).st_dev
    linked: set[int] = set()
    folders = [b""]
    while folders:
        folder = folders.pop()
        for name in _names(below(top, folder)):
            path = below(folder, name)
            found = _stat(below(top, path))
            if found.st_dev != device or found.st_ino in linked:
                continue
            if stat.S_ISDIR(found.st_mode):
                folders.append(path)
            elif found.st_nlink > 1:
                linked.add(found.st_ino)
            yield path, found


def below(folder: bytes, path: bytes) -> bytes:
    return folder + b"/" + path if folder and path else folder or path


def _names(folder: bytes) -> list[bytes]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except OSError as error:
        raise DiskError(f"could not list {shown(folder)}: {error.strerror}") from error


def _stat(path: bytes) -> os.stat_result:
    try:
        return os.lstat(path)
    except OSError as error:
        raise DiskError(f"could not look at {shown(path)}: {error.strerror}") from error
