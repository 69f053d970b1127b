"""What a template lost on its source, in words: for refusals and for the pages of plans. Pure."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final

from agent.model.template import Hole
from agent.units import format_bytes

DAMAGE_CONSENT: Final = "damage"
_SHOWN: Final = 4


def damage_lines(holes: Sequence[Hole]) -> Iterator[str]:
    """Yield what each volume lost: `root: 8.0 KiB in 2 runs could not be read …`."""
    for volume, found in groupby(sorted(holes, key=_place), lambda hole: hole.volume):
        runs = tuple(found)
        size = format_bytes(sum(run.size for run in runs))
        where = ", ".join(str(run.offset) for run in runs[:_SHOWN])
        more = f" and {len(runs) - _SHOWN} more" if len(runs) > _SHOWN else ""
        count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
        yield (
            f"{volume}: {size} in {count} could not be read on the source and are zeros, "
            f"at {where}{more}"
        )


def damage_facts(holes: Sequence[Hole]) -> dict[str, Any]:
    """Return what the result of a capture, and of a deployment, says of it."""
    return {"damage": list(damage_lines(holes)), "lost_bytes": sum(hole.size for hole in holes)}


def _place(hole: Hole) -> tuple[str, int]:
    return hole.volume, hole.offset
