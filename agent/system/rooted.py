"""The files of a mounted system, with no way out of it.

Every path is opened by openat2(2) with RESOLVE_IN_ROOT: an absolute link, `..`, a magic link
resolve inside the root, as they would for the system itself. What a template holds can never
lead a write to the agent's own files or to another disk.
"""

import ctypes
import errno
import fnmatch
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Final, Self

from agent.errors import AgentError
from agent.system.inode_flags import letters, unlocked

_SYS_OPENAT2: Final = 437
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_IN_ROOT: Final = 0x10
_SELINUX: Final = "security.selinux"
_MAX_READ_BYTES: Final = 4 * 1024 * 1024
_AGAIN_TRIES: Final = 32


class RootedError(AgentError):
    """A file of the target system could not be read or written."""


def _openat2(directory: int, path: str, flags: int, mode: int = 0) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    for _ in range(_AGAIN_TRIES):
        ctypes.set_errno(0)
        fd = libc.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(directory),
            ctypes.c_char_p(os.fsencode(path)),
            ctypes.c_char_p(how),
            ctypes.c_size_t(len(how)),
        )
        if fd >= 0:
            return int(fd)
        number = ctypes.get_errno()
        if number != errno.EAGAIN:  # "a rename was going on somewhere": try again
            break
    raise OSError(number, os.strerror(number), path)


@dataclass(slots=True)
class RootedTree:
    """A directory that is somebody's `/`. Paths are as that system writes them: `/etc/hostname`.

    Closed by `with`. Reads and writes are for regular files only; a link at the end of a path is
    followed inside the root when read, and replaced when written. What +i or +a (chattr) keeps
    from being changed is changed all the same, and has the flag again afterwards.
    """

    path: Path
    lifted: dict[str, str] = field(default_factory=dict)
    """Where that was so: the path, with its flags as `+i`."""
    _root: int = -1

    def __enter__(self) -> Self:
        self._root = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._root)
        self._root = -1

    # looking

    def kind(self, path: str) -> str | None:
        """Return `file`, `directory`, `link` or `other` for what lies there, None for nothing."""
        try:
            with self._parent(path) as (parent, name):
                mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        except (RootedError, OSError):
            return None
        if stat.S_ISREG(mode):
            return "file"
        if stat.S_ISDIR(mode):
            return "directory"
        return "link" if stat.S_ISLNK(mode) else "other"

    def exists(self, path: str) -> bool:
        """Return whether `path`, links followed inside the root, is anything at all."""
        try:
            os.close(_openat2(self._root, path, os.O_PATH))
        except OSError:
            return False
        return True

    def is_directory(self, path: str) -> bool:
        """Return whether `path`, links followed inside the root, is a directory."""
        try:
            os.close(_openat2(self._root, path, os.O_PATH | os.O_DIRECTORY))
        except OSError:
            return False
        return True

    def read(self, path: str) -> bytes | None:
        """Return a regular file's bytes, None if there is none. Links are followed."""
        try:
            # without O_NONBLOCK, a FIFO would hold us for ever
            fd = _openat2(self._root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
                return None
            raise _failed("read", path, error) from error
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return None
            if found.st_size > _MAX_READ_BYTES:
                raise RootedError(f"{path} has {found.st_size} bytes: not a file to configure")
            with os.fdopen(fd, "rb", closefd=False) as file:
                return file.read(_MAX_READ_BYTES)
        finally:
            os.close(fd)

    def read_text(self, path: str) -> str | None:
        data = self.read(path)
        return None if data is None else data.decode("utf-8", "replace")

    def read_link(self, path: str) -> str | None:
        """Return where the link at `path` points, None if it is no link."""
        try:
            with self._parent(path) as (parent, name):
                return os.readlink(name, dir_fd=parent)
        except (RootedError, OSError):
            return None

    def names(self, path: str) -> tuple[str, ...]:
        """Return the sorted names in a directory; none if it is no directory."""
        try:
            fd = _openat2(self._root, path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return ()
        try:
            with os.scandir(fd) as entries:
                return tuple(sorted(entry.name for entry in entries))
        finally:
            os.close(fd)

    def glob(self, pattern: str) -> tuple[str, ...]:
        """Return the paths that match, sorted; `*` stays within one name."""
        found = ["/"]
        for word in PurePosixPath(pattern).parts[1:]:
            if not any(sign in word for sign in "*?["):
                found = [f"{base.rstrip('/')}/{word}" for base in found]
                continue
            found = [
                f"{base.rstrip('/')}/{name}"
                for base in found
                for name in self.names(base)
                if fnmatch.fnmatchcase(name, word)
            ]
        return tuple(sorted(path for path in found if self.kind(path)))

    @contextmanager
    def opened(self, path: str) -> Iterator[int]:
        """Yield a read-only descriptor of the regular file at `path`. Raises RootedError."""
        try:
            fd = _openat2(self._root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            raise _failed("open", path, error) from error
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise RootedError(f"{path} is not a regular file")
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def directory(self, path: str) -> Iterator[Path]:
        """Yield a path by which others can reach the directory `path`, wherever links lead to."""
        try:
            fd = _openat2(self._root, path, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            raise _failed("open", path, error) from error
        try:
            yield Path(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)

    # changing

    def write(self, path: str, data: bytes | str, mode: int | None = None) -> None:
        """Put `data` at `path` in one moment: a new file beside it, fsync, rename.

        Owner, mode and SELinux label of a regular file there before are kept (`mode` wins); a new
        file is root's, 0644. A link there is followed if it leads to a regular file's place
        inside the root, for so would the system write it. Directories on the way are made.
        """
        data = data.encode() if isinstance(data, str) else data
        path = self._through_links(path)
        self.make_directories(str(PurePosixPath(path).parent))
        try:
            with self._changing(path) as (parent, name):
                _replace(parent, name, data, mode)
        except OSError as error:
            raise _failed("write", path, error) from error

    def remove(self, path: str) -> bool:
        """Remove the file or link at `path`; return whether there was one. Never a directory."""
        try:
            with self._changing(path) as (parent, name):
                if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                    return False
                os.unlink(name, dir_fd=parent)
                _sync(parent)
        except FileNotFoundError:
            return False
        except NotADirectoryError:
            return False
        except OSError as error:
            raise _failed("remove", path, error) from error
        return True

    def remove_tree(self, path: str) -> tuple[str, ...]:
        """Remove all that lies in the directory `path`, not itself; return the files removed.

        A link is removed, never followed.
        """
        removed: list[str] = []
        if self.kind(path) != "directory":
            return ()
        for name in self.names(path):
            below = f"{path.rstrip('/')}/{name}"
            if self.kind(below) == "directory":
                removed += self.remove_tree(below)
                with suppress(OSError), self._changing(below) as (parent, last):
                    os.rmdir(last, dir_fd=parent)
            elif self.remove(below):
                removed.append(below)
        return tuple(removed)

    def link(self, path: str, to: str) -> None:
        """Put a symbolic link to `to` at `path`, in place of a file or link there."""
        self.make_directories(str(PurePosixPath(path).parent))
        self.remove(path)
        try:
            with self._changing(path) as (parent, name):
                os.symlink(to, name, dir_fd=parent)
                _inherit_label(parent, name)
                _sync(parent)
        except OSError as error:
            raise _failed("link", path, error) from error

    def change_mode(self, path: str, mode: int) -> None:
        """Set the mode of the file or directory at `path`, which must not be a link."""
        try:
            with self._changing(path):
                fd = _openat2(self._root, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    os.fchmod(fd, mode)
                finally:
                    os.close(fd)
        except OSError as error:
            raise _failed("change the mode of", path, error) from error

    def make_directories(self, path: str, mode: int = 0o755) -> None:
        """Make `path` and what lies above it, as far as it does not exist."""
        at = PurePosixPath("/")
        for word in _checked(path).parts[1:]:
            at = at / word
            if self.is_directory(str(at)):
                continue
            try:
                with self._changing(str(at)) as (parent, name):
                    os.mkdir(name, mode, dir_fd=parent)
                    os.chown(name, 0, 0, dir_fd=parent, follow_symlinks=False)
                    _inherit_label(parent, name)
            except OSError as error:
                raise _failed("make the directory", str(at), error) from error

    @contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        """Yield a descriptor of the directory that holds `path`, and the last name."""
        where = _checked(path)
        if not where.name:
            raise RootedError(f"{path} has no name")
        fd = _openat2(self._root, str(where.parent), os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield fd, where.name
        finally:
            os.close(fd)

    @contextmanager
    def _changing(self, path: str) -> Iterator[tuple[int, str]]:
        """Yield as `_parent` does, with nothing in the way that chattr made."""
        with self._parent(path) as (parent, name), unlocked(parent, name) as was:
            if was.folder:
                self.lifted[str(PurePosixPath(path).parent)] = letters(was.folder)
            if was.own:
                self.lifted[path] = letters(was.own)
            yield parent, name

    def _through_links(self, path: str) -> str:
        """Return where a write to `path` ends when links at its end are followed."""
        for _ in range(8):
            to = self.read_link(path)
            if to is None:
                return path
            joined = PurePosixPath(path).parent / to
            words: list[str] = []
            for word in joined.parts[1:]:
                if word == "..":
                    words = words[:-1]
                elif word != ".":
                    words.append(word)
            path = "/" + "/".join(words)
        raise RootedError(f"{path}: too many links")


def _checked(path: str) -> PurePosixPath:
    where = PurePosixPath(path)
    if not where.is_absolute() or "\0" in path or ".." in where.parts:
        raise RootedError(f"not a path inside a system: {path!r}")
    return where


def _replace(parent: int, name: str, data: bytes, mode: int | None) -> None:
    old: os.stat_result | None = None
    label: bytes | None = None
    with suppress(FileNotFoundError):
        old = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(old.st_mode):
            raise IsADirectoryError(errno.EISDIR, "Is a directory")
        if not stat.S_ISREG(old.st_mode):
            old = None
    # a new file has its directory's label, as the kernel gives it by default
    labelled = f"/proc/self/fd/{parent}/{name if old else '.'}"
    with suppress(OSError):
        label = os.getxattr(labelled, _SELINUX, follow_symlinks=False)
    fresh = f".{name[:200]}.metalcast"
    with suppress(FileNotFoundError):
        os.unlink(fresh, dir_fd=parent)
    fd = os.open(
        fresh,
        os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
        0o600,
        dir_fd=parent,
    )
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            if old is not None:
                os.fchown(fd, old.st_uid, old.st_gid)
            os.fchmod(fd, mode if mode is not None else old.st_mode & 0o7777 if old else 0o644)
            if label is not None:
                with suppress(OSError):
                    os.setxattr(fd, _SELINUX, label)
            file.flush()
            os.fsync(fd)
        os.rename(fresh, name, src_dir_fd=parent, dst_dir_fd=parent)
    except OSError:
        with suppress(OSError):
            os.unlink(fresh, dir_fd=parent)
        raise
    _sync(parent)


def _inherit_label(parent: int, name: str) -> None:
    """Give what is new its folder's SELinux label, as a kernel with SELinux does by default."""
    with suppress(OSError):
        label = os.getxattr(f"/proc/self/fd/{parent}/.", _SELINUX)
        os.setxattr(f"/proc/self/fd/{parent}/{name}", _SELINUX, label, follow_symlinks=False)


def _sync(directory: int) -> None:
    os.fsync(directory)


def _failed(action: str, path: str, error: OSError) -> RootedError:
    return RootedError(f"could not {action} {path} of the target system: {error.strerror}")
