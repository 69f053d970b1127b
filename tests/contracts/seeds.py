"""One seed for a run of the fault tests, and how many faults it tried: both shown at its end.

METALCAST_SEED gives the seed back: the same faults at the same places.
"""

import os
import random
from collections import Counter
from typing import Final

SEED: Final = int(os.environ.get("METALCAST_SEED") or random.SystemRandom().randrange(2**32))
_TRIED: Final[Counter[str]] = Counter()


def draw(*more: object) -> random.Random:
    """Return dice that fall the same for the same seed and words."""
    print(f"METALCAST_SEED={SEED}")
    return random.Random(f"{SEED} {more}")


def tried(cases: int, what: str) -> None:
    """Count faults that a test has been through."""
    _TRIED[what] += cases
    print(f"{cases} {what}")


def summary() -> str | None:
    """Return what to say of the run; None if it had no such tests."""
    if not _TRIED:
        return None
    words = ", ".join(f"{count} {what}" for what, count in sorted(_TRIED.items()))
    return f"{_TRIED.total()} faults (METALCAST_SEED={SEED}): {words}"
