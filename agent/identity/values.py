"""What the identity table works with, and what it reports."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from agent.model.job import Identity
from agent.model.template import NetworkStack
from agent.network.stale import KEPT, stale_paths
from agent.network.tree import File, RenderedTree
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
    """Rendered network files by path, and patterns of those that would contradict them."""

    files: Mapping[str, File] = field(default_factory=dict)
    stale: tuple[str, ...] = ()
    kept: frozenset[str] = frozenset()
    """Files that stay although a pattern of `stale` names them."""
    needs: tuple[tuple[str, str], ...] = ()
    """Paths that the system must hold for the files to work, each with the reason."""

    @classmethod
    def of(cls, rendered: RenderedTree, stack: NetworkStack) -> "NetworkFiles":
        return cls(rendered.files, stale_paths(stack), KEPT, rendered.needs)


@dataclass(frozen=True, slots=True)
class Context:
    """One system that is about to become a machine's own."""

    run: Runner
    tree: RootedTree
    identity: Identity
    network: NetworkFiles
    random: Callable[[int], bytes] = os.urandom
