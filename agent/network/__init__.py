"""Network intent to files, as strings: pure, but for reading our own templates.

`render_network` gives the files, `is_stale` says what has to go first.
"""

from agent.network.names import missing_cards
from agent.network.render import default_network, intended_network, render_network
from agent.network.stale import is_stale, stale_paths
from agent.network.tree import File, RenderedTree

__all__ = [
    "File",
    "RenderedTree",
    "default_network",
    "intended_network",
    "is_stale",
    "missing_cards",
    "render_network",
    "stale_paths",
]
