"""libblkid's opinion of what a device holds."""

from pathlib import Path
from typing import Final

from agent.system import block
from agent.system.command import Runner
from agent.system.libblkid import find_all
from agent.units import Extent

_NOTHING: Final = 2
_UNCLEAR: Final = 8


def probe_tags(run: Runner, device: Path) -> dict[str, str]:
    """Return libblkid's tags of a device: TYPE, UUID, LABEL, PTTYPE; empty if it knows nothing.

    TYPE is `ambiguous` where several signatures contradict each other.
    """
    answer = run(
        ["blkid", "--probe", "--output=export", device],
        ok=(0, _NOTHING, _UNCLEAR),
    )
    if answer.status == _UNCLEAR or (answer.status == _NOTHING and _holds_any(device)):
        return {"TYPE": "ambiguous"}
    return dict(line.split("=", 1) for line in answer.text.splitlines() if "=" in line)


def _holds_any(device: Path) -> bool:
    """Return whether there is something, though blkid(8) of util-linux 2.41 says nothing."""
    return bool(find_all(device, Extent(0, block.size_bytes(device))))
