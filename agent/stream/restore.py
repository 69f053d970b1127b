"""A volume out of a template onto a disk: fetch, verify, unpack, write; or find it there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.errors import TemplateError
from agent.model.event import Level, Logged
from agent.model.template import IndexEntry
from agent.report import Report, silent
from agent.store.digests import CHUNK_DIGESTS
from agent.store.template import Template
from agent.stream.blocks import ChunkWriter, DiskFile, overlap, without
from agent.stream.fetch import (
    ChunkRun,
    Lane,
    batch_bytes,
    default_lanes,
    extents_of,
    in_runs,
)
from agent.stream.progress import Meter, Stages
from agent.stream.pump import Conduit, Pump
from agent.stream.reuse import Look, Odds
from agent.units import Extent


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did. `withheld` has the bytes that were kept back, for the caller."""

    chunks: int
    bytes_written: int
    bytes_fetched: int
    bytes_kept: int
    """What the disk held already."""
    withheld: dict[Extent, bytes]
    stage_seconds: dict[str, float]
    """Summed over the lanes."""
    seconds_each: dict[str, float]
    """The same by thread: the lanes share all stages but the sync, which is one thread's."""


def restore_volume(
    template: Template,
    volume_id: str,
    disk: Path,
    offset_bytes: int,
    *,
    withhold: Sequence[Extent] = (),
    report: Report = silent,
    serial: str | None = None,
    lanes: int | None = None,
) -> Restored:
    """Write the data of a volume to `disk`, the volume beginning at `offset_bytes` of it.

    Each chunk is verified before a byte of it is unpacked, and written at once. A chunk that the
    disk holds already is left as it is. On return all is on the medium (fsync). The ranges
    `withhold`, relative to the volume, are not written but returned, unused bytes as zeros.
    `report` is called by this thread only; what it raises ends the restore. After any error no
    thread writes any more.

    Raises DiskError (disk, serial, offset), ChunkCorrupt, TemplateError, ServerError.
    """
    with DiskFile(disk, serial=serial, writable=True) as target:
        head, entries = template.entries(volume_id)
        if offset_bytes + head.volume_bytes > target.size_bytes:
            raise TemplateError(
                f"volume {volume_id} ends at {offset_bytes + head.volume_bytes}, beyond "
                f"{target.name}, which has {target.size_bytes} bytes"
            )
        stages = Stages()
        total = template.volume(volume_id).used_bytes
        meter = Meter(f"restore {volume_id}", total, report, stages)
        work = _Restore(
            writer=ChunkWriter(target, offset_bytes),
            withheld={run: bytearray(run.size) for run in withhold},
            meter=meter,
            stages=stages,
        )
        pump = Pump()
        runs: Conduit[ChunkRun] = Conduit(pump, limit=4)
        count = default_lanes() if lanes is None else lanes
        stages.share(("read", "hash", "fetch", "verify", "decode", "write"), count)
        digest, odds = CHUNK_DIGESTS[head.content_digest], Odds()

        def dispatch() -> None:
            data = template.data_of(volume_id)
            for run in in_runs(entries, data, count=head.chunks, lanes=count):
                runs.put(run)
            runs.close()

        made: list[Lane] = []

        def lane() -> None:
            mine = Lane(template.client, digest, stages, pump, batch_bytes(count))
            look = Look(target, offset_bytes, mine.buffer, digest, odds, stages)
            made.append(mine)
            for run in runs:
                work.restore(run, mine, look)

        pump.start("index", dispatch)
        for number in range(count):
            pump.start(f"restore-{number}", lane)
        pump.wait(meter.tick)
        if work.chunks != head.chunks:
            raise TemplateError(
                f"{work.chunks} of {head.chunks} chunks of {volume_id} were written"
            )
        with stages.timed("sync"):
            target.sync()
        meter.tick(final=True)
        if odds.unreadable:
            text = f"{target.name} could not be read in {odds.unreadable} chunks of {volume_id}"
            report(Logged(level=Level.WARNING, message=f"{text}: they were written anew"))
    return Restored(
        chunks=work.chunks,
        bytes_written=work.bytes_written,
        bytes_fetched=sum(lane.fetched_bytes for lane in made),
        bytes_kept=work.bytes_kept,
        withheld={run: bytes(kept) for run, kept in work.withheld.items()},
        stage_seconds=stages.seconds,
        seconds_each=stages.each,
    )


def volume_bytes(template: Template, volume_id: str, max_bytes: int) -> bytes:
    """Return a tiny volume (boot code) whole, unused bytes as zeros."""
    head, entries = template.entries(volume_id)
    if head.volume_bytes > max_bytes:
        raise TemplateError(
            f"volume {volume_id} has {head.volume_bytes} bytes, at most {max_bytes} may be"
        )
    whole = bytearray(head.volume_bytes)
    pump = Pump()
    lane = Lane(template.client, CHUNK_DIGESTS[head.content_digest], Stages(), pump)

    def read() -> None:
        data = template.data_of(volume_id)
        for run in in_runs(entries, data, count=head.chunks, lanes=1):
            for entry, content in lane.contents(run) if run.pack else ():
                at = 0
                for offset, size in entry.extents:
                    whole[offset : offset + size] = content[at : at + size]
                    at += size

    pump.start("read", read)
    pump.wait(lambda: None)
    return bytes(whole)


@dataclass(slots=True)
class _Restore:
    """What the lanes share: where chunks go, and the count of them."""

    writer: ChunkWriter
    withheld: dict[Extent, bytearray]
    meter: Meter
    stages: Stages
    bytes_written: int = 0
    bytes_kept: int = 0
    chunks: int = 0

    def restore(self, run: ChunkRun, lane: Lane, look: Look) -> None:
        if run.pack is None:
            for entry in run.entries:
                wanted = without(extents_of(entry), tuple(self.withheld))
                with self.stages.timed("write"):
                    self.writer.write_zeros(wanted)
                self._count(content=entry.content_bytes, written=sum(run.size for run in wanted))
            return
        for part in self._to_fetch(run, look):
            for batch in lane.batches(part):
                pieces = [self._split(entry, content) for entry, content in batch]
                with self.stages.timed("write"):
                    self.writer.write(pieces)
                self._count(
                    chunks=len(batch),
                    content=sum(len(content) for _, content in batch),
                    written=sum(piece.size for runs in pieces for piece, _ in runs),
                )

    def _to_fetch(self, run: ChunkRun, look: Look) -> tuple[ChunkRun, ...]:
        """Return what of `run` the disk does not hold; of what is withheld, all is fetched."""
        kept_back = {
            entry.number
            for entry in (run.entries if self.withheld else ())
            if any(overlap(part, hole) for part in extents_of(entry) for hole in self.withheld)
        }
        asked = [entry for entry in run.entries if entry.number not in kept_back]
        missing = {entry.number for entry in look.missing(asked)} | kept_back
        for entry in asked:
            if entry.number not in missing:
                self._count(content=entry.content_bytes, kept=entry.content_bytes)
        return run.parts(lambda entry: entry.number in missing)

    def _split(self, entry: IndexEntry, content: memoryview) -> list[tuple[Extent, memoryview]]:
        """Return what is to be written now; keep what is withheld."""
        pieces: list[tuple[Extent, memoryview]] = []
        at = 0
        for extent in extents_of(entry):
            data = content[at : at + extent.size]
            at += extent.size
            if not self.withheld:
                pieces.append((extent, data))
                continue
            for piece in without((extent,), tuple(self.withheld)):
                start = piece.offset - extent.offset
                pieces.append((piece, data[start : start + piece.size]))
            for hole, kept in self.withheld.items():
                if common := overlap(extent, hole):
                    start = common.offset - extent.offset
                    kept[common.offset - hole.offset : common.end - hole.offset] = data[
                        start : start + common.size
                    ]
        return pieces

    def _count(self, *, content: int, chunks: int = 1, written: int = 0, kept: int = 0) -> None:
        with self.meter.lock:
            self.chunks += chunks
            self.bytes_written += written
            self.bytes_kept += kept
            self.meter.done_bytes += content
