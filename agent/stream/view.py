"""A volume of a template, to be read at any place: only the chunks that are read are fetched."""

import threading
from array import array
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

from agent.errors import AgentError, DiskError
from agent.model.template import CHUNK_BYTES, IndexEntry
from agent.store.digests import CHUNK_DIGESTS
from agent.store.template import Template
from agent.stream.fetch import ChunkRun, Lane
from agent.stream.progress import Stages
from agent.stream.pump import Pump
from agent.system.command import Runner
from agent.system.nbd import attached
from agent.units import MiB

CACHE_BYTES: Final = 64 * MiB
_LANES: Final = 4
_MOST_AHEAD: Final = 4
_WAKE_S: Final = 0.5
_DIGEST_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class ViewStatistics:
    """What reading has cost until now. `chunks` is how many with data the volume has."""

    chunks: int
    chunks_fetched: int
    bytes_fetched: int
    stage_seconds: dict[str, float]


class CompactIndex:
    """The chunks of a volume that hold data, about 60 bytes each and 16 for each extent.

    2 TiB are half a million chunks. What no entry names, and a chunk of zeros, reads as zeros.
    """

    def __init__(self, entries: Iterable[IndexEntry]) -> None:
        self._numbers = array("Q")
        self._packs = array("i")
        self._offsets = array("Q")
        self._stored = array("I")
        self._digests = bytearray()
        self._first = array("Q", [0])
        """By place: where the extents of this chunk begin in the two arrays below."""
        self._starts = array("Q")
        self._sizes = array("I")
        self._places = array("I")
        """Where in the chunk's content the extent begins."""
        for entry in entries:
            if entry.stored_digest is not None:
                self._add(entry, entry.stored_digest)

    def __len__(self) -> int:
        return len(self._numbers)

    def within(self, offset: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield (place of the chunk, in its content, offset, size) of what is used of a range."""
        extent = max(bisect_right(self._starts, offset) - 1, 0)
        while extent < len(self._starts) and self._starts[extent] < end:
            start = self._starts[extent]
            low, high = max(start, offset), min(start + self._sizes[extent], end)
            if low < high:
                place = bisect_right(self._first, extent) - 1
                yield place, self._places[extent] + low - start, low, high - low
            extent += 1

    def entry(self, place: int) -> IndexEntry:
        """Return the entry at `place`, without its content digest, which no reader needs."""
        runs = range(self._first[place], self._first[place + 1])
        digest = self._digests[place * _DIGEST_BYTES : (place + 1) * _DIGEST_BYTES]
        return IndexEntry(
            number=self._numbers[place],
            extents=tuple((self._starts[n], self._sizes[n]) for n in runs),
            pack=self._packs[place],
            offset=self._offsets[place],
            stored_bytes=self._stored[place],
            stored_digest=digest.hex(),
            content_digest="",
        )

    def _add(self, entry: IndexEntry, stored_digest: str) -> None:
        self._numbers.append(entry.number)
        self._packs.append(entry.pack)
        self._offsets.append(entry.offset)
        self._stored.append(entry.stored_bytes)
        self._digests += bytes.fromhex(stored_digest)
        at = 0
        for offset, size in entry.extents:
            self._starts.append(offset)
            self._sizes.append(size)
            self._places.append(at)
            at += size
        self._first.append(len(self._starts))


@dataclass(slots=True)
class _Wanted:
    """A chunk on its way. `error` is why it will not come."""

    number: int
    chunk: bytes | None = None
    error: AgentError | None = None
    is_done: bool = False


@dataclass(slots=True)
class _Counts:
    chunks: int = 0
    lanes: list[Lane] = field(default_factory=list)


@contextmanager
def volume_device(
    run: Runner, template: Template, volume_id: str, sector_bytes: int = 512
) -> Iterator[tuple["VolumeView", Path]]:
    """Yield a volume of a template and a read-only block device of it, until it is left.

    `sector_bytes` is the source disk's logical sector: XFS and vfat refuse a larger one. The first
    chunk that could not be had is raised at the end; see `agent.system.nbd.attached`.
    """
    with (
        VolumeView(template, volume_id) as view,
        attached(run, view.size_bytes, sector_bytes, view.read, cancel=view.cancel) as device,
    ):
        yield view, device


class VolumeView:
    """One volume's bytes. Any thread may read; a few lanes fetch, verify and unpack.

    A context manager, to be read inside only: on leaving it, the lanes have ended. `cancel` ends
    reads that wait, at once.
    Memory: `cache_bytes` of chunks, 8 MiB a lane, and the compact index.
    """

    def __init__(
        self,
        template: Template,
        volume_id: str,
        *,
        cache_bytes: int = CACHE_BYTES,
        lanes: int = _LANES,
    ) -> None:
        """Fetch the index. Raises TemplateError, ServerError."""
        head, entries = template.entries(volume_id)
        self.volume_id = volume_id
        self.size_bytes = head.volume_bytes
        self._template = template
        self._digest = CHUNK_DIGESTS[head.content_digest]
        self._index = CompactIndex(entries)
        self._packs = template.data_of(volume_id).packs
        self._cache_bytes = cache_bytes
        self._lanes = lanes
        self._cached: OrderedDict[int, bytes] = OrderedDict()
        self._held = 0
        self._coming: dict[int, _Wanted] = {}
        self._queue: deque[_Wanted] = deque()
        self._changed = threading.Condition()
        self._read: OrderedDict[int, int] = OrderedDict()
        """Chunks read lately, and how far ahead of each was fetched."""
        self._counts = _Counts()
        self._stages = Stages()
        self._pump = Pump()
        self._keeper: threading.Thread | None = None

    def __enter__(self) -> "VolumeView":
        for number in range(self._lanes):
            self._pump.start(f"view-{number}", self._lane)
        # It looks after the pace of the lanes' connections; errors of theirs reach the readers.
        self._keeper = threading.Thread(target=self._keep, name="view-pace", daemon=True)
        self._keeper.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()
        if self._keeper is not None:
            self._keeper.join()
        self._cached.clear()
        self._pump.finish()  # a lane fails only by a mistake of ours: that is never hidden

    def cancel(self) -> None:
        """End every read, those that wait included: they raise DiskError."""
        self._pump.stop()
        with self._changed:
            self._changed.notify_all()

    @property
    def statistics(self) -> ViewStatistics:
        with self._changed:
            fetched = sum(lane.fetched_bytes for lane in self._counts.lanes)
            chunks = self._counts.chunks
        return ViewStatistics(len(self._index), chunks, fetched, self._stages.seconds)

    def read(self, offset: int, size: int) -> bytearray:
        """Return `size` bytes of the volume from `offset` on; zeros where nothing is used.

        Raises ChunkCorrupt (which chunk, which pack, where), ServerError, TemplateError, and
        DiskError when the view was closed; ValueError beyond the end.
        """
        if offset < 0 or size < 0 or offset + size > self.size_bytes:
            raise ValueError(f"{offset}+{size} is outside of {self.size_bytes} bytes")
        data = bytearray(size)
        for place, at, start, length in self._index.within(offset, offset + size):
            content = self._chunk(place)
            data[start - offset : start - offset + length] = content[at : at + length]
        return data

    def _chunk(self, place: int) -> bytes:
        """Return a chunk with data, once it is there."""
        with self._changed:
            self._fetch_ahead(place)
            if (found := self._cached.get(place)) is not None:
                self._cached.move_to_end(place)
                return found
            wanted = self._want(place, is_urgent=True)
            while not wanted.is_done:
                if self._pump.is_stopping:
                    raise DiskError(f"the view of {self.volume_id} was closed")
                self._changed.wait(_WAKE_S)
        if wanted.error is not None:
            raise wanted.error
        assert wanted.chunk is not None
        return wanted.chunk

    def _fetch_ahead(self, place: int) -> None:
        """Ask for the next chunks if reading came here from the chunk before. With the lock."""
        if place in self._read:
            return
        before = self._read.get(place - 1)
        ahead = 0 if before is None else min(before * 2 or 1, _MOST_AHEAD)
        self._read[place] = ahead
        if len(self._read) > 256:
            self._read.popitem(last=False)
        room = self._cache_bytes // (2 * CHUNK_BYTES)
        for following in range(place + 1, min(place + 1 + min(ahead, room), len(self._index))):
            self._want(following, is_urgent=False)

    def _want(self, place: int, *, is_urgent: bool) -> _Wanted:
        """Return the chunk that is on its way, or put it there. With the lock."""
        wanted = self._coming.get(place)
        if wanted is not None:
            if is_urgent and wanted in self._queue:
                self._queue.remove(wanted)
                self._queue.appendleft(wanted)
            return wanted
        wanted = _Wanted(place)
        if (found := self._cached.get(place)) is not None:
            wanted.chunk, wanted.is_done = found, True
            return wanted
        self._coming[place] = wanted
        if is_urgent:
            self._queue.appendleft(wanted)
        else:
            self._queue.append(wanted)
        self._changed.notify_all()
        return wanted

    def _lane(self) -> None:
        """Fetch what is wanted until the view is closed."""
        lane = Lane(self._template.client, self._digest, self._stages, self._pump)
        with self._changed:
            self._counts.lanes.append(lane)
        while True:
            with self._changed:
                while not self._queue:
                    self._pump.check()
                    self._changed.wait(_WAKE_S)
                self._pump.check()
                wanted = self._queue.popleft()
            try:
                wanted.chunk = self._fetched(lane, self._index.entry(wanted.number))
            except AgentError as error:
                wanted.error = error
            with self._changed:
                self._settle(wanted)

    def _fetched(self, lane: Lane, entry: IndexEntry) -> bytes:
        run = ChunkRun(self._packs[entry.pack], (entry,))
        content = b""
        for _, found in lane.contents(run):
            content = bytes(found)
        return content

    def _settle(self, wanted: _Wanted) -> None:
        """Give the chunk to those who wait for it, and keep it. With the lock."""
        wanted.is_done = True
        self._coming.pop(wanted.number, None)
        if wanted.chunk is not None:
            self._counts.chunks += 1
            self._cached[wanted.number] = wanted.chunk
            self._held += len(wanted.chunk)
            while self._held > self._cache_bytes and len(self._cached) > 1:
                _, old = self._cached.popitem(last=False)
                self._held -= len(old)
        self._changed.notify_all()

    def _keep(self) -> None:
        try:
            self._pump.wait(lambda: None)
        except BaseException:  # it is raised again when the view is left
            with self._changed:
                self._changed.notify_all()
