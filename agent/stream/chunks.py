"""What is captured, cut into chunks: pure values, in the order of the volume."""

from collections.abc import Iterator, Sequence
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
    `blank` is stored as zeros instead of what is there: files of one machine only.
    """

    volume: Volume
    device: Path
    offset_bytes: int
    used: Sequence[Extent]
    blank: tuple[Extent, ...] = ()
    serial: str | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is to be read for one chunk."""

    number: int
    extents: tuple[Extent, ...]
    blank: tuple[Extent, ...] = ()

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
    number = -1
    runs: list[Extent] = []
    for piece in _pieces(source):
        if piece.offset // CHUNK_BYTES != number:
            if runs:
                yield Chunk(number, tuple(runs), tuple(blanks.get(number, ())))
            number, runs = piece.offset // CHUNK_BYTES, []
        if runs and runs[-1].end == piece.offset:
            runs[-1] = Extent(runs[-1].offset, runs[-1].size + piece.size)
        else:
            runs.append(piece)
    if runs:
        yield Chunk(number, tuple(runs), tuple(blanks.get(number, ())))


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
