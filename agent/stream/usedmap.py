"""Which bytes of a volume are worth keeping, by its content. Two sources where there are two."""

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, assert_never

from agent.errors import AgentError, SourceUnfit
from agent.model.extents import Extents
from agent.model.layout import (
    BootCode,
    Btrfs,
    BtrfsDevice,
    Content,
    Exfat,
    Ext,
    F2fs,
    MbrGap,
    Ntfs,
    Raw,
    Swap,
    Vfat,
    Xfs,
)
from agent.system.command import Runner
from agent.tools import (
    btrfs,
    btrfs_map,
    dumpe2fs,
    exfat,
    ext,
    ext_bitmaps,
    f2fs,
    fat,
    mkfs_fat,
    ntfs,
    partclone,
    xfs,
)
from agent.units import Extent, GiB, TiB

_PARTCLONE_BYTES: Final = TiB
"""Above this, partclone's own bitmap is too much memory, and it looks at every bit of it.

Ext and XFS compare the counts of each group as they are read, btrfs those of each block group;
vfat, ntfs and exfat are checked by their own programs."""
_ALONE_BYTES: Final = 128 * GiB
"""Above this, one map of partclone's is made at a time: it takes up to 80 MiB of memory."""
_alone = threading.Lock()

SecondOpinion = Callable[[threading.Event], None]
"""Raises AgentError if the map is wrong; ends soon after the event is set."""


class UsedMap:
    """What is used of a volume. A second program looks too, beside whatever is done meanwhile.

    Leaving the `with` block ends that program. Before what was read by this map is trusted,
    `confirm` must have returned.
    """

    def __init__(
        self,
        extents: Extents,
        check: SecondOpinion | None = None,
        *,
        zeros: Extents | None = None,
    ) -> None:
        self.extents = extents
        self.zeros = zeros or Extents()
        """What of it is zeros, and need not be read to know that."""
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if check is not None:
            self._thread = threading.Thread(
                target=self._look, args=(check,), name="used-map", daemon=True
            )
            self._thread.start()

    def __enter__(self) -> "UsedMap":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def confirm(self) -> None:
        """Wait for the second opinion. Raises SourceUnfit if it differs, or cannot be had."""
        if self._thread is not None:
            self._thread.join()
        if isinstance(self._error, SourceUnfit):
            raise self._error
        if isinstance(self._error, AgentError):
            raise SourceUnfit(("a second look at what is used could not be had",)) from self._error
        if self._error is not None:
            raise self._error
        if self._stop.is_set():
            raise SourceUnfit(("the second look at what is used was given up",))

    def close(self) -> None:
        """End the second look, if it is not done."""
        if self._thread is not None and self._thread.is_alive():
            self._stop.set()
            self._thread.join()

    def _look(self, check: SecondOpinion) -> None:
        try:
            check(self._stop)
        except BaseException as error:  # confirm raises it
            self._error = error


def confirm_all(maps: Iterable[UsedMap]) -> None:
    """Wait for every second opinion. Raises SourceUnfit for the first that differs."""
    for one in maps:
        one.confirm()


def used_map(
    run: Runner,
    device: Path,
    content: Content,
    size_bytes: int,
    *,
    others: Sequence[Path] = (),
    covered: bool = False,
) -> UsedMap:
    """Return the used extents of the volume on `device`, which has `size_bytes`.

    `others` are the other devices of the same btrfs; `covered`: they and `device` are covers.

    What we cannot vouch for is one extent: it is kept whole, without its runs of zeros. Raises
    SourceUnfit, with the command that helps, for a filesystem that was not shut down cleanly.
    """
    match content:
        case Ext():
            return _ext(run, device, size_bytes)
        case Xfs():
            return _xfs(run, device, size_bytes)
        case Vfat():
            return _vfat(run, device, size_bytes)
        case Btrfs():
            # Of a cover and what is below, which have one UUID, btrfs-check would take either.
            has_check = not (covered and others)
            return _btrfs(run, device, size_bytes, others, has_check=has_check)
        case BtrfsDevice():  # the check is of all devices
            return _btrfs(run, device, size_bytes, others, has_check=False)
        case F2fs():
            return _f2fs(run, device, size_bytes)
        case Ntfs():
            return _ntfs(run, device, size_bytes)
        case Exfat():
            return _exfat(run, device, size_bytes)
        case Raw() | BootCode() | MbrGap():
            return _whole(size_bytes)
        case Swap():
            return UsedMap(Extents())
    assert_never(content)


def _ext(run: Runner, device: Path, size_bytes: int) -> UsedMap:
    facts = dumpe2fs.ext_facts(run, device)
    dumpe2fs.check_clean(facts, device)
    _check_size(device, facts.size_bytes, size_bytes)
    found = ext_bitmaps.ext_map(device)
    if "bigalloc" in facts.features:  # partclone's maps are wrong here
        return UsedMap(found.kept, lambda stop: ext.check_ext(run, device, stop), zeros=found.zeros)
    check = _by_partclone(run, device, "extfs", size_bytes, found.used)
    return UsedMap(found.kept, check, zeros=found.zeros)


def _xfs(run: Runner, device: Path, size_bytes: int) -> UsedMap:
    facts = xfs.xfs_facts(run, device)
    xfs.check_fit(run, facts, device)
    _check_size(device, facts.size_bytes, size_bytes)
    used = xfs.used_extents(run, device, facts)
    return UsedMap(used, _by_partclone(run, device, "xfs", size_bytes, used))


def _vfat(run: Runner, device: Path, size_bytes: int) -> UsedMap:
    shape, used = fat.fat_used_extents(device)
    _check_size(device, shape.size_bytes, size_bytes)
    if shape.bits == 12:
        return UsedMap(used)  # partclone 0.3.23 reads these tables wrongly
    check = _by_partclone(run, device, "vfat", size_bytes, used, mkfs_fat.check_fat)
    return UsedMap(used, check)


def _btrfs(
    run: Runner, device: Path, size_bytes: int, others: Sequence[Path], *, has_check: bool
) -> UsedMap:
    facts = btrfs_map.btrfs_facts(device)
    btrfs.check_fit(facts, device)
    if not btrfs.is_readable(facts):
        return _whole(size_bytes)
    _check_size(device, facts.size_bytes, size_bytes)
    used = btrfs_map.used_extents(device, others)
    if facts.used_bytes > _PARTCLONE_BYTES or not has_check:
        return UsedMap(used)  # the counts of each block group were compared
    # partclone leaves out the second copy of what is kept twice, so it cannot be the second look.
    return UsedMap(used, lambda stop: btrfs.check_btrfs(run, device, stop))


def _f2fs(run: Runner, device: Path, size_bytes: int) -> UsedMap:
    facts = f2fs.f2fs_facts(device)
    f2fs.check_fit(facts, device)
    if not facts.is_readable:
        return _whole(size_bytes)
    _check_size(device, facts.size_bytes, size_bytes)
    used = f2fs.used_extents(device, facts)
    return UsedMap(used, _by_partclone(run, device, "f2fs", size_bytes, used))


def _ntfs(run: Runner, device: Path, size_bytes: int) -> UsedMap:
    try:
        facts, used = ntfs.used_extents(device)
    except ntfs.NotReadable:
        return _whole(size_bytes)
    ntfs.check_fit(facts, device)
    _check_size(device, facts.size_bytes, size_bytes)
    tail = (facts.clusters * facts.cluster_bytes, facts.size_bytes)
    whole = Extents.of_bounds([*used.bounds(), tail])
    check = _by_partclone(run, device, "ntfs", size_bytes, used, ntfs.check_ntfs)
    return UsedMap(whole, check)


def _exfat(run: Runner, device: Path, size_bytes: int) -> UsedMap:
    facts, used = exfat.used_extents(device)
    exfat.check_fit(facts, device)
    if facts.tables != 1:
        return _whole(size_bytes)  # two tables with a bitmap each: nothing here makes that
    _check_size(device, facts.size_bytes, size_bytes)
    check = _by_partclone(run, device, "exfat", size_bytes, used, exfat.check_exfat)
    return UsedMap(used, check)


def _whole(size_bytes: int) -> UsedMap:
    return UsedMap(Extents([Extent(0, size_bytes)]))


def _check_size(device: Path, claimed: int, size_bytes: int) -> None:
    if claimed > size_bytes:
        raise SourceUnfit(
            (f"the filesystem on {device} has {claimed} bytes, its place {size_bytes}",)
        )


def _by_partclone(
    run: Runner,
    device: Path,
    fs: partclone.Filesystem,
    size_bytes: int,
    used: Extents,
    larger: Callable[[Runner, Path, threading.Event], None] | None = None,
) -> SecondOpinion | None:
    """Return a comparison with partclone's map; for what is too large for that, `larger`."""
    if size_bytes > _PARTCLONE_BYTES:
        return larger and (lambda stop: larger(run, device, stop))

    def look(stop: threading.Event) -> None:
        same = Comparison(used, device)
        partclone.read_map(run, device, fs, size_bytes, same.other, stop)
        same.close()

    def look_alone(stop: threading.Event) -> None:
        while not _alone.acquire(timeout=0.1):
            if stop.is_set():
                return
        try:
            look(stop)
        finally:
            _alone.release()

    return look if size_bytes <= _ALONE_BYTES else look_alone


class Comparison:
    """Compares a map with another, whose runs come one by one. Raises SourceUnfit."""

    def __init__(self, used: Extents, device: Path) -> None:
        self._ours = used.bounds()
        self._device = device

    def other(self, offset: int, end: int) -> None:
        ours = next(self._ours, None)
        if ours != (offset, end):
            self._refuse(ours, (offset, end))

    def close(self) -> None:
        if ours := next(self._ours, None):
            self._refuse(ours, None)

    def _refuse(self, ours: tuple[int, int] | None, other: tuple[int, int] | None) -> None:
        """Name the first bytes that are used for one and free for the other."""
        if ours is None or (other is not None and other[0] < ours[0]):
            assert other is not None
            where, by = other, "partclone"
            end = other[1] if ours is None else min(other[1], ours[0])
            where = (other[0], end)
        elif other is None or ours[0] < other[0]:
            by, where = "us", (ours[0], ours[1] if other is None else min(ours[1], other[0]))
        else:
            by = "us" if ours[1] > other[1] else "partclone"
            where = (min(ours[1], other[1]), max(ours[1], other[1]))
        raise SourceUnfit(
            (
                f"two programs disagree about what is used on {self._device}: the bytes from "
                f"{where[0]} to {where[1]} are in use for {by} alone",
            ),
            hint=f"check the filesystem on {self._device}; if it is sound, report this as a bug",
        )
