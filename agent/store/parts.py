"""Bytes in several parts, sent one behind the other."""

from collections.abc import Iterator, Sequence


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
        left = list(self._parts)
        while left and size >= len(left[0]):
            size -= len(left.pop(0))
        if size and left:
            left[0] = left[0][size:]
        return Parts(left)
