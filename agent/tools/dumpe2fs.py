"""dumpe2fs(8): what an ext2, ext3 or ext4 filesystem says of itself, and which blocks are free."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import AgentError, SourceUnfit
from agent.system.command import Runner
from agent.units import Extent

_FIELD: Final = re.compile(r"([A-Z][A-Za-z0-9 /#-]*):\s*(.*)")
_GROUP: Final = re.compile(r"Group \d+: \(Blocks (\d+)-(\d+)\)")
_FREE: Final = re.compile(r"\s+Free blocks: (.*)")
_RANGE: Final = re.compile(r"(\d+)(?:-(\d+))?")
_NOT_REPLAYED: Final = ("needs_recovery", "orphan_present")
_TIMEOUT_S: Final = 600


@dataclass(frozen=True, slots=True)
class ExtFacts:
    """The superblock of an ext filesystem. `state` is dumpe2fs's word: `clean`, `not clean`."""

    uuid: str
    label: str
    block_bytes: int
    blocks: int
    free_blocks: int
    first_block: int
    features: tuple[str, ...]
    state: str

    @property
    def size_bytes(self) -> int:
        return self.blocks * self.block_bytes

    @property
    def used_bytes(self) -> int:
        return (self.blocks - self.free_blocks) * self.block_bytes

    @property
    def is_clean(self) -> bool:
        """Whether nothing is left to be replayed, finished or repaired."""
        return self.state == "clean" and not any(word in self.features for word in _NOT_REPLAYED)


def ext_facts(run: Runner, device: Path) -> ExtFacts:
    """Return what the superblock of `device` says. Opens it for reading only."""
    return parse_facts(run(["dumpe2fs", "-h", device], timeout_s=_TIMEOUT_S).text)


def free_extents(run: Runner, device: Path) -> tuple[Extent, ...]:
    """Return the free runs of `device` by its own block bitmaps, in order."""
    text = run(["dumpe2fs", device], timeout_s=_TIMEOUT_S).text
    lines = text.splitlines()
    return tuple(parse_free(lines, parse_facts(text)))


def parse_facts(text: str) -> ExtFacts:
    """Return the facts in the head of dumpe2fs's page. Raises AgentError if one is missing."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("Group 0:"):
            break
        if found := _FIELD.fullmatch(line):
            fields.setdefault(found[1], found[2].strip())
    label = _word(fields, "Filesystem volume name")
    return ExtFacts(
        uuid=_word(fields, "Filesystem UUID"),
        label="" if label == "<none>" else label,
        block_bytes=_number(fields, "Block size"),
        blocks=_number(fields, "Block count"),
        free_blocks=_number(fields, "Free blocks"),
        first_block=_number(fields, "First block"),
        features=tuple(_word(fields, "Filesystem features").split()),
        state=_word(fields, "Filesystem state"),
    )


def parse_free(lines: Iterable[str], facts: ExtFacts) -> Iterator[Extent]:
    """Yield the free runs that dumpe2fs lists group by group, as bytes.

    Raises AgentError unless each lies inside its group and behind the one before.
    """
    first = last = -1
    before = -1
    for line in lines:
        if group := _GROUP.match(line):
            first, last = int(group[1]), int(group[2])
            continue
        free = _FREE.fullmatch(line)
        if not free or not free[1].strip():
            continue
        for text in free[1].split(","):
            found = _RANGE.fullmatch(text.strip())
            if not found:
                raise AgentError(f"dumpe2fs lists {text.strip()[:40]!r} as free blocks")
            start, end = int(found[1]), int(found[2] or found[1])
            if not (before < start <= end and first <= start and end <= last):
                raise AgentError(f"dumpe2fs lists blocks {start}-{end} as free, out of order")
            before = end
            yield Extent(start * facts.block_bytes, (end - start + 1) * facts.block_bytes)


def check_clean(facts: ExtFacts, device: Path) -> None:
    """Raise SourceUnfit, with the command that helps, unless the filesystem is clean."""
    if facts.is_clean:
        return
    left = [word for word in _NOT_REPLAYED if word in facts.features]
    state = ", ".join([*([] if facts.state == "clean" else [facts.state]), *left])
    raise SourceUnfit(
        (f"the ext filesystem on {device} was not shut down cleanly ({state})",),
        hint=f"start that system and shut it down cleanly, or run: e2fsck -f {device}",
    )


def check_used(used: Iterable[Extent], free: Iterable[Extent], facts: ExtFacts) -> None:
    """Raise SourceUnfit if the map `used` leaves out a block that is not in `free`.

    Two programs read the same bitmaps; where they disagree, data would be lost without a word.
    """
    lost = first_outside(gaps(used, facts.size_bytes), free)
    if lost is not None:
        first, last = lost.offset // facts.block_bytes, (lost.end - 1) // facts.block_bytes
        raise SourceUnfit(
            (
                f"two programs disagree about what is used: blocks {first}-{last} are free "
                "for partclone and in use for dumpe2fs",
            ),
            hint="run e2fsck -f on the filesystem; if it is sound, report this as a bug",
        )


def first_outside(runs: Iterable[Extent], allowed: Iterable[Extent]) -> Extent | None:
    """Return the first part of `runs` that is not in `allowed`. Both ascend."""
    permits = iter(allowed)
    permit = next(permits, None)
    for run in runs:
        at = run.offset
        while at < run.end:
            while permit is not None and permit.end <= at:
                permit = next(permits, None)
            if permit is None or permit.offset > at:
                end = run.end if permit is None else min(run.end, permit.offset)
                return Extent(at, end - at)
            at = permit.end
    return None


def gaps(used: Iterable[Extent], size_bytes: int) -> Iterator[Extent]:
    """Yield what lies between the runs `used`, which ascend, up to `size_bytes`."""
    at = 0
    for run in used:
        if run.offset > at:
            yield Extent(at, run.offset - at)
        at = max(at, run.end)
    if at < size_bytes:
        yield Extent(at, size_bytes - at)


def _word(fields: Mapping[str, str], name: str) -> str:
    if name not in fields:
        raise AgentError(f"dumpe2fs says nothing of {name!r}: is this an ext filesystem?")
    return fields[name]


def _number(fields: Mapping[str, str], name: str) -> int:
    text = _word(fields, name)
    if not text.isdigit():
        raise AgentError(f"dumpe2fs gives {text[:40]!r} for {name!r}: expected a number")
    return int(text)
