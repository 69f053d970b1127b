"""NTFS: what is used, by its own $Bitmap; whether Windows left it clean; check and grow."""

import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import AgentError, DiskError, SourceUnfit
from agent.model.extents import Extents
from agent.system import block
from agent.system.command import Runner
from agent.tools.bitmaps import PIECE_BYTES, clear_runs, read_at

CHECK_TIMEOUT_S: Final = 4 * 3600.0
_VOLUME: Final = 3
_BITMAP: Final = 6
_ATTRIBUTE_LIST: Final = 0x20
_VOLUME_NAME: Final = 0x60
_VOLUME_INFORMATION: Final = 0x70
_DATA: Final = 0x80
_END: Final = 0xFFFFFFFF
_DIRTY: Final = 1
_STRIDE: Final = 512
"""The last two bytes of each so many are kept elsewhere in a record."""
_ROOT: Final = 5
_INDEX_ROOT: Final = 0x90
_INDEX_ALLOCATION: Final = 0xA0
_INDEX_BYTES: Final = 4096
_SLEEP_FILE: Final = "hiberfil.sys".encode("utf-16-le")
_NAME_AT: Final = 82
"""Where the name is in an entry of a directory; the entry begins with the file's number."""

Runs = tuple[tuple[int, int], ...]
"""(first cluster, clusters) of each piece of an attribute; -1 is a hole."""


class NotReadable(AgentError):
    """A volume whose system files are too scattered for us; it may be sound."""


@dataclass(frozen=True, slots=True)
class NtfsFacts:
    """The boot sector and the volume's own records."""

    uuid: str
    """The serial number as libblkid writes it: sixteen capital digits."""
    label: str
    sector_bytes: int
    cluster_bytes: int
    clusters: int
    size_bytes: int
    """With the copy of the boot sector in the sector behind the last cluster."""
    is_dirty: bool
    """Windows wants to check it at the next start, or a driver had it mounted."""


def ntfs_facts(device: Path) -> NtfsFacts:
    """Return what `device` says of itself. Raises AgentError if it is no NTFS that we can read."""
    with block.opened(device, os.O_RDONLY) as fd:
        return _Volume(fd, device).facts()


def used_extents(device: Path) -> tuple[NtfsFacts, Extents]:
    """Return the facts and the used clusters; the copy of the boot sector is not among them."""
    with block.opened(device, os.O_RDONLY) as fd:
        volume = _Volume(fd, device)
        size = volume.cluster_bytes
        runs = clear_runs(volume.bitmap(), volume.clusters)
        free = ((first * size, end * size) for first, end in runs)
        return volume.facts(), Extents.between(free, volume.clusters * size)


def is_hibernated(device: Path) -> bool:
    """Return whether Windows sleeps on `device`: also what it calls a fast shutdown.

    A file of that name which cannot be read counts as one.
    """
    with block.opened(device, os.O_RDONLY) as fd:
        volume = _Volume(fd, device)
        try:
            return any(volume.head(number)[:4].lower() == b"hibr" for number in volume.sleeping())
        except AgentError:
            return True


def check_fit(facts: NtfsFacts, device: Path) -> None:
    """Raise SourceUnfit, with the command that helps, if Windows is not done with it."""
    if is_hibernated(device):
        raise SourceUnfit(
            (f"Windows on {device} is hibernated, or was shut down by its fast startup",),
            hint="start that system and run: shutdown /s /t 0 (with fast startup turned off: "
            "powercfg /h off)",
        )
    if facts.is_dirty:
        raise SourceUnfit(
            (f"the NTFS filesystem on {device} was not unmounted cleanly",),
            hint="start that system, run: chkdsk /f, and shut it down cleanly",
        )


def check_ntfs(run: Runner, device: Path, stop: threading.Event | None = None) -> None:
    """Check that files and bitmap agree, without writing. Raises DiskError if they do not."""
    answer = run(
        ["ntfsresize", "--info", "--force", "--no-progress-bar", device],
        ok=range(256),
        timeout_s=CHECK_TIMEOUT_S,
        stop=stop,
    )
    if answer.status != 0:
        said = " | ".join((answer.text + answer.stderr).splitlines()[-4:])
        raise DiskError(f"the NTFS filesystem on {device} is damaged: {said}")


def grow_ntfs(run: Runner, device: Path) -> None:
    """Let the filesystem take all of its device. Windows checks it at its next start."""
    run(
        ["ntfsresize", "--force", "--no-progress-bar", device],
        timeout_s=CHECK_TIMEOUT_S,
    )


class _Volume:
    """Reads records of the master file table of one device."""

    def __init__(self, fd: int, device: Path) -> None:
        self._fd, self._device = fd, device
        boot = read_at(fd, 0, 512, device)
        if boot[3:11] != b"NTFS    ":
            raise AgentError(f"{device} holds no NTFS filesystem")
        self._sector, per_cluster = struct.unpack_from("<HB", boot, 11)
        sectors, table = struct.unpack_from("<QQ", boot, 40)
        self._serial = int.from_bytes(boot[72:80], "little")
        per_record = int.from_bytes(boot[64:65], "little", signed=True)
        if self._sector not in (512, 1024, 2048, 4096) or not per_cluster:
            raise self._bad("the boot sector cannot be right")
        count = per_cluster if per_cluster <= 0x80 else 1 << (256 - per_cluster)
        self.cluster_bytes = self._sector * count
        self.clusters = sectors // count
        self._size_bytes = (sectors + 1) * self._sector
        self._record_bytes = per_record * self.cluster_bytes if per_record > 0 else 1 << -per_record
        if not 512 <= self._record_bytes <= 65536 or not 0 < table < self.clusters:
            raise self._bad("the boot sector cannot be right")
        first = self._fixed(read_at(fd, table * self.cluster_bytes, self._record_bytes, device))
        self._table = self._runs(self._attribute(first, _DATA))

    def facts(self) -> NtfsFacts:
        record = self._record(_VOLUME)
        flags = struct.unpack_from(
            "<H", self._value(self._attribute(record, _VOLUME_INFORMATION)), 10
        )[0]
        return NtfsFacts(
            uuid=f"{self._serial:016X}",
            label=self._label(record),
            sector_bytes=self._sector,
            cluster_bytes=self.cluster_bytes,
            clusters=self.clusters,
            size_bytes=self._size_bytes,
            is_dirty=bool(flags & _DIRTY),
        )

    def bitmap(self) -> Iterator[bytes]:
        """Yield the bitmap of used clusters, piece by piece."""
        attribute = self._attribute(self._record(_BITMAP), _DATA)
        if not attribute[8]:
            yield self._value(attribute)
            return
        for first, count in self._runs(attribute):
            if first < 0:
                raise self._bad("the bitmap of clusters has a hole")
            at, end = first * self.cluster_bytes, (first + count) * self.cluster_bytes
            while at < end:
                piece = min(PIECE_BYTES, end - at)
                yield read_at(self._fd, at, piece, self._device)
                at += piece

    def head(self, number: int) -> bytes:
        """Return the beginning of the data of file `number`."""
        attribute = self._attribute(self._record(number), _DATA)
        if not attribute[8]:
            return self._value(attribute)
        first = self._runs(attribute)[0][0]
        if first < 0:
            return b""
        return read_at(self._fd, first * self.cluster_bytes, 512, self._device)

    def sleeping(self) -> Iterator[int]:
        """Yield the numbers of the files that the root directory names `hiberfil.sys`."""
        for data in self._root():
            low = data.lower()
            at = low.find(_SLEEP_FILE)
            while at >= 0:
                if at >= _NAME_AT and data[at - 2] == len(_SLEEP_FILE) // 2:
                    yield int.from_bytes(data[at - _NAME_AT : at - _NAME_AT + 6], "little")
                at = low.find(_SLEEP_FILE, at + 1)

    def _root(self) -> Iterator[bytes]:
        """Yield what holds the entries of the root directory."""
        record = self._record(_ROOT)
        for attribute in self._attributes(record):
            kind = int.from_bytes(attribute[:4], "little")
            if kind == _ATTRIBUTE_LIST:
                raise NotReadable(f"the root directory of {self._device} is in many pieces")
            if kind == _INDEX_ROOT:
                yield attribute
            if kind == _INDEX_ALLOCATION:
                for first, count in self._runs(attribute):
                    begin, end = first * self.cluster_bytes, (first + count) * self.cluster_bytes
                    for at in range(begin, end, _INDEX_BYTES):
                        data = read_at(self._fd, at, _INDEX_BYTES, self._device)
                        if data[:4] == b"INDX":
                            yield self._fixed(data, b"INDX")

    def _label(self, record: bytes) -> str:
        try:
            name = self._attribute(record, _VOLUME_NAME)
        except AgentError:
            return ""
        return self._value(name).decode("utf-16-le", "replace")

    def _record(self, number: int) -> bytes:
        offset = number * self._record_bytes
        for first, count in self._table:
            if offset < count * self.cluster_bytes and first >= 0:
                at = first * self.cluster_bytes + offset
                return self._fixed(read_at(self._fd, at, self._record_bytes, self._device))
            offset -= count * self.cluster_bytes
        raise self._bad(f"there is no file record {number}")

    def _fixed(self, record: bytes, magic: bytes = b"FILE") -> bytes:
        """Return a record with the ends of its sectors put back. Raises AgentError if torn."""
        where, count = struct.unpack_from("<HH", record, 4)
        if record[:4] != magic or count - 1 != len(record) // _STRIDE:
            raise self._bad("a file record cannot be right")
        mark = record[where : where + 2]
        data = bytearray(record)
        for number in range(1, count):
            end = number * _STRIDE
            if data[end - 2 : end] != mark:
                raise self._bad("a file record was written only in part")
            data[end - 2 : end] = record[where + 2 * number : where + 2 * number + 2]
        return bytes(data)

    def _attribute(self, record: bytes, kind: int) -> bytes:
        """Return the nameless attribute of this kind. Raises AgentError if there is none."""
        for attribute in self._attributes(record):
            found = int.from_bytes(attribute[:4], "little")
            if found == _ATTRIBUTE_LIST and kind == _DATA:
                raise NotReadable(f"a system file of {self._device} is in many pieces")
            if found == kind and attribute[9] == 0:
                return attribute
        raise self._bad(f"a file record has no attribute {kind:#x}")

    def _attributes(self, record: bytes) -> Iterator[bytes]:
        at = struct.unpack_from("<H", record, 20)[0]
        while at + 8 <= len(record):
            kind, size = struct.unpack_from("<II", record, at)
            if kind == _END or not 24 <= size <= len(record) - at:
                return
            yield record[at : at + size]
            at += size

    def _value(self, attribute: bytes) -> bytes:
        size, at = struct.unpack_from("<IH", attribute, 16)
        if attribute[8] or at + size > len(attribute):
            raise self._bad("an attribute is not where it should be")
        return attribute[at : at + size]

    def _runs(self, attribute: bytes) -> Runs:
        """Return where the data of an attribute outside of its record is."""
        if not attribute[8] or struct.unpack_from("<Q", attribute, 16)[0] != 0:
            raise NotReadable(f"a system file of {self._device} is in many pieces")
        at = struct.unpack_from("<H", attribute, 32)[0]
        found: list[tuple[int, int]] = []
        first = 0
        while at < len(attribute) and attribute[at]:
            low, high = attribute[at] & 0xF, attribute[at] >> 4
            count = int.from_bytes(attribute[at + 1 : at + 1 + low], "little")
            step = attribute[at + 1 + low : at + 1 + low + high]
            at += 1 + low + high
            first += int.from_bytes(step, "little", signed=True)
            if not count or not 0 <= first <= self.clusters - (count if high else 0):
                raise self._bad("a run of clusters lies outside")
            found.append((first if high else -1, count))
        if not found:
            raise self._bad("a system file has no data")
        return tuple(found)

    def _bad(self, what: str) -> AgentError:
        return AgentError(f"the NTFS filesystem on {self._device} cannot be read: {what}")
