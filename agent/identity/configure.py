"""Make a deployed system that machine's own: carry out the table, row by row."""

from agent.identity.table import TABLE
from agent.identity.values import Context, Deed, NetworkFiles, Touched
from agent.model.job import Identity
from agent.system.command import Runner
from agent.system.rooted import RootedTree

__all__ = ["Deed", "NetworkFiles", "Touched", "configure", "redaction_paths"]


def configure(
    run: Runner, tree: RootedTree, identity: Identity, network: NetworkFiles
) -> tuple[Touched, ...]:
    """Apply every row of the table to `tree`. Returns each file that was touched, in order.

    Every program that runs is ours; nothing of the template is executed.
    """
    context = Context(run, tree, identity, network)
    return tuple(touched for row in TABLE for touched in row.apply(context))


def redaction_paths(tree: RootedTree) -> tuple[str, ...]:
    """Return the regular files whose contents must not enter a template, sorted.

    Each is made anew or removed when the template is deployed.
    """
    found: set[str] = set()
    for row in TABLE:
        for pattern in row.redacted:
            found.update(tree.glob(pattern))
        for top in row.redacted_trees:
            found.update(_files_below(tree, top))
    return tuple(sorted(path for path in found if tree.kind(path) == "file"))


def _files_below(tree: RootedTree, top: str) -> list[str]:
    if tree.kind(top) != "directory":
        return []
    below = [f"{top}/{name}" for name in tree.names(top)]
    return [path for path in below if tree.kind(path) == "file"] + [
        found for path in below for found in _files_below(tree, path)
    ]
