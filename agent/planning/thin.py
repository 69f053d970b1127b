"""Thin pools that cannot hold all that their volumes may ask for. Said, never refused. Pure."""

from collections.abc import Iterator

from agent.model.layout import Layout
from agent.model.nodes import LogicalVolume, LvKind, VolumeGroup
from agent.units import format_bytes


def promised_bytes(layout: Layout, pool: LogicalVolume) -> int:
    """Return what the thin volumes of `pool` may take together."""
    return sum(
        node.size_bytes
        for node in layout.nodes
        if isinstance(node, LogicalVolume) and node.lv is LvKind.THIN and node.pool == pool.id
    )


def overcommitted(layout: Layout) -> Iterator[str]:
    """Yield a sentence with the figures for each such pool."""
    for node in layout.nodes:
        if not isinstance(node, LogicalVolume):
            continue
        promised = promised_bytes(layout, node)
        if promised > node.size_bytes:
            group = layout.node(node.on)
            assert isinstance(group, VolumeGroup)
            yield (
                f"the thin volumes of {group.name}/{node.name} may take {format_bytes(promised)}, "
                f"the pool has {format_bytes(node.size_bytes)}: it can fill before they do"
            )
