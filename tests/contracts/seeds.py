"""One seed for a run of the fault tests: printed, and given back by METALCAST_SEED."""

import os
import random
from typing import Final

SEED: Final = int(os.environ.get("METALCAST_SEED") or random.SystemRandom().randrange(2**32))


def draw(*more: object) -> random.Random:
    """Return dice that fall the same for the same seed and words."""
    print(f"METALCAST_SEED={SEED}")
    return random.Random(f"{SEED} {more}")
