"""dumpe2fs(8): what an ext2, ext3 or ext4 filesystem says of itself."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import AgentError, SourceUnfit
from agent.system.command import Runner

_FIELD: Final = re.compile(r"([A-Z][A-Za-z0-9 /#-]*):\s*(.*)")
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
    has_own_journal: bool = True
    """Or none: the journal is not on another device."""

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
        has_own_journal="Journal device" not in fields,
    )


def check_clean(facts: ExtFacts, device: Path) -> None:
    """Raise SourceUnfit, with the command that helps, unless the filesystem is clean.

    One with its journal on another device is refused as well: we cannot look into that journal.
    """
    if not facts.has_own_journal:
        raise SourceUnfit(
            (f"the ext filesystem on {device} has its journal on another device",),
            hint="take the journal inside: "
            f"tune2fs -O ^has_journal {device} && tune2fs -j {device}",
        )
    if facts.is_clean:
        return
    left = [word for word in _NOT_REPLAYED if word in facts.features]
    state = ", ".join([*([] if facts.state == "clean" else [facts.state]), *left])
    raise SourceUnfit(
        (f"the ext filesystem on {device} was not shut down cleanly ({state})",),
        hint=f"start that system and shut it down cleanly, or run: e2fsck -f {device}",
    )


def _word(fields: Mapping[str, str], name: str) -> str:
    if name not in fields:
        raise AgentError(f"dumpe2fs says nothing of {name!r}: is this an ext filesystem?")
    return fields[name]


def _number(fields: Mapping[str, str], name: str) -> int:
    text = _word(fields, name)
    if not text.isdigit():
        raise AgentError(f"dumpe2fs gives {text[:40]!r} for {name!r}: expected a number")
    return int(text)
