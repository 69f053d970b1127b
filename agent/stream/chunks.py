"""What is captured, cut into chunks: pure values, in the order of the volume."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.errors import AgentError
from agent.model.layout import Volume
from agent.model.template import CHUNK_BYTES, ZEROS_ALIGNMENT
from agent.stream.blocks import overlap
from agent.units import Extent, MiB, align_down, align_up

_MOST_RUNS: Final = 256
"""In a chunk of more than one window, so that its line of the index stays short."""
_MOST_ZEROS_BYTES: Final = 256 * MiB
"""The same for zeros: a disk that has no quick way to write them tells how far it is."""
SPAN_LEVELS = 14
"""The largest span is of 2^14 windows, 64 GiB. What wants many small chunks sets it to 0."""


@dataclass(frozen=True, slots=True)
class VolumeSource:
    """A volume to capture: its data is on `device`, from `offset_bytes` on.

    `used` (ascending, relative to the volume, iterated more than once) says what is stored;
    `blank` is stored as zeros instead of what is there: files of one machine only. `zeros`
    (ascending) is known to be zeros: whole pages of them are not read.
    """

    volume: Volume
    device: Path
    offset_bytes: int
    used: Sequence[Extent]
    blank: tuple[Extent, ...] = ()
    serial: str | None = None
    zeros: Sequence[Extent] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is to be read for one chunk."""

    number: int
    extents: tuple[Extent, ...]
    blank: tuple[Extent, ...] = ()
    is_zeros: bool = False
    """Known without reading it."""

    @property
    def size(self) -> int:
        return sum(run.size for run in self.extents)

    def make_blank(self, content: memoryview) -> None:
        """Zero the blank parts of the chunk's content."""
        for hole in self.blank:
            at = 0
            for run in self.extents:
                if common := overlap(run, hole):
                    start = at + common.offset - run.offset
                    content[start : start + common.size] = bytes(common.size)
                at += run.size


def chunks_of(source: VolumeSource) -> Iterator[Chunk]:
    """Yield the chunks that the used extents of `source` make, in order.

    A window of 4 MiB makes one of what is read of it, and one of its known zeros. Where little is
    used, the windows of an aligned span of 8 MiB, 16 MiB, … have theirs in common: the largest
    spans for which that is possible, so what changes in one place leaves the chunks of others as
    they were. Raises AgentError unless the extents ascend and lie inside the volume.
    """
    blanks = sorted(source.blank)
    for span in _spans(source):
        if span.data:
            extents = tuple(_extents(span.data))
            first, end = extents[0].offset, extents[-1].end
            while blanks and blanks[0].end <= first:
                del blanks[0]
            blank = tuple(one for one in blanks if one.offset < end)
            yield Chunk(span.first, extents, blank)
        if span.zeros:
            yield Chunk(span.first, tuple(_extents(span.zeros)), is_zeros=True)


def count_chunks(source: VolumeSource) -> int:
    """Return how many chunks `chunks_of` yields. Raises AgentError as it does."""
    return sum(bool(span.data) + bool(span.zeros) for span in _spans(source))


@dataclass(slots=True)
class _Span:
    """Neighbouring windows, from number `first` to `last`, that have their chunks in common.

    Their runs are (offset, end).
    """

    first: int
    last: int
    data: list[tuple[int, int]] = field(default_factory=list)
    zeros: list[tuple[int, int]] = field(default_factory=list)
    data_bytes: int = 0
    zeros_bytes: int = 0

    def level(self, other: "_Span") -> int:
        """Return which power of two windows the smallest aligned span has that holds both."""
        return (self.first ^ other.last).bit_length()

    def fits(self, other: "_Span") -> bool:
        """Return whether both together are not too much."""
        return (
            self.data_bytes + other.data_bytes <= CHUNK_BYTES
            and self.zeros_bytes + other.zeros_bytes <= _MOST_ZEROS_BYTES
            and len(self.data) + len(self.zeros) + len(other.data) + len(other.zeros) <= _MOST_RUNS
        )

    def take(self, other: "_Span") -> None:
        _extend(self.data, other.data)
        _extend(self.zeros, other.zeros)
        self.last = other.last
        self.data_bytes += other.data_bytes
        self.zeros_bytes += other.zeros_bytes


def _spans(source: VolumeSource) -> Iterator[_Span]:
    """Yield the largest aligned spans whose contents are small enough, in order."""
    waiting: list[_Span] = []
    """Each may yet have its chunks in common with the one before it."""
    begun = 0  # windows below this have their chunks

    def settle(until: _Span | None) -> Iterator[_Span]:
        """Join what waits in spans that end before `until`, or yield all that waits."""
        nonlocal begun
        while len(waiting) > 1:
            level = waiting[-2].level(waiting[-1])
            if until and waiting[-1].level(until) <= level:
                return
            whole = waiting[-2].first >> level << level
            if level > SPAN_LEVELS or whole < begun or not waiting[-2].fits(waiting[-1]):
                break
            one = waiting.pop()
            waiting[-1].take(one)
        else:
            if until and waiting and waiting[0].level(until) <= SPAN_LEVELS:
                return
        for span in waiting:
            begun = span.last + 1
            yield span
        waiting.clear()

    for window in _windows(source):
        yield from settle(window)
        waiting.append(window)
    yield from settle(None)


def _windows(source: VolumeSource) -> Iterator[_Span]:
    """Yield what is used of each window of 4 MiB, if anything is."""
    span: _Span | None = None
    for offset, end, is_zeros in _pieces(source):
        at = offset
        while at < end:
            number = at // CHUNK_BYTES
            stop = min(end, (number + 1) * CHUNK_BYTES)
            if span is None or span.first != number:
                if span:
                    yield span
                span = _Span(number, number)
            if is_zeros:
                _extend(span.zeros, [(at, stop)])
                span.zeros_bytes += stop - at
            else:
                _extend(span.data, [(at, stop)])
                span.data_bytes += stop - at
            at = stop
    if span:
        yield span


def _extend(runs: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    """Add runs that follow; those that touch become one."""
    if runs and others and runs[-1][1] == others[0][0]:
        runs[-1] = runs[-1][0], others[0][1]
        runs += others[1:]
    else:
        runs += others


def _extents(runs: list[tuple[int, int]]) -> Iterator[Extent]:
    return (Extent(offset, end - offset) for offset, end in runs)


def _pieces(source: VolumeSource) -> Iterator[tuple[int, int, bool]]:
    """Yield the used extents as (offset, end, whether it is known zeros)."""
    zeros = iter(source.zeros)
    hole = next(zeros, None)
    before = 0
    for run in source.used:
        if run.offset < before or run.end > source.volume.size_bytes:
            raise AgentError(
                f"the used extents of {source.volume.id} are not in order, or not inside it: "
                f"{run.offset}+{run.size}"
            )
        at, before = run.offset, run.end
        while hole and hole.offset < run.end:
            start = align_up(max(hole.offset, at), ZEROS_ALIGNMENT)
            end = align_down(min(hole.end, run.end), ZEROS_ALIGNMENT)
            if start < end:
                if at < start:
                    yield at, start, False
                yield start, end, True
                at = end
            if hole.end > run.end:
                break  # it reaches into the next run, too
            hole = next(zeros, None)
        if at < run.end:
            yield at, run.end, False
