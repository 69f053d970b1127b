"""Hold a whole disk, so that nobody else touches it or its partitions' device nodes."""

import errno
import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from agent.errors import DiskError
from agent.system import block

_TRIES: Final = 60
_PAUSE_S: Final = 0.5


@contextmanager
def held(disk: Path, paths: Iterable[str] = ()) -> Iterator[None]:
    """Refuse a disk that something uses; then keep udevd away from it until the end.

    udevd reads a disk's table anew whenever a writer closes it, and takes the partitions' nodes
    away for a moment. A BSD lock on the disk tells it not to (systemd's "block device locking").
    The nodes themselves come from the kernel, at once: nothing has to settle.

    `paths` are all that lead to the disk (multipath), if there are several: each is held, for each
    shows the same bytes. Afterwards the kernel reads the table anew by those not written through.
    """
    others = other_paths(disk, paths)
    for path in (disk, *others):
        _check_unused(path)
    with ExitStack() as stack:
        for path in sorted((disk, *others)):
            stack.enter_context(locked(path))
        yield
        for path in others:
            with suppress(DiskError):  # what it shows of the disk is old, and nothing needs it
                block.flush(path)
                block.reread_table(path)


@contextmanager
def locked(disk: Path) -> Iterator[None]:
    """Keep udevd away from a disk, or an array that is used like one. It cannot be stopped then."""
    with block.opened(disk, os.O_RDONLY) as fd:
        for attempt in range(_TRIES):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if attempt == _TRIES - 1:
                    raise DiskError(f"another program keeps {disk} locked") from error
                time.sleep(_PAUSE_S)
            else:
                break
        yield


def other_paths(disk: Path, paths: Iterable[str]) -> list[Path]:
    """Return those of `paths` that lead to `disk` besides itself. A dead one does not."""
    return [Path(path) for path in paths if Path(path) != disk and _can_open(path)]


def _can_open(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _check_unused(disk: Path) -> None:
    """Raise DiskError if the kernel says that a mount, an array or a mapping uses the disk."""
    if not block.is_block_device(disk):
        return
    try:
        # exclusive, and given back: the kernel refuses to read the table while somebody has it
        os.close(os.open(disk, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise DiskError(
                f"{disk} is in use: a mount, swap, array or mapping holds it",
                hint="look with lsblk; nothing was written",
            ) from error
        raise DiskError(f"could not open {disk}: {error.strerror}") from error
