"""exFAT: what is used, by its own allocation bitmap; check and make."""

import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agent.errors import AgentError, DiskError, SourceUnfit
from agent.model.extents import Extents
from agent.system import block
from agent.system.command import Runner
from agent.tools.bitmaps import clear_runs, read_at

CHECK_TIMEOUT_S: Final = 3600.0
_DIRTY: Final = 2
_MEDIA_FAILURE: Final = 4
_ENTRY_BYTES: Final = 32
_BITMAP: Final = 0x81
_LABEL: Final = 0x83
_LAST_CLUSTER: Final = 0xFFFFFFF7
_MAX_ROOT_CLUSTERS: Final = 4096


@dataclass(frozen=True, slots=True)
class ExfatFacts:
    """The boot sector and the root directory of an exFAT filesystem. Places in bytes."""

    uuid: str
    """The volume's serial number as libblkid writes it: `1A2B-3C4D`."""
    label: str
    sector_bytes: int
    cluster_bytes: int
    clusters: int
    size_bytes: int
    fat_offset: int
    heap_offset: int
    bitmap_cluster: int
    bitmap_bytes: int
    tables: int
    is_dirty: bool
    """Set while it is mounted for writing, or after a read or write failed."""


def exfat_facts(device: Path) -> ExfatFacts:
    """Return what `device` says of itself. Raises AgentError if it is no exFAT."""
    with block.opened(device, os.O_RDONLY) as fd:
        return _facts(fd, device)


def used_extents(device: Path) -> tuple[ExfatFacts, Extents]:
    """Return the facts and the used runs: all before the clusters, and each cluster in use."""
    with block.opened(device, os.O_RDONLY) as fd:
        facts = _facts(fd, device)
        if facts.bitmap_bytes < -(-facts.clusters // 8):
            raise AgentError(f"the bitmap of {device} is too short for its clusters")
        runs = clear_runs(_chain(fd, device, facts, facts.bitmap_cluster), facts.clusters)
        heap, size = facts.heap_offset, facts.cluster_bytes
        free = ((heap + first * size, heap + end * size) for first, end in runs)
        return facts, Extents.between(free, facts.size_bytes)


def check_fit(facts: ExfatFacts, device: Path) -> None:
    """Raise SourceUnfit, with the command that helps, if it was not unmounted cleanly."""
    if facts.is_dirty:
        raise SourceUnfit(
            (f"the exFAT filesystem on {device} was not unmounted cleanly",),
            hint=f"start that system and shut it down cleanly, or run: fsck.exfat -p {device}",
        )


def check_exfat(run: Runner, device: Path, stop: threading.Event | None = None) -> None:
    """Check without writing. Raises DiskError if anything is wrong."""
    words: list[str | Path] = ["fsck.exfat", "--repair-no", device]
    answer = run(words, ok=range(256), timeout_s=CHECK_TIMEOUT_S, stop=stop)
    if answer.status != 0:
        said = " | ".join((answer.text + answer.stderr).splitlines()[-4:])
        raise DiskError(f"the exFAT filesystem on {device} is damaged: {said}")


def make_exfat(run: Runner, device: Path, *, uuid: str, label: str, cluster_bytes: int) -> None:
    """Make an empty exFAT with the serial number `uuid` and, if not 0, this size of clusters."""
    words: list[str | Path] = ["mkfs.exfat", "--quiet"]
    if label:
        words.append(f"--volume-label={label}")
    if cluster_bytes:
        words.append(f"--cluster-size={cluster_bytes}")
    run([*words, device])
    if uuid:
        run(["tune.exfat", f"--set-serial=0x{uuid.replace('-', '').lower()}", device])


def _facts(fd: int, device: Path) -> ExfatFacts:
    boot = read_at(fd, 0, 512, device)
    if boot[3:11] != b"EXFAT   " or boot[510:512] != b"\x55\xaa":
        raise AgentError(f"{device} holds no exFAT filesystem")
    sectors, fat, _, heap, clusters, root, serial, _, flags = struct.unpack_from(
        "<QIIIIIIHH", boot, 72
    )
    sector_shift, cluster_shift, tables = boot[108], boot[109], boot[110]
    if not 9 <= sector_shift <= 12 or cluster_shift > 25 - sector_shift:
        raise AgentError(f"the boot sector of {device} cannot be right")
    sector = 1 << sector_shift
    facts = ExfatFacts(
        uuid=f"{serial >> 16:04X}-{serial & 0xFFFF:04X}",
        label="",
        sector_bytes=sector,
        cluster_bytes=sector << cluster_shift,
        clusters=clusters,
        size_bytes=sectors * sector,
        fat_offset=fat * sector,
        heap_offset=heap * sector,
        bitmap_cluster=0,
        bitmap_bytes=0,
        tables=tables,
        is_dirty=bool(flags & (_DIRTY | _MEDIA_FAILURE)),
    )
    if facts.heap_offset + clusters * facts.cluster_bytes > facts.size_bytes:
        raise AgentError(f"the boot sector of {device} cannot be right")
    return _with_root(fd, device, facts, root)


def _with_root(fd: int, device: Path, facts: ExfatFacts, root: int) -> ExfatFacts:
    label, bitmap = "", (0, 0)
    for entry in _entries(fd, device, facts, root):
        if entry[0] == _BITMAP and not entry[1] & 1:
            bitmap = struct.unpack_from("<IQ", entry, 20)
        elif entry[0] == _LABEL:
            label = entry[2 : 2 + 2 * min(entry[1], 11)].decode("utf-16-le", "replace")
    if not bitmap[1]:
        raise AgentError(f"the root directory of {device} names no allocation bitmap")
    return replace(facts, label=label, bitmap_cluster=bitmap[0], bitmap_bytes=bitmap[1])


def _entries(fd: int, device: Path, facts: ExfatFacts, root: int) -> Iterator[bytes]:
    for number, data in enumerate(_chain(fd, device, facts, root)):
        if number >= _MAX_ROOT_CLUSTERS:
            raise AgentError(f"the root directory of {device} has no end")
        for at in range(0, len(data), _ENTRY_BYTES):
            if data[at] == 0:
                return
            yield data[at : at + _ENTRY_BYTES]


def _chain(fd: int, device: Path, facts: ExfatFacts, cluster: int) -> Iterator[bytes]:
    """Yield the contents of the clusters from `cluster` on, as the file allocation table has it."""
    for _ in range(facts.clusters):
        if not 2 <= cluster < facts.clusters + 2:
            raise AgentError(f"a chain of clusters on {device} leads to {cluster}")
        at = facts.heap_offset + (cluster - 2) * facts.cluster_bytes
        yield read_at(fd, at, facts.cluster_bytes, device)
        entry = read_at(fd, facts.fat_offset + 4 * cluster, 4, device)
        cluster = int.from_bytes(entry, "little")
        if cluster >= _LAST_CLUSTER:
            return
    raise AgentError(f"a chain of clusters on {device} has no end")
