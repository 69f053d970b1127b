"""mdadm.conf(5) for another layout. Pure."""

from agent.identity.boot.names import array_device
from agent.model.layout import Layout
from agent.model.nodes import Array, MdMetadata


def render_mdadm_conf(text: str, layout: Layout) -> str:
    """Return `text` with one ARRAY line for each array of `layout`, in place of all it had.

    A line that begins with a space goes on with the one before it, and goes with it. IMSM arrays
    are left to mdadm's own scan: their containers have names of their own.
    """
    lines: list[str] = []
    dropping = False
    for line in text.splitlines():
        if line[:1] not in (" ", "\t"):
            dropping = line.split("#")[0].strip().lower().startswith("array")
        if not dropping:
            lines.append(line)
    arrays = [node for node in layout.nodes if isinstance(node, Array)]
    lines += [_line(array) for array in arrays if array.metadata is not MdMetadata.IMSM]
    return "\n".join(lines) + "\n" if lines else ""


def _line(array: Array) -> str:
    return f"ARRAY {array_device(array)} metadata={array.metadata} UUID={array.uuid}"
