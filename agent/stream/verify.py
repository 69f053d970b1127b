"""Read back what a restore wrote, past every cache, against the digests of the index."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import DiskError
from agent.model.job import Verify
from agent.model.template import CHUNK_BYTES, IndexEntry
from agent.report import Report, silent
from agent.store.digests import CHUNK_DIGESTS, ChunkDigest, zeros_digest
from agent.store.template import Template
from agent.stream.blocks import ChunkReader, DiskFile, overlap, without
from agent.stream.fetch import ChunkRun, Lane, default_lanes, extents_of
from agent.stream.progress import Meter, Stages
from agent.stream.pump import Conduit, Pump
from agent.units import Extent

_STRATUM: Final = 20
"""A sample has one chunk of each so many, so at least 5 %, and the first and the last."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What was read back and found to be right. There is no other way to get one."""

    chunks_checked: int
    bytes_checked: int
    chunks: int
    seed: int | None
    """What a sample was drawn with, to draw it again."""
    stage_seconds: dict[str, float]
    """Of `read_back` and `compare`, summed over the lanes; where chunks were fetched, of that."""
    seconds_each: dict[str, float]
    """The same by thread."""


def verify_volume(
    template: Template,
    volume_id: str,
    disk: Path,
    offset_bytes: int,
    mode: Verify,
    *,
    skip: Sequence[Extent] = (),
    report: Report = silent,
    seed: int | None = None,
    serial: str | None = None,
    lanes: int | None = None,
) -> Verified:
    """Read a restored volume back and compare it with the template.

    Call it before anything in the volume is changed. `skip`: ranges of the volume that were
    withheld; the rest of a chunk that they touch is compared byte by byte with the chunk
    fetched anew. Raises DiskError, with disk, serial and offset, for the first that differs.
    """
    stages = Stages()
    if mode is Verify.NONE:
        return Verified(0, 0, 0, None, {}, {})
    if mode is Verify.SAMPLE and seed is None:
        seed = random.SystemRandom().randrange(2**32)
    with DiskFile(disk, serial=serial) as written:
        written.forget_cache()
        head, entries = template.entries(volume_id)
        wanted = entries if mode is Verify.FULL else sample(entries, head.chunks, seed or 0)
        used = template.volume(volume_id).used_bytes
        total = used if mode is Verify.FULL else _sampled_bytes(used, head.chunks)
        meter = Meter(f"read back {volume_id}", total, report, stages)
        pump = Pump()
        queue: Conduit[IndexEntry] = Conduit(pump, limit=32)
        work = _Verify(
            template,
            volume_id,
            head.content_digest,
            written,
            offset_bytes,
            tuple(skip),
            meter,
            pump,
        )

        def dispatch() -> None:
            for entry in wanted:
                queue.put(entry)
            queue.close()

        def lane() -> None:
            reader = ChunkReader(written, offset_bytes)
            for entry in queue:
                work.verify(entry, reader)

        count = default_lanes() if lanes is None else lanes
        stages.share(("read_back", "compare", "fetch", "verify", "decode"), count)
        pump.start("index", dispatch)
        for number in range(count):
            pump.start(f"verify-{number}", lane)
        pump.wait(meter.tick)
        meter.total_bytes = meter.done_bytes
        meter.tick(final=True)
    return Verified(
        chunks_checked=work.chunks,
        bytes_checked=work.bytes_checked,
        chunks=head.chunks,
        seed=seed,
        stage_seconds=stages.seconds,
        seconds_each=stages.each,
    )


def _sampled_bytes(used_bytes: int, count: int) -> int:
    """Return about what a sample of `count` chunks reads: one of each stratum, and both ends."""
    return used_bytes * min(count, -(-count // _STRATUM) + 2) // max(count, 1)


def sample(entries: Iterable[IndexEntry], count: int, seed: int) -> Iterator[IndexEntry]:
    """Yield the first and the last of `entries` and one of every twenty, drawn by `seed`."""
    draw = random.Random(seed)  # noqa: S311
    chosen = 0
    for place, entry in enumerate(entries):
        if place % _STRATUM == 0:
            chosen = place + draw.randrange(_STRATUM)
        if place in (0, chosen, count - 1):
            yield entry


@dataclass(slots=True)
class _Verify:
    """What the lanes share."""

    template: Template
    volume_id: str
    algorithm: str
    disk: DiskFile
    base: int
    skip: tuple[Extent, ...]
    meter: Meter
    pump: Pump
    chunks: int = 0
    bytes_checked: int = 0

    @property
    def digest(self) -> ChunkDigest:
        return CHUNK_DIGESTS[self.algorithm]

    def verify(self, entry: IndexEntry, reader: ChunkReader) -> None:
        self.pump.check()
        if entry.pack < 0:
            checked = self._verify_zeros(entry, reader)
        else:
            checked = self._verify_stored(entry, reader)
        with self.meter.lock:
            self.chunks += 1
            self.bytes_checked += checked
        self.meter.add(entry.content_bytes)

    def _verify_zeros(self, entry: IndexEntry, reader: ChunkReader) -> int:
        """Read zeros, a piece at a time; return how many there were outside of `skip`."""
        checked = 0
        for run in without(extents_of(entry), self.skip):
            for offset in range(run.offset, run.end, CHUNK_BYTES):
                self.pump.check()
                size = min(CHUNK_BYTES, run.end - offset)
                with self.meter.stages.timed("read_back"):
                    content = reader.read((Extent(offset, size),))
                with self.meter.stages.timed("compare"):
                    if self.digest(content) != zeros_digest(self.algorithm, size):
                        raise self._differs(entry, offset)
                checked += size
        return checked

    def _verify_stored(self, entry: IndexEntry, reader: ChunkReader) -> int:
        extents = extents_of(entry)
        skipped = [hole for hole in self.skip if any(overlap(run, hole) for run in extents)]
        with self.meter.stages.timed("read_back"):
            content = reader.read(extents)
        if skipped:
            return self._compare(entry, content, skipped)
        with self.meter.stages.timed("compare"):
            if self.digest(content) != entry.content_digest:
                raise self._differs(entry, extents[0].offset)
        return len(content)

    def _compare(self, entry: IndexEntry, content: memoryview, skipped: Sequence[Extent]) -> int:
        """Compare all but `skipped` with the chunk itself; return how many bytes that were."""
        wanted = self._fetch(entry)
        at = checked = 0
        for run in extents_of(entry):
            for piece in without((run,), skipped):
                start = at + piece.offset - run.offset
                if content[start : start + piece.size] != wanted[start : start + piece.size]:
                    raise self._differs(entry, piece.offset)
                checked += piece.size
            at += run.size
        return checked

    def _fetch(self, entry: IndexEntry) -> memoryview:
        lane = Lane(self.template.client, self.digest, self.meter.stages, self.pump)
        pack = self.template.data_of(self.volume_id).packs[entry.pack]
        (found,) = (bytes(content) for _, content in lane.contents(ChunkRun(pack, (entry,))))
        return memoryview(found)

    def _differs(self, entry: IndexEntry, offset: int) -> DiskError:
        return DiskError(
            f"{self.disk.name} does not give back what was written at {self.base + offset}: "
            f"chunk {entry.number} of {self.volume_id} differs",
            hint="the disk, its cable or its controller is bad",
        )
