"""What is captured, cut into chunks: pure values, in the order of the volume."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.errors import AgentError
from agent.model.layout import Volume
from agent.model.template import CHUNK_BYTES
from agent.stream.blocks import overlap
from agent.units import Extent


@dataclass(frozen=True, slots=True)
class VolumeSource:
    """A volume to capture: its data is on `device`, from `offset_bytes` on.

    `used` (ascending, relative to the volume, iterated more than once) says what is stored;
    `blank` is stored as zeros instead of what is there: files of one machine only. `zeros`
    (ascending) is known to be zeros: chunks that have nothing else are not read.
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
    """Yield the chunks that the used extents of `source` touch, in order.

    Raises AgentError unless the extents ascend and lie inside the volume. Those that touch
    become one.
    """
    blanks: dict[int, list[Extent]] = {}
    for blank in source.blank:
        for number in range(blank.offset // CHUNK_BYTES, (blank.end - 1) // CHUNK_BYTES + 1):
            blanks.setdefault(number, []).append(blank)
    zeros = _Within(source.zeros)

    def chunk() -> Chunk:
        return Chunk(number, tuple(runs), tuple(blanks.get(number, ())), zeros.hold(runs))

    number = -1
    runs: list[Extent] = []
    for piece in _pieces(source):
        if piece.offset // CHUNK_BYTES != number:
            if runs:
                yield chunk()
            number, runs = piece.offset // CHUNK_BYTES, []
        if runs and runs[-1].end == piece.offset:
            runs[-1] = Extent(runs[-1].offset, runs[-1].size + piece.size)
        else:
            runs.append(piece)
    if runs:
        yield chunk()


class _Within:
    """Tells whether runs lie inside others, both asked for in ascending order."""

    def __init__(self, others: Iterable[Extent]) -> None:
        self._others = iter(others)
        self._at = next(self._others, None)

    def hold(self, runs: Iterable[Extent]) -> bool:
        """Return whether each of `runs` is inside one of the others."""
        return all(map(self._holds, runs))

    def _holds(self, run: Extent) -> bool:
        while self._at is not None and self._at.end <= run.offset:
            self._at = next(self._others, None)
        return self._at is not None and self._at.offset <= run.offset and run.end <= self._at.end


def count_chunks(source: VolumeSource) -> int:
    """Return how many chunks the used extents of `source` touch. They must ascend."""
    count, last = 0, -1
    for run in source.used:
        first, end = run.offset // CHUNK_BYTES, (run.end - 1) // CHUNK_BYTES
        count += end - max(first, last + 1) + 1
        last = end
    return count


def _pieces(source: VolumeSource) -> Iterator[Extent]:
    """Yield the used extents, cut where a chunk ends."""
    before = 0
    for run in source.used:
        if run.offset < before or run.end > source.volume.size_bytes:
            raise AgentError(
                f"the used extents of {source.volume.id} are not in order, or not inside it: "
                f"{run.offset}+{run.size}"
            )
        before = run.end
        offset = run.offset
        while offset < run.end:
            end = min(run.end, (offset // CHUNK_BYTES + 1) * CHUNK_BYTES)
            yield Extent(offset, end - offset)
            offset = end
