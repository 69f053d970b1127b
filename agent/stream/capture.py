"""Volumes into a template: read, compress, upload. The source is only ever opened for reading."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

from agent.errors import AgentError
from agent.model import wire
from agent.model.layout import Volume
from agent.model.template import (
    ARTIFACT_TYPE,
    CHUNK_BYTES,
    CONFIG_MAX_BYTES,
    CONFIG_TYPE,
    FORMAT_VERSION,
    INDEX_TYPE,
    MANIFEST_MAX_BYTES,
    MANIFEST_TYPE,
    PACK_TARGET_BYTES,
    PACK_TYPE,
    VOLUME_ANNOTATION,
    Descriptor,
    Digest,
    IndexEntry,
    IndexHead,
    Manifest,
    TemplateConfig,
)
from agent.report import Report, silent
from agent.store.index import IndexWriter
from agent.store.pack import BlobWriter, Encoder, PackWriter
from agent.store.registry import RegistryClient
from agent.store.upload import ResumedUpload
from agent.stream.blocks import ChunkReader, DiskFile, overlap, zeros_sha256
from agent.stream.progress import Meter, Stages
from agent.stream.pump import Pump, in_order
from agent.units import Extent

_AHEAD: Final = 2
"""Chunks that may be ready and wait for the upload, beside those that lanes work on."""
_HEAVY_LEVEL: Final = 13
"""From this level on zstd itself needs tens of megabytes a thread."""
_LAYER_JSON_BYTES: Final = 240
_PROBE_BYTES: Final = 4096


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
class CapturedVolume:
    """The layers of one volume, index first."""

    layers: tuple[Descriptor, ...]
    used_bytes: int
    stored_bytes: int
    chunks: int


@dataclass(frozen=True, slots=True)
class Captured:
    """A template that is in the store: its digest names it."""

    digest: Digest
    manifest_bytes: bytes
    config: TemplateConfig
    stored_bytes: int
    used_bytes: int
    stage_seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is to be read for one chunk."""

    number: int
    extents: tuple[Extent, ...]
    blank: tuple[Extent, ...] = ()

    @property
    def size(self) -> int:
        return sum(run.size for run in self.extents)


def capture_template(
    client: RegistryClient,
    config: TemplateConfig,
    sources: Iterable[VolumeSource],
    report: Report = silent,
    *,
    tag: str,
    level: int = 3,
    lanes: int | None = None,
    pack_bytes: int = PACK_TARGET_BYTES,
) -> Captured:
    """Push a template: packs and index of each volume, then the config, the manifest last.

    The used bytes of each volume in `config` become what was found. Before the manifest is
    there, the template does not exist: nothing lists it. `report` is called by this thread
    only; what it raises ends the capture.

    Raises DiskError (disk, serial, offset) and ServerError.
    """
    sources = tuple(sources)
    stages = Stages()
    total = sum(run.size for source in sources for run in source.used)
    meter = Meter("capture", total, report, stages)
    layers: list[Descriptor] = []
    used: dict[str, int] = {}
    stored = 0
    for source in sources:
        packs = sum(layer.media_type == PACK_TYPE for layer in layers)
        done = capture_volume(
            client,
            source,
            packs,
            meter,
            level=level,
            lanes=lanes,
            pack_bytes=pack_bytes,
            layers_before=len(layers),
        )
        layers += done.layers
        used[source.volume.id] = done.used_bytes
        stored += done.stored_bytes
    config = _with_used(config, used)
    config_bytes = wire.encode(config)
    if len(config_bytes) > CONFIG_MAX_BYTES:
        raise AgentError(f"the recorded configuration has {len(config_bytes)} bytes")
    manifest = Manifest(
        schema_version=2,
        media_type=MANIFEST_TYPE,
        artifact_type=ARTIFACT_TYPE,
        config=_push(client, config_bytes, CONFIG_TYPE),
        layers=tuple(layers),
    )
    data = wire.encode(manifest)
    with stages.timed("upload"):
        digest = client.put_manifest(data, tag)
    meter.tick(final=True)
    return Captured(digest, data, config, stored, sum(used.values()), stages.seconds)


def capture_volume(
    client: RegistryClient,
    source: VolumeSource,
    first_pack: int,
    meter: Meter,
    *,
    level: int = 3,
    lanes: int | None = None,
    pack_bytes: int = PACK_TARGET_BYTES,
    layers_before: int = 0,
) -> CapturedVolume:
    """Push the packs of one volume, then its index. `first_pack` is its first pack's number."""
    cores = len(os.sched_getaffinity(0))
    count = lanes or min(cores if level >= _HEAVY_LEVEL else cores + 1, 6)
    head = IndexHead(
        format=FORMAT_VERSION,
        volume=source.volume.id,
        volume_bytes=source.volume.size_bytes,
        chunk_bytes=CHUNK_BYTES,
        chunks=sum(1 for _ in chunks_of(source)),
    )
    with DiskFile(source.device, serial=source.serial) as disk:
        work = _Capture(client, source, disk, first_pack, meter, level)
        index = work.blob()
        writer = IndexWriter(index, head)
        packs = PackWriter(work.start_pack, work.finish_pack, pack_bytes)
        pump = Pump()
        try:
            with closing(
                in_order(pump, chunks_of(source), work.lane, lanes=count, ahead=count + _AHEAD)
            ) as read:
                for chunk, content_digest, stored in read:
                    writer.add(work.place(chunk, content_digest, stored, packs))
                    meter.add(chunk.size)
                    meter.tick()
                    _check_manifest(layers_before + len(work.packs))
            with meter.stages.timed("upload"):
                packs.close()
                writer.close()
                layer = index.finish(INDEX_TYPE, work.annotations)
        except BaseException:
            work.cancel()
            raise
    layers = (layer, *work.packs)
    return CapturedVolume(layers, work.used_bytes, sum(item.size for item in layers), head.chunks)


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


Read = tuple[Chunk, str, bytes | None]
"""A chunk, the digest of its content, and its frame, or None if it is all zeros."""


class _Capture:
    """What the lanes and the upload of one volume share."""

    def __init__(
        self,
        client: RegistryClient,
        source: VolumeSource,
        disk: DiskFile,
        first_pack: int,
        meter: Meter,
        level: int,
    ) -> None:
        self.annotations = {VOLUME_ANNOTATION: source.volume.id}
        self.packs: list[Descriptor] = []
        self.used_bytes = 0
        self._client = client
        self._source = source
        self._disk = disk
        self._first_pack = first_pack
        self._stages = meter.stages
        self._level = level
        self._in_pack: list[Chunk] = []
        self._open: list[BlobWriter] = []

    def lane(self) -> Callable[[Chunk], Read]:
        """Return a function for one thread that reads and compresses one chunk."""
        reader = ChunkReader(self._disk, self._source.offset_bytes)
        encoder = Encoder(self._level)

        def work(chunk: Chunk) -> Read:
            with self._stages.timed("read"):
                content = reader.read(chunk.extents)
                _blank(chunk, content)
            with self._stages.timed("hash"):
                digest = sha256(content).hexdigest()
                if _is_zero(content, digest):
                    return chunk, digest, None
            with self._stages.timed("compress"):
                return chunk, digest, encoder.encode(content)

        return work

    def place(
        self, chunk: Chunk, digest: str, stored: bytes | None, packs: PackWriter
    ) -> IndexEntry:
        """Put a chunk into the open pack; return its line of the index."""
        extents = tuple((run.offset, run.size) for run in chunk.extents)
        self.used_bytes += chunk.size
        if stored is None:
            return IndexEntry(chunk.number, extents, -1, 0, 0, None, digest)
        self._in_pack.append(chunk)
        pack = self._first_pack + len(self.packs)
        with self._stages.timed("hash"):
            stored_digest = sha256(stored).hexdigest()
        with self._stages.timed("upload"):
            offset = packs.add(stored)
        return IndexEntry(chunk.number, extents, pack, offset, len(stored), stored_digest, digest)

    def blob(self) -> BlobWriter:
        writer = BlobWriter(ResumedUpload(self._client))
        self._open.append(writer)
        return writer

    def start_pack(self) -> BlobWriter:
        writer = BlobWriter(ResumedUpload(self._client, self._replay))
        self._open.append(writer)
        return writer

    def finish_pack(self, pack: BlobWriter) -> None:
        self.packs.append(pack.finish(PACK_TYPE, self.annotations))
        self._open.remove(pack)
        self._in_pack.clear()

    def cancel(self) -> None:
        for blob in self._open:
            blob.cancel()

    def _replay(self) -> Iterator[bytes]:
        """Make the frames of the open pack once more: the source is still as it was."""
        work = self.lane()
        for chunk in tuple(self._in_pack):
            _, _, stored = work(chunk)
            assert stored is not None
            yield stored


def _blank(chunk: Chunk, content: memoryview) -> None:
    """Zero the blank parts of a chunk's content."""
    for hole in chunk.blank:
        at = 0
        for run in chunk.extents:
            if common := overlap(run, hole):
                start = at + common.offset - run.offset
                content[start : start + common.size] = bytes(common.size)
            at += run.size


def _is_zero(content: memoryview, digest: str) -> bool:
    return not any(content[:_PROBE_BYTES]) and digest == zeros_sha256(len(content))


def _push(client: RegistryClient, data: bytes, media_type: str) -> Descriptor:
    writer = BlobWriter(ResumedUpload(client))
    writer.write(data)
    return writer.finish(media_type, {})


def _check_manifest(layers: int) -> None:
    if layers * _LAYER_JSON_BYTES > MANIFEST_MAX_BYTES:
        raise AgentError(
            f"more than {layers} packs do not fit into a manifest of {MANIFEST_MAX_BYTES} bytes",
            hint="capture the disks one by one, or with a higher compression level",
        )


def _with_used(config: TemplateConfig, used: dict[str, int]) -> TemplateConfig:
    volumes = tuple(
        msgspec.structs.replace(volume, used_bytes=used.get(volume.id, volume.used_bytes))
        for volume in config.layout.volumes
    )
    layout = msgspec.structs.replace(config.layout, volumes=volumes)
    return msgspec.structs.replace(config, layout=layout)
