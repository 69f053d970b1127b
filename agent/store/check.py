"""Is a template what it says it is? Its rules, its blobs and, if asked for, every chunk."""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from agent.errors import AgentError, ChunkCorrupt, ServerError, TemplateError
from agent.model.template import (
    CHUNK_BYTES,
    PACK_TYPE,
    Descriptor,
    Digest,
    IndexEntry,
    TemplateConfig,
)
from agent.model.wire import Value
from agent.store.digests import CHUNK_DIGESTS, ChunkDigest, zeros_digest
from agent.store.pack import MAX_STORED_BYTES, Decoder
from agent.store.retry import Transient, Tries
from agent.store.source import BlobSource
from agent.store.template import Template, check_index, open_template
from agent.store.transfer import Tell, quiet
from agent.units import MiB

LANES: Final = 4
DAMAGE_MAX: Final = 100
"""So many lines are enough to know that it is bad."""
_RUN_BYTES: Final = 16 * MiB
_RUN_CHUNKS: Final = 64
_ZEROS: Final = Descriptor(media_type=PACK_TYPE, digest="sha256:" + "0" * 64, size=0)


class Checked(Value, frozen=True, kw_only=True):
    """What was looked at, and what is wrong with it."""

    digest: Digest
    blobs: int
    chunks: int
    """How many were read and compared; 0 unless that was asked for."""
    bytes_read: int
    damage: tuple[str, ...]
    lost_bytes: int
    """What could not be read on the source, by consent; no damage of the template."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbouring chunks of one pack."""

    volume: str
    pack: Descriptor
    entries: tuple[IndexEntry, ...]
    algorithm: str

    @property
    def size(self) -> int:
        first, last = self.entries[0], self.entries[-1]
        return last.offset + last.stored_bytes - first.offset


def check_template(
    source: BlobSource, reference: str, *, deep: bool = False, tell: Tell = quiet
) -> Checked:
    """Check the template that `reference` names; `deep` reads and compares all of its data.

    What is wrong with blobs and chunks is listed. Raises TemplateError if manifest or config
    themselves are not to be believed, ServerError if the source cannot be reached.
    """
    template = open_template(source, reference)
    damage: list[str] = []
    blobs = {layer.digest: layer for layer in template.manifest.layers}
    lost = set()
    for blob in blobs.values():
        if wrong := _missing(source, template.digest, blob):
            lost.add(blob.digest)
            damage.append(wrong)
    for volume, data in template.blobs.items():
        if data.index.digest in lost:
            continue
        try:
            check_index(template, volume)
        except TemplateError as error:
            lost.add(data.index.digest)
            damage.append(str(error))
    chunks = read = 0
    if deep:
        total = sum(blob.size for blob in template.manifest.packs)
        for run, wrongs in _checked_runs(template, lost):
            chunks += len(run.entries)
            read += run.size if run.pack.size else 0
            damage += wrongs
            tell(min(read, total), total)
            if len(damage) > DAMAGE_MAX:
                damage.append("and more: it was not read to its end")
                break
    return Checked(
        digest=template.digest,
        blobs=len(blobs) + 1,
        chunks=chunks,
        bytes_read=read,
        damage=tuple(damage),
        lost_bytes=lost_bytes(template.config),
    )


def lost_bytes(config: TemplateConfig) -> int:
    """Return how much could not be read on the source, and is zeros in the template."""
    return sum(hole.size for hole in config.holes)


def _missing(source: BlobSource, digest: Digest, blob: Descriptor) -> str | None:
    """Return what is wrong with a blob's presence and size, by reading its last byte."""
    tries = Tries(source.retry)
    while True:
        try:
            if not source.has_blob(blob.digest):
                return f"{blob.digest} is missing"
            with source.open_range(blob.digest, blob.size - 1, 1, blob.size) as body:
                body.readinto(memoryview(bytearray(1)))
        except Transient as error:
            try:
                tries.failed(error)
            except Transient:
                source.manifest(digest)  # if the source itself is away, that is the error
                return f"{blob.digest}: {error}"
        except (TemplateError, ServerError) as error:
            return f"{blob.digest}: {error}"
        else:
            return None


def _checked_runs(template: Template, lost: set[Digest]) -> Iterator[tuple[_Run, list[str]]]:
    """Yield each run with what is wrong in it; several are read at once."""
    waiting: deque[tuple[_Run, Future[list[str]]]] = deque()
    with ThreadPoolExecutor(LANES, thread_name_prefix="verify") as pool:
        try:
            for run in _runs(template, lost):
                waiting.append((run, pool.submit(_check_run, template.client, run)))
                if len(waiting) > 2 * LANES:
                    first, result = waiting.popleft()
                    yield first, result.result()
            for first, result in waiting:
                yield first, result.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _runs(template: Template, lost: set[Digest]) -> Iterator[_Run]:
    for volume, data in template.blobs.items():
        if data.index.digest in lost:
            continue
        head, entries = template.entries(volume)
        waiting: list[IndexEntry] = []
        for entry in entries:
            if entry.pack >= 0 and data.packs[entry.pack].digest in lost:
                continue
            if waiting and not _joins(waiting, entry):
                yield _Run(volume, _pack(data.packs, waiting), tuple(waiting), head.content_digest)
                waiting = []
            waiting.append(entry)
        if waiting:
            yield _Run(volume, _pack(data.packs, waiting), tuple(waiting), head.content_digest)


def _joins(waiting: list[IndexEntry], entry: IndexEntry) -> bool:
    first, last = waiting[0], waiting[-1]
    if entry.pack != last.pack or len(waiting) == _RUN_CHUNKS:
        return False
    end = entry.offset + entry.stored_bytes
    return entry.offset == last.offset + last.stored_bytes and end - first.offset <= _RUN_BYTES


def _check_run(source: BlobSource, run: _Run) -> list[str]:
    """Return what is wrong in a run: at most one line for each chunk."""
    digest = CHUNK_DIGESTS[run.algorithm]
    wrong: list[str] = []
    if run.entries[0].pack < 0:
        for entry in run.entries:
            given = entry.content_digest  # before format 6, of no more than a window
            if given and given != zeros_digest(run.algorithm, entry.content_bytes):
                wrong.append(f"chunk {entry.number} of {run.volume} is no chunk of zeros")
        return wrong
    decoder = Decoder()
    stored = memoryview(bytearray(MAX_STORED_BYTES))
    content = memoryview(bytearray(CHUNK_BYTES))
    at, tries = 0, Tries(source.retry)
    while at < len(run.entries):
        first = run.entries[at]
        size = run.entries[0].offset + run.size - first.offset
        try:
            with source.open_range(run.pack.digest, first.offset, size, run.pack.size) as body:
                for entry in run.entries[at:]:
                    part = stored[: entry.stored_bytes]
                    body.readinto(part)
                    tries.progress()
                    into = content[: entry.content_bytes]
                    if reason := _wrong(entry, part, into, decoder, digest):
                        where = f"pack {run.pack.digest[:19]}"
                        wrong.append(f"chunk {entry.number} of {run.volume} in {where} {reason}")
                    at += 1
        except Transient as error:
            tries.failed(error)
        except AgentError as error:
            return [*wrong, f"{run.pack.digest}: {error}"]
    return wrong


def _wrong(
    entry: IndexEntry,
    stored: memoryview,
    content: memoryview,
    decoder: Decoder,
    digest: ChunkDigest,
) -> str | None:
    if digest(stored) != entry.stored_digest:
        return "does not have the digest that the index gives"
    try:
        decoder.decode(stored, content)
    except ChunkCorrupt as error:
        return str(error)
    if digest(content) != entry.content_digest:
        return "does not hold what the index says"
    return None


def _pack(packs: Mapping[int, Descriptor], entries: list[IndexEntry]) -> Descriptor:
    """Return the pack of a run; for zeros a stand-in, which is never asked for."""
    number = entries[0].pack
    return _ZEROS if number < 0 else packs[number]
