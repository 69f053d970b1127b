"""Volumes into a template: read, compress, upload. The source is only ever opened for reading."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import msgspec

from agent.errors import AgentError
from agent.model import wire
from agent.model.event import Level, Logged
from agent.model.template import (
    ARTIFACT_TYPE,
    CHUNK_BYTES,
    CONFIG_MAX_BYTES,
    CONFIG_TYPE,
    FORMAT_VERSION,
    INDEX_TYPE,
    MANIFEST_MAX_BYTES,
    MANIFEST_TYPE,
    PACK_TYPE,
    TITLE_ANNOTATION,
    VOLUME_ANNOTATION,
    Descriptor,
    Digest,
    IndexEntry,
    IndexHead,
    Manifest,
    TemplateConfig,
)
from agent.report import Report, silent
from agent.store.digests import CHUNK_DIGESTS, DIGEST, zeros_digest
from agent.store.index import IndexWriter
from agent.store.pack import BlobWriter, Encoder, PackWriter, Upload, pack_target_bytes
from agent.store.target import Target
from agent.store.template import Template
from agent.stream.blocks import ChunkReader, DiskFile
from agent.stream.chunks import Chunk, VolumeSource, chunks_of, count_chunks
from agent.stream.courier import Courier
from agent.stream.damage import Damage
from agent.stream.fetch import default_lanes
from agent.stream.levels import Levels, most_lanes
from agent.stream.parent import ParentVolume, parent_volume
from agent.stream.progress import Meter, Stages
from agent.stream.pump import Pump, in_order

_AHEAD: Final = 2
"""Chunks that may be ready and wait their turn, beside those that lanes work on."""
_MOST_LANES: Final = 8
_PROBE_BYTES: Final = 4096
_HEAD_BYTES: Final = 4096
"""More than a manifest has beside its layers."""


@dataclass(frozen=True, slots=True)
class CapturedVolume:
    """The layers of one volume, index first."""

    layers: tuple[Descriptor, ...]
    used_bytes: int
    uploaded_bytes: int
    chunks: int


@dataclass(frozen=True, slots=True)
class Captured:
    """A template that is in the store: its digest names it."""

    digest: Digest
    manifest_bytes: bytes
    config: TemplateConfig
    stored_bytes: int
    """What the template takes, with what it shares with its parent."""
    uploaded_bytes: int
    used_bytes: int
    stage_seconds: dict[str, float]
    bottleneck: str | None


def capture_template(
    target: Target,
    config: TemplateConfig,
    sources: Iterable[VolumeSource],
    report: Report = silent,
    *,
    tag: str,
    level: int | None = 3,
    lanes: int | None = None,
    pack_bytes: int | None = None,
    parent: Template | None = None,
    damage: Damage | None = None,
    confirm: Callable[[], None] = lambda: None,
) -> Captured:
    """Store a template: packs and index of each volume, then the config, the manifest last.

    The used bytes of each volume in `config` become what was found. Chunks that `parent`, a
    template of the same repository, holds at the same place are taken over from it. Without a
    `level`, it follows the speed of the upload. With `damage`, what cannot be read is a hole of
    the template, else an error. Before the manifest is there, the template does not exist:
    nothing lists it; `confirm` is called before that and may raise. `report` is called by this
    thread only; what it raises ends the capture.

    Raises DiskError (disk, serial, offset) and ServerError.
    """
    sources = tuple(sources)
    stages = Stages()
    total = sum(run.size for source in sources for run in source.used)
    meter = Meter("capture", total, report, stages)
    pack_bytes = pack_bytes or pack_target_bytes(total)
    layers: list[Descriptor] = []
    room = _Room()
    used: dict[str, int] = {}
    uploaded = 0
    for source in sources:
        packs = sum(layer.media_type == PACK_TYPE for layer in layers)
        known = parent_volume(parent, source.volume.id)
        work = _Volume(target, source, packs, room, meter, known, pack_bytes, level, lanes, damage)
        done = work.capture()
        layers += done.layers
        used[source.volume.id] = done.used_bytes
        uploaded += done.uploaded_bytes
    config = _with_used(config, used, parent, damage)
    config_bytes = wire.encode(config)
    if len(config_bytes) > CONFIG_MAX_BYTES:
        raise AgentError(f"the recorded configuration has {len(config_bytes)} bytes")
    confirm()
    manifest = Manifest(
        schema_version=2,
        media_type=MANIFEST_TYPE,
        artifact_type=ARTIFACT_TYPE,
        config=_push(target, config_bytes, CONFIG_TYPE),
        layers=tuple(layers),
    )
    data = wire.encode(manifest)
    with stages.timed("upload"):
        digest = target.put_manifest(data, tag, ARTIFACT_TYPE)
    meter.tick(final=True)
    return Captured(
        digest=digest,
        manifest_bytes=data,
        config=config,
        stored_bytes=sum(layer.size for layer in layers),
        uploaded_bytes=uploaded,
        used_bytes=sum(used.values()),
        stage_seconds=stages.seconds,
        bottleneck=stages.bottleneck,
    )


class _Room:
    """The bytes that the manifest still has for layers: what is too long is refused on the way."""

    def __init__(self) -> None:
        self._taken = 0
        self._layers = 0

    def take(self, layer: Descriptor) -> Descriptor:
        """Return `layer`, which has its place now. Raises AgentError if there is none left."""
        self._taken += len(wire.encode(layer)) + 1
        self._layers += 1
        if self._taken > MANIFEST_MAX_BYTES - _HEAD_BYTES:
            raise AgentError(
                f"the manifest would name {self._layers} blobs or more, in over "
                f"{self._taken} bytes: {MANIFEST_MAX_BYTES} may be",
                hint="capture without a parent, or the disks one by one",
            )
        return layer


@dataclass(frozen=True, slots=True)
class _Read:
    """What a lane makes of a chunk: its digests and its frame, unless nothing is to be sent."""

    chunk: Chunk
    content_digest: str | None = None
    stored: bytes | None = None
    stored_digest: str | None = None
    level: int = 0
    known: IndexEntry | None = None
    """The parent's entry for the very same content."""


class _Volume:
    """The capture of one volume. `first_pack` is the number that its first pack gets."""

    def __init__(
        self,
        target: Target,
        source: VolumeSource,
        first_pack: int,
        room: _Room,
        meter: Meter,
        parent: ParentVolume | None,
        pack_bytes: int,
        level: int | None,
        lanes: int | None,
        damage: Damage | None,
    ) -> None:
        fair = min(default_lanes(), _MOST_LANES, most_lanes(level))
        self._lanes = lanes or fair
        self._target = target
        self._source = source
        self._room = room
        self._meter = meter
        self._stages = meter.stages
        self._stages.share(("read", "hash", "compress"), self._lanes)
        self._parent = parent
        self._damage = damage
        self._algorithm = parent.digest if parent else DIGEST
        self._digest = CHUNK_DIGESTS[self._algorithm]
        self._levels = Levels(level, self._lanes)
        self._courier = Courier(self._stages)
        self._packs = PackWriter(self._start_pack, self._finish_pack, pack_bytes)
        self._number = first_pack
        """The number that the next pack gets: packs count in the order of their first use."""
        self._layers: dict[int, Descriptor] = {}
        self._taken_over: dict[int, int] = {}
        """Packs of the parent that are in use: their number there → their number here."""
        self._begun: list[BlobWriter] = []
        self._in_pack: list[tuple[Chunk, int]] = []
        self._own = -1

    def capture(self) -> CapturedVolume:
        head = IndexHead(
            format=FORMAT_VERSION,
            volume=self._source.volume.id,
            volume_bytes=self._source.volume.size_bytes,
            chunk_bytes=CHUNK_BYTES,
            chunks=count_chunks(self._source),
            content_digest=self._algorithm,
        )
        used = 0
        with DiskFile(self._source.device, serial=self._source.serial) as disk:
            try:
                index = self._blob(self._target.begin(sleep=self._courier.pause))
                writer = IndexWriter(index, head)
                for read in self._reads(disk):
                    writer.add(self._place(read))
                    used += read.chunk.size
                    self._meter.add(read.chunk.size)
                    self._meter.tick()
                    for text in self._damage.news() if self._damage else ():
                        self._meter.report(Logged(level=Level.WARNING, message=text))
                self._packs.close()
                writer.close()
                layer = self._room.take(index.finish(INDEX_TYPE, self._annotations("index")))
                self._courier.close(self._meter.tick)
            except BaseException:
                self._courier.stop()
                for blob in self._begun:
                    blob.cancel()
                raise
        packs = tuple(self._layers[number] for number in sorted(self._layers))
        inherited = set(self._taken_over.values())
        own = (pack.size for number, pack in self._layers.items() if number not in inherited)
        return CapturedVolume((layer, *packs), used, layer.size + sum(own), head.chunks)

    def _reads(self, disk: DiskFile) -> Iterator[_Read]:
        """Yield what the lanes make of each chunk, in order; let the level follow the balance."""
        make = self._lane_on(disk)
        ahead = self._lanes + _AHEAD
        with closing(
            in_order(Pump(), self._chunks(), make, lanes=self._lanes, ahead=ahead)
        ) as all_:
            while True:
                asked, behind = time.monotonic(), self._courier.waited_s
                read = next(all_, None)
                if read is None:
                    return
                now = time.monotonic()
                yield read
                self._levels.waited(
                    now, for_lanes=now - asked, for_upload=self._courier.waited_s - behind
                )

    def _chunks(self) -> Iterator[tuple[Chunk, IndexEntry | None]]:
        for chunk in chunks_of(self._source):
            yield chunk, self._parent.at(chunk.number) if self._parent else None

    def _lane_on(
        self, disk: DiskFile
    ) -> Callable[[], Callable[[tuple[Chunk, IndexEntry | None]], _Read]]:
        """Return what makes the work of one thread: read a chunk, digest and compress it."""

        def make() -> Callable[[tuple[Chunk, IndexEntry | None]], _Read]:
            read = self._damage.salvage(disk, self._source) if self._damage else None
            reader = ChunkReader(disk, self._source.offset_bytes, read, cached=True)
            encoders: dict[int, Encoder] = {}

            def work(item: tuple[Chunk, IndexEntry | None]) -> _Read:
                chunk, known = item
                if chunk.is_zeros:
                    return _Read(chunk)
                with self._stages.timed("read"):
                    content = reader.read(chunk.extents)
                    chunk.make_blank(content)
                with self._stages.timed("hash"):
                    digest = self._digest(content)
                    if not any(content[:_PROBE_BYTES]) and digest == zeros_digest(
                        self._algorithm, len(content)
                    ):
                        return _Read(chunk)
                if known and known.content_digest == digest and known.pack >= 0:
                    return _Read(chunk, digest, known=known)
                level = self._levels.level
                if level not in encoders:
                    encoders.clear()
                    encoders[level] = Encoder(level)
                with self._stages.timed("compress"):
                    stored = encoders[level].encode(content)
                with self._stages.timed("hash"):
                    return _Read(chunk, digest, stored, self._digest(stored), level)

            return work

        return make

    def _place(self, read: _Read) -> IndexEntry:
        """Find a place for a chunk in a pack, and let it be sent; return its line of the index."""
        chunk = read.chunk
        extents = tuple((run.offset, run.size) for run in chunk.extents)
        if read.known:
            pack = self._take_over(read.known.pack)
            return msgspec.structs.replace(read.known, extents=extents, pack=pack)
        if read.stored is None:
            return IndexEntry(chunk.number, extents, -1, 0, 0, None, None)
        self._in_pack.append((chunk, read.level))
        size = len(read.stored)
        offset, pack = self._packs.add(read.stored), self._own
        digests = read.stored_digest, read.content_digest
        return IndexEntry(chunk.number, extents, pack, offset, size, *digests)

    def _take_over(self, theirs: int) -> int:
        assert self._parent is not None
        if theirs not in self._taken_over:
            self._taken_over[theirs] = number = self._next_number()
            pack = self._parent.pack(theirs)
            annotations = pack.annotations | self._annotations(f"{number:05}.pack")
            pack = msgspec.structs.replace(pack, annotations=annotations)
            self._layers[number] = self._room.take(pack)
        return self._taken_over[theirs]

    def _next_number(self) -> int:
        self._number += 1
        return self._number - 1

    def _blob(self, upload: Upload) -> BlobWriter:
        writer = BlobWriter(self._courier.carry(upload))
        self._begun.append(writer)
        return writer

    def _start_pack(self) -> BlobWriter:
        self._own = self._next_number()
        inside = self._in_pack
        return self._blob(self._target.begin(lambda: self._replay(inside), self._courier.pause))

    def _finish_pack(self, pack: BlobWriter) -> None:
        annotations = self._annotations(f"{self._own:05}.pack")
        self._layers[self._own] = self._room.take(pack.finish(PACK_TYPE, annotations))
        self._in_pack = []

    def _annotations(self, what: str) -> dict[str, str]:
        volume = self._source.volume.id
        return {VOLUME_ANNOTATION: volume, TITLE_ANNOTATION: f"{volume}.{what}.zst"}

    def _replay(self, inside: list[tuple[Chunk, int]]) -> Iterator[bytes]:
        """Make the frames of a pack once more: the source is still as it was."""
        with DiskFile(self._source.device, serial=self._source.serial) as disk:
            read = self._damage.repeat(disk, self._source) if self._damage else None
            reader = ChunkReader(disk, self._source.offset_bytes, read, cached=True)
            for chunk, level in tuple(inside):
                content = reader.read(chunk.extents)
                chunk.make_blank(content)
                yield Encoder(level).encode(content)


def _push(target: Target, data: bytes, media_type: str) -> Descriptor:
    writer = BlobWriter(target.begin())
    writer.write(data)
    return writer.finish(media_type, {})


def _with_used(
    config: TemplateConfig,
    used: dict[str, int],
    parent: Template | None,
    damage: Damage | None,
) -> TemplateConfig:
    volumes = tuple(
        msgspec.structs.replace(volume, used_bytes=used.get(volume.id, volume.used_bytes))
        for volume in config.layout.volumes
    )
    layout = msgspec.structs.replace(config.layout, volumes=volumes)
    digest = parent.digest if parent else None
    holes = damage.holes if damage else ()
    return msgspec.structs.replace(config, layout=layout, parent=digest, holes=holes)
