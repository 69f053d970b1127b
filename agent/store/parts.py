"""Bytes in several parts, written or sent one behind the other."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T", bytes, memoryview)


def behind(parts: Sequence[T], size: int) -> list[T]:
    """Return what is left of `parts` without their first `size` bytes."""
    left = list(parts)
    while left and size >= len(left[0]):
        size -= len(left.pop(0))
    if size and left:
        left[0] = left[0][size:]
    return left


class Parts:
    """As long as all `parts` together, and never joined: a copy would hold Python's lock.

    What requests takes as a body whose length it knows.
    """

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._parts = parts
        self._size = sum(map(len, parts))

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._parts)

    def behind(self, size: int) -> "Parts":
        """Return what is left without the first `size` bytes."""
        return Parts(behind(self._parts, size))
