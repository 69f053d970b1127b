"""Many runs of bytes in little memory: a map of a volume has millions."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

from agent.units import Extent


class Extents(Sequence[Extent]):
    """Runs that ascend and do not touch, 16 bytes each. Unchanging: iterate it as often as needed.

    Built from any runs that ascend; those that touch become one. Raises ValueError for others.
    """

    __slots__ = ("_numbers", "total_bytes")

    def __init__(self, runs: Iterable[Extent] = ()) -> None:
        pairs = ((run.offset, run.end) for run in runs)
        self._numbers, self.total_bytes = _joined(pairs)

    @classmethod
    def of_bounds(cls, bounds: Iterable[tuple[int, int]]) -> "Extents":
        """Return the runs that begin and end at `bounds`: (offset, end) each."""
        made = cls.__new__(cls)
        made._numbers, made.total_bytes = _joined(bounds)
        return made

    @classmethod
    def between(cls, bounds: Iterable[tuple[int, int]], size_bytes: int) -> "Extents":
        """Return what lies between the runs at `bounds`, which ascend, from 0 to `size_bytes`."""
        return cls.of_bounds(_gaps(bounds, size_bytes))

    def without(self, others: "Extents") -> "Extents":
        """Return what is in these runs and not in `others`."""
        return Extents.of_bounds(_cut(self.bounds(), others.bounds()))

    def bounds(self) -> Iterator[tuple[int, int]]:
        """Yield (offset, end) of each run: quicker than making an Extent of it."""
        numbers = iter(self._numbers)
        return zip(numbers, numbers, strict=True)

    def __len__(self) -> int:
        return len(self._numbers) // 2

    def __iter__(self) -> Iterator[Extent]:
        return (Extent(offset, end - offset) for offset, end in self.bounds())

    @overload
    def __getitem__(self, index: int) -> Extent: ...
    @overload
    def __getitem__(self, index: slice) -> "Extents": ...
    def __getitem__(self, index: int | slice) -> "Extent | Extents":
        if isinstance(index, slice):
            return Extents(self[number] for number in range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        at = index % len(self) * 2
        offset, end = self._numbers[at], self._numbers[at + 1]
        return Extent(offset, end - offset)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Extents) and self._numbers == other._numbers

    def __hash__(self) -> int:
        return hash((len(self), self.total_bytes))

    def __repr__(self) -> str:
        return f"Extents({len(self)} runs, {self.total_bytes} bytes)"


def _joined(bounds: Iterable[tuple[int, int]]) -> "tuple[array[int], int]":
    numbers = array("Q")
    total, last = 0, -1
    for offset, end in bounds:
        if offset < last or end <= offset:
            raise ValueError(f"runs do not ascend: {offset} to {end} after {last}")
        if offset == last:
            numbers[-1] = end
        else:
            numbers.append(offset)
            numbers.append(end)
        total += end - offset
        last = end
    return numbers, total


def _gaps(bounds: Iterable[tuple[int, int]], size_bytes: int) -> Iterator[tuple[int, int]]:
    at = 0
    for offset, end in bounds:
        if offset > at:
            yield at, offset
        at = max(at, end)
    if at < size_bytes:
        yield at, size_bytes


def _cut(
    bounds: Iterator[tuple[int, int]], others: Iterator[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    hole = next(others, None)
    for offset, end in bounds:
        while hole is not None and hole[1] <= offset:
            hole = next(others, None)
        at = offset
        while hole is not None and hole[0] < end:
            if hole[0] > at:
                yield at, hole[0]
            at = hole[1]
            if at >= end:
                break  # it may reach into the next run, too
            hole = next(others, None)
        if at < end:
            yield at, end
