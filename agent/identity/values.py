"""What the identity table works with, and what it reports."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from agent.model.job import Identity
from agent.system.command import Runner
from agent.system.rooted import RootedTree


class Deed(StrEnum):
    WRITTEN = "written"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True, order=True)
class Touched:
    """One file that became this machine's own, or went."""

    path: str
    deed: Deed
    item: str
    """The row of the table: `hostname`, `SSH host keys`."""


@dataclass(frozen=True, slots=True)
class NetworkFiles:
    """Rendered network files by path, and those that would stand beside them and must go."""

    files: Mapping[str, str] = field(default_factory=dict)
    stale: tuple[str, ...] = ()
    modes: Mapping[str, int] = field(default_factory=dict)
    """Only where it is not 0644: keyfiles are 0600."""


@dataclass(frozen=True, slots=True)
class Context:
    """One system that is about to become a machine's own."""

    run: Runner
    tree: RootedTree
    identity: Identity
    network: NetworkFiles
    random: Callable[[int], bytes] = os.urandom
