"""The memory of this process."""

import ctypes
from typing import Final

_ARENA_MAX: Final = -8


def use_one_arena() -> None:
    """Let all threads share one heap: 8 to 14 MiB less at a capture's peak (mallopt(3))."""
    ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)
