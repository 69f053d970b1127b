"""Chunks out of packs: runs of neighbours over one connection, each verified, then unpacked."""

import mmap
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from agent.errors import ChunkCorrupt
from agent.model.template import CHUNK_BYTES, Descriptor, IndexEntry
from agent.store.digests import ChunkDigest
from agent.store.pack import MAX_STORED_BYTES, Decoder
from agent.store.retry import Retry, Transient, Tries
from agent.store.source import BlobSource, RangeBody
from agent.store.template import VolumeBlobs
from agent.stream.progress import Stages
from agent.stream.pump import Pump
from agent.system import block
from agent.units import Extent, MiB, align_up

RUN_BYTES: Final = 64 * MiB
_RUN_CHUNKS: Final = 64
_SHORT_RUN_CHUNKS: Final = 4
_MOST_LANES: Final = 12
_CONTENT_BYTES: Final = 72 * MiB
"""What the buffers of all lanes may take together."""
_BATCH_BYTES: Final = 16 * MiB


@dataclass(frozen=True, slots=True)
class ChunkRun:
    """Neighbouring chunks of one pack, or chunks of zeros (`pack` is None)."""

    pack: Descriptor | None
    entries: tuple[IndexEntry, ...]

    def parts(self, wanted: Callable[[IndexEntry], bool]) -> tuple["ChunkRun", ...]:
        """Return the runs that are left when only the `wanted` chunks are kept."""
        groups = groupby(self.entries, wanted)
        return tuple(ChunkRun(self.pack, tuple(group)) for is_wanted, group in groups if is_wanted)


def in_runs(
    entries: Iterable[IndexEntry], blobs: VolumeBlobs, *, count: int, lanes: int
) -> Iterator[ChunkRun]:
    """Group `entries`, in the order of an index, into runs that one request can fetch.

    A request costs as much Python as several chunks, so runs are long; the `lanes` should end
    together, so they get shorter towards the last of the `count` entries.
    """
    waiting: list[IndexEntry] = []
    zeros: list[IndexEntry] = []
    for place, entry in enumerate(entries):
        most = _longest(count - place, lanes)
        if entry.pack < 0:
            if len(zeros) >= most:
                yield ChunkRun(None, tuple(zeros))
                zeros = []
            zeros.append(entry)
            continue
        if waiting and (len(waiting) >= most or not _joins(waiting, entry)):
            yield ChunkRun(blobs.packs[waiting[0].pack], tuple(waiting))
            waiting = []
        waiting.append(entry)
    if waiting:
        yield ChunkRun(blobs.packs[waiting[0].pack], tuple(waiting))
    if zeros:
        yield ChunkRun(None, tuple(zeros))


def _longest(left: int, lanes: int) -> int:
    """Return how many chunks a run may have when `left` are to be shared out."""
    return min(max(left // (2 * lanes), _SHORT_RUN_CHUNKS), _RUN_CHUNKS)


def _joins(waiting: list[IndexEntry], entry: IndexEntry) -> bool:
    first, last = waiting[0], waiting[-1]
    return (
        entry.pack == last.pack
        and entry.offset == last.offset + last.stored_bytes
        and entry.offset + entry.stored_bytes - first.offset <= RUN_BYTES
    )


def default_lanes() -> int:
    """Return how many threads, each with its buffers, keep this machine busy.

    While two wait for the disk or the network, there is one for each core.
    """
    return min(len(os.sched_getaffinity(0)) + 2, _MOST_LANES)


def batch_bytes(lanes: int) -> int:
    """Return how much content each of `lanes` may gather before it writes: whole chunks."""
    fair = min(_CONTENT_BYTES // lanes, _BATCH_BYTES)
    return max(fair // CHUNK_BYTES, 1) * CHUNK_BYTES


def extents_of(entry: IndexEntry) -> tuple[Extent, ...]:
    return tuple(Extent(offset, size) for offset, size in entry.extents)


class Lane:
    """One connection and its buffers: gives the content of stored chunks. For one thread."""

    def __init__(
        self,
        client: BlobSource,
        digest: ChunkDigest,
        stages: Stages,
        pump: Pump,
        room_bytes: int = CHUNK_BYTES,
    ) -> None:
        """`room_bytes`, at least CHUNK_BYTES, is for the content of a batch."""
        self._client = client
        self._digest = digest
        self._stages = stages
        self._pump = pump
        self._retry = Retry(
            attempts=client.retry.attempts,
            first_s=client.retry.first_s,
            longest_s=client.retry.longest_s,
            sleep=pump.pause,
        )
        self._decoder = Decoder()
        self._stored = memoryview(bytearray(MAX_STORED_BYTES))
        self.buffer = memoryview(block.aligned_buffer(room_bytes))
        """Holds the content that was given last. Between two runs, others may use it."""
        self._place = 0  # of the next content in the buffer
        self.fetched_bytes = 0

    def batches(self, run: ChunkRun) -> Iterator[list[tuple[IndexEntry, memoryview]]]:
        """Yield the chunks of `run` with their contents, as many at once as there is room for.

        They are good until the next are asked for.
        """
        batch: list[tuple[IndexEntry, memoryview]] = []
        for entry, content in self.contents(run):
            batch.append((entry, content))
            self._place = align_up(self._place + len(content), mmap.PAGESIZE)
            if self._place + CHUNK_BYTES > len(self.buffer):
                yield batch
                batch, self._place = [], 0
        if batch:
            yield batch

    def contents(self, run: ChunkRun) -> Iterator[tuple[IndexEntry, memoryview]]:
        """Yield each chunk of `run` with its content, good until the next is asked for.

        A cut costs the chunk that was on its way. A damaged chunk is fetched once more, from
        the next source if there are several, before ChunkCorrupt names it.
        """
        assert run.pack is not None
        self._place = 0
        tries = Tries(self._retry)
        at, again = 0, False
        while at < len(run.entries):
            try:
                with (
                    self._open(run.pack, run.entries[at:]) as body,
                    self._pump.waking(body.wake, body.check_pace),
                ):
                    while at < len(run.entries):
                        entry = run.entries[at]
                        content = self._chunk(body, entry)
                        tries.progress()
                        yield entry, content
                        at, again = at + 1, False
            except Transient as error:
                self._pump.check()
                tries.failed(error)
            except ChunkCorrupt as error:
                if self._client.blame(body, error):
                    continue  # another source has it
                if again:
                    entry = run.entries[at]
                    raise ChunkCorrupt(
                        f"chunk {entry.number} ({_short(entry)}) in pack {run.pack.digest[:19]} "
                        f"at {self._client.url} {error}",
                        hint="the template is damaged on the server, or on the way",
                    ) from error
                again = True

    def _open(self, pack: Descriptor, entries: tuple[IndexEntry, ...]) -> RangeBody:
        self._pump.check()
        first, last = entries[0], entries[-1]
        size = last.offset + last.stored_bytes - first.offset
        with self._stages.timed("fetch"):
            return self._client.open_range(pack.digest, first.offset, size, pack.size)

    def _chunk(self, body: RangeBody, entry: IndexEntry) -> memoryview:
        stored = self._stored[: entry.stored_bytes]
        self._pump.check()
        started = time.monotonic()
        body.fill(stored)
        self.fetched_bytes += len(stored)
        fetched = time.monotonic()
        if self._digest(stored) != entry.stored_digest:
            raise ChunkCorrupt("does not have the digest that the index gives")
        verified = time.monotonic()
        content = self.buffer[self._place : self._place + entry.content_bytes]
        self._decoder.decode(stored, content)
        self._stages.add(
            fetch=fetched - started,
            verify=verified - fetched,
            decode=time.monotonic() - verified,
        )
        return content


def _short(entry: IndexEntry) -> str:
    return (entry.stored_digest or "")[:12]
