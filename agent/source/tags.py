"""libblkid's opinion of what a device holds."""

from pathlib import Path
from typing import Final

from agent.system.command import Runner

_UNCLEAR: Final = 8


def probe_tags(run: Runner, device: Path) -> dict[str, str]:
    """Return libblkid's tags of a device: TYPE, UUID, LABEL, PTTYPE; empty if it knows nothing.

    TYPE is `ambiguous` where several signatures contradict each other.
    """
    answer = run(
        ["blkid", "--probe", "--output=export", device],
        ok=(0, 2, _UNCLEAR),
    )
    if answer.status == _UNCLEAR:
        return {"TYPE": "ambiguous"}
    return dict(line.split("=", 1) for line in answer.text.splitlines() if "=" in line)
