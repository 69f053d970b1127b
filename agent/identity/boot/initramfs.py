"""What the initramfs is told of swap, in files of its own. Pure."""

from agent.identity.boot.names import best_spec
from agent.model.layout import Layout, Swap


def render_resume(layout: Layout) -> str:
    """Return /etc/initramfs-tools/conf.d/resume: where a hibernated system would lie."""
    swap = next((one for one in layout.volumes if isinstance(one.content, Swap)), None)
    return f"RESUME={best_spec(layout, swap) if swap else 'none'}\n"
