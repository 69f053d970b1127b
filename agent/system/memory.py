"""The memory of this process."""

import ctypes
import os
from typing import Final

from agent.units import MiB

_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8
_FEW: Final = 4


def give_back_memory(cores: int | None = None) -> None:
    """Have what is freed go back to the system (mallopt(3)); `cores`, if not this machine's, are
    as many as there are threads at work.

    All share one heap. What is as large as a chunk is kept out of it if they are many: glibc puts
    it there once the first was freed, where holes stay, 40 MiB at the peak of a capture by eight.
    Few may keep the holes: memory that is given back costs page faults, 8 % of a capture's time.
    """
    cores = len(os.sched_getaffinity(0)) if cores is None else cores
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_ARENA_MAX, 1)
    if cores > _FEW:
        mallopt(_MMAP_THRESHOLD, MiB)
