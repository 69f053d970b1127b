"""xfs_db(8) and xfs_logprint(8): what an XFS filesystem says of itself, and which blocks are free.

Both open it for reading only.
"""

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import AgentError, CommandFailed, SourceUnfit
from agent.model.extents import Extents
from agent.system.command import Runner

_TIMEOUT_S: Final = 1800.0
_FIELD: Final = re.compile(r"^(\w+) = (.*)$", re.M)
_VERSION: Final = re.compile(r"^versionnum \[.*\] = (\S+)$", re.M)
_NAMES: Final = {
    "CRC": "crc",
    "FTYPE": "ftype",
    "FINOBT": "finobt",
    "SPARSE_INODES": "sparse",
    "RMAPBT": "rmapbt",
    "REFLINK": "reflink",
    "INOBTCNT": "inobtcount",
    "BIGTIME": "bigtime",
    "NREXT64": "nrext64",
    "EXCHANGE": "exchange",
    "PARENT": "parent",
    "PROJID32BIT": "projid32bit",
}
"""xfs_db's words for what mkfs.xfs can be told, by the names there."""
_STATE: Final = re.compile(r"state: <(\w+)>")
_RUN: Final = re.compile(rb"\s*(\d+)\s+(\d+)\s+(\d+)\s*")
_HISTOGRAM: Final = re.compile(rb"\s*from\s+to\s.*")
_HEAD: Final = re.compile(rb"\s*agno\s+agbno\s+len\s*")
_NO_LABEL: Final = r"\000"
_LENGTH_BITS: Final = 32
_ASKED_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class XfsFacts:
    """The superblock of an XFS filesystem."""

    uuid: str
    label: str
    block_bytes: int
    blocks: int
    free_blocks: int
    group_blocks: int
    groups: int
    has_own_log: bool
    """The log is inside the filesystem, not on another device."""
    has_realtime: bool
    is_complete: bool
    """False while mkfs or a copy is at work, and for ever after if that was cut short."""
    sector_bytes: int = 512
    features: tuple[str, ...] = ()
    """By the names of mkfs.xfs."""

    @property
    def size_bytes(self) -> int:
        return self.blocks * self.block_bytes

    @property
    def used_bytes(self) -> int:
        return (self.blocks - self.free_blocks) * self.block_bytes


def xfs_facts(run: Runner, device: Path) -> XfsFacts:
    """Return what the superblock of `device` says."""
    names = (
        "uuid fname blocksize sectsize dblocks fdblocks agblocks agcount logstart rblocks "
        "inprogress"
    )
    try:
        words = ["-c", "sb 0", "-c", f"p {names}", "-c", "version"]
        text = run(["xfs_db", "-r", *words, device]).text
    except CommandFailed as error:
        if "realtime device" not in str(error):
            raise
        raise SourceUnfit((_realtime(device),)) from error
    fields = dict(_FIELD.findall(text))
    if missing := [name for name in names.split() if name not in fields]:
        raise AgentError(f"xfs_db says nothing of {missing[0]!r}: is this an XFS filesystem?")

    def number(name: str) -> int:
        if not fields[name].isdigit():
            raise AgentError(f"xfs_db gives {fields[name][:40]!r} for {name!r}: not a number")
        return int(fields[name])

    return XfsFacts(
        uuid=fields["uuid"],
        label=fields["fname"].strip('"').partition(_NO_LABEL)[0],
        block_bytes=number("blocksize"),
        blocks=number("dblocks"),
        free_blocks=number("fdblocks"),
        group_blocks=number("agblocks"),
        groups=number("agcount"),
        has_own_log=number("logstart") != 0,
        has_realtime=number("rblocks") != 0,
        is_complete=number("inprogress") == 0,
        sector_bytes=number("sectsize"),
        features=_features(text),
    )


def _features(text: str) -> tuple[str, ...]:
    found = _VERSION.search(text)
    words = found[1].split(",") if found else []
    return tuple(_NAMES[word] for word in words if word in _NAMES)


def check_fit(run: Runner, facts: XfsFacts, device: Path) -> None:
    """Raise SourceUnfit, with every reason, unless the filesystem is whole, alone and clean."""
    why: list[str] = []
    hint = None
    if not facts.is_complete:
        why.append(f"the XFS filesystem on {device} was never completed")
    if facts.has_realtime:
        why.append(_realtime(device))
    if not facts.has_own_log:
        why.append(f"the XFS filesystem on {device} has its log on another device")
    elif not is_clean(run, device):
        why.append(f"the XFS filesystem on {device} was not unmounted cleanly")
        hint = (
            f"start that system and shut it down cleanly, or mount and unmount {device} once, "
            "which replays its log"
        )
    if why:
        raise SourceUnfit(tuple(why), hint=hint)


def is_clean(run: Runner, device: Path) -> bool:
    """Return whether nothing is left in the log."""
    said = run(["xfs_logprint", "-t", device], ok=range(256), timeout_s=_TIMEOUT_S)
    found = _STATE.search(said.text)
    return found is not None and found[1] == "CLEAN"


def used_extents(run: Runner, device: Path, facts: XfsFacts) -> Extents:
    """Return the used runs of `device` by the free space that xfs_db lists.

    Each allocation group's count of free blocks, and the superblock's, must be met; else
    SourceUnfit is raised.
    """
    reader = FreeSpace(facts)
    run(
        ["xfs_db", "-r", "-c", "freesp -d", device],
        timeout_s=_TIMEOUT_S,
        into=reader.feed,
    )
    free = reader.close()
    counts = _group_counts(run, device, facts)
    for group, (listed, count) in enumerate(zip(reader.free_blocks, counts, strict=True)):
        if listed != count.free:
            claim = f"group {group} has {count.free}"
            raise _disagreement(device, claim, listed)
    total = sum(count.free + count.trees for count in counts)
    if total != facts.free_blocks:
        raise _disagreement(device, f"the filesystem has {facts.free_blocks}", total)
    return Extents.between(free, facts.size_bytes)


class FreeSpace:
    """Reads what `freesp -d` lists, piece by piece: the free runs of each group, in any order."""

    def __init__(self, facts: XfsFacts) -> None:
        self.free_blocks = [0] * facts.groups
        self._facts = facts
        self._runs = [array("Q") for _ in range(facts.groups)]
        self._rest = b""
        self._ended = False

    def feed(self, piece: bytes) -> None:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._read(line)
        if len(self._rest) > 1000:
            raise AgentError("xfs_db lists free space in a line without end")

    def close(self) -> Iterator[tuple[int, int]]:
        """Return the free runs as (offset, end) in bytes, in order."""
        if not self._ended:
            raise AgentError("xfs_db's list of free space is cut short")
        return self._bounds()

    def _read(self, line: bytes) -> None:
        if self._ended or not line.strip() or _HEAD.fullmatch(line):
            return
        if _HISTOGRAM.fullmatch(line):
            self._ended = True
            return
        found = _RUN.fullmatch(line)
        if not found:
            raise AgentError(f"xfs_db lists {line[:60].decode(errors='replace')!r} as free space")
        group, first, size = (int(text) for text in found.groups())
        facts = self._facts
        length = min(facts.group_blocks, facts.blocks - group * facts.group_blocks)
        if group >= facts.groups or size == 0 or first + size > length:
            raise AgentError(f"xfs_db lists {first}+{size} as free in group {group}: out of bounds")
        self._runs[group].append(first << _LENGTH_BITS | size)
        self.free_blocks[group] += size

    def _bounds(self) -> Iterator[tuple[int, int]]:
        size = self._facts.block_bytes
        for group, runs in enumerate(self._runs):
            begin = group * self._facts.group_blocks
            before = 0
            for packed in sorted(runs):
                first = packed >> _LENGTH_BITS
                end = first + (packed & (1 << _LENGTH_BITS) - 1)
                if first < before:
                    raise AgentError(f"xfs_db lists block {first} of group {group} twice as free")
                yield (begin + first) * size, (begin + end) * size
                before = end


@dataclass(frozen=True, slots=True)
class _Counts:
    free: int
    """With the blocks kept for the trees of free space."""
    trees: int
    """Blocks of those trees: the superblock counts them as free."""


def _group_counts(run: Runner, device: Path, facts: XfsFacts) -> list[_Counts]:
    found: list[_Counts] = []
    for first in range(0, facts.groups, _ASKED_AT_ONCE):
        groups = range(first, min(first + _ASKED_AT_ONCE, facts.groups))
        words = [word for n in groups for word in ("-c", f"agf {n}", "-c", _COUNTS)]
        text = run(["xfs_db", "-r", *words, device], timeout_s=_TIMEOUT_S).text
        numbers = [int(value) for _, value in _FIELD.findall(text) if value.isdigit()]
        if len(numbers) != 3 * len(groups):
            raise AgentError("xfs_db does not say how much is free in each group")
        rows = zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
        found += [_Counts(free + kept, trees) for free, kept, trees in rows]
    return found


_COUNTS: Final = "p freeblks flcount btreeblks"


def _realtime(device: Path) -> str:
    return f"the XFS filesystem on {device} has a realtime device, which is not captured"


def _disagreement(device: Path, claim: str, found: int) -> SourceUnfit:
    return SourceUnfit(
        (f"the free space of {device} is not as described: {claim} free blocks, {found} are free",),
        hint=f"run: xfs_repair -n {device}",
    )
