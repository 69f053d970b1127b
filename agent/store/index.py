"""The index of a volume: written and read as a stream, every rule of the format checked.

docs/template-format.md has the rules. What is read here came over a network: it is refused at the
first line that breaks one, with little memory used.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Final, NoReturn, Protocol

import msgspec
import zstandard

from agent.errors import AgentError, TemplateError
from agent.model.template import (
    CHUNK_BYTES,
    FORMAT_VERSION,
    OLDEST_VERSION,
    PACK_MAX_BYTES,
    SPANS_VERSION,
    ZEROS_ALIGNMENT,
    IndexEntry,
    IndexHead,
)
from agent.model.wire import refuse_doubled_keys
from agent.store.digests import CHUNK_DIGESTS
from agent.store.pack import MAX_STORED_BYTES, MAX_WINDOW_BYTES
from agent.units import MiB

MAX_LINE_BYTES: Final = 1 * MiB
_READ_BYTES: Final = 256 * 1024
_STEP: Final = 128
_TOGETHER_BYTES: Final = 16 * 1024
_ZERO_PACK: Final = -1


class Source(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...


def read_index(
    stream: Source,
    *,
    name: str = "index",
    packs: Mapping[int, int] | None = None,
    inherited: frozenset[int] = frozenset(),
) -> tuple[IndexHead, Iterator[IndexEntry]]:
    """Return the head of the index in `stream` (compressed) and its entries, one by one.

    `packs` gives the size of each pack that belongs to the volume, `inherited` says which of them
    were made for a parent; without `packs`, what the entries say about packs is only checked
    against itself. The iterator raises TemplateError, with
    blob, line and rule, as soon as a rule is broken, and at the end if lines are missing.
    """
    lines = _lines(stream, name)
    first = next(lines, None)
    if first is None:
        _refuse(name, 1, "there is no head")
    try:
        head = msgspec.json.decode(first, type=IndexHead)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise TemplateError(f"{name}, line 1: {error}") from error
    refuse_doubled_keys(first, f"{name}, line 1")
    if head.format > FORMAT_VERSION:
        newest = f"this one reads up to {FORMAT_VERSION}"
        _refuse(name, 1, f"format {head.format} needs a newer release; {newest}")
    if head.format < OLDEST_VERSION:
        _refuse(name, 1, f"there is no format {head.format}")
    if head.chunk_bytes != CHUNK_BYTES:
        _refuse(name, 1, f"chunks of {head.chunk_bytes} bytes, not {CHUNK_BYTES}")
    known = CHUNK_DIGESTS if head.format > 1 else ("sha256",)
    if head.content_digest not in known:
        _refuse(name, 1, f"unknown content digest {head.content_digest!r}")
    most = -(-head.volume_bytes // CHUNK_BYTES) * (1 if head.format < SPANS_VERSION else 2)
    if head.chunks > most:
        _refuse(name, 1, f"{head.chunks} chunks do not fit in {head.volume_bytes} bytes")
    return head, _entries(lines, name, head, _Rules(head, packs, inherited))


def _entries(
    lines: Iterator[bytes], name: str, head: IndexHead, rules: "_Rules"
) -> Iterator[IndexEntry]:
    decoder = msgspec.json.Decoder(IndexEntry)
    number = 1
    for number, line in enumerate(lines, start=2):
        if number - 1 > head.chunks:
            _refuse(name, number, f"more than the {head.chunks} chunks that the head announces")
        try:
            entry = decoder.decode(line)
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            raise TemplateError(f"{name}, line {number}: {error}") from error
        if broken := rules.broken_by(entry):
            _refuse(name, number, broken)
        yield entry
    if number - 1 != head.chunks:
        _refuse(name, number, f"ends after {number - 1} of {head.chunks} chunks")
    if broken := rules.broken_at_end():
        _refuse(name, number, broken)


class _Rules:
    """What an entry must be, given those before it."""

    def __init__(
        self, head: IndexHead, packs: Mapping[int, int] | None, inherited: frozenset[int]
    ) -> None:
        self._volume_bytes = head.volume_bytes
        self._spans = head.format >= SPANS_VERSION
        self._packs = packs
        self._inherited = inherited
        self._order = iter(packs or {})
        self._number = -1
        self._high = 0
        """Where all extents end that came until now."""
        self._beside: IndexEntry | None = None
        """The chunk before, whose number one of zeros may share."""
        self._own = _ZERO_PACK
        self._newest = _ZERO_PACK
        self._ends: dict[int, int] = {}
        """Where the last chunk of a pack ended: of our newest pack, and of inherited ones."""

    def broken_by(self, entry: IndexEntry) -> str | None:
        """Return the rule that `entry` breaks, if any."""
        beside, self._beside = self._beside, entry if entry.pack != _ZERO_PACK else None
        start = entry.number * CHUNK_BYTES
        broken = None
        if beside and self._spans and entry.number == self._number and entry.pack == _ZERO_PACK:
            broken = _apart(beside, entry, self._volume_bytes)
        elif entry.number <= self._number:
            broken = f"chunk {entry.number} comes after chunk {self._number}"
        elif start < self._high:
            broken = f"chunk {entry.number} begins before {self._high}, where the one before ends"
        self._number = entry.number
        return broken or self._extents(entry, start) or self._place(entry)

    def broken_at_end(self) -> str | None:
        if self._packs is None:
            return None
        if broken := self._own_left():
            return broken
        if (left := next(self._order, None)) is not None:
            return f"no chunk is in pack {left}"
        return None

    def _extents(self, entry: IndexEntry, start: int) -> str | None:
        end = self._volume_bytes if self._spans else min(start + CHUNK_BYTES, self._volume_bytes)
        before = -1
        content = 0
        for offset, size in entry.extents:
            if size == 0:
                return f"an empty extent at {offset}"
            if offset < start or offset + size > end:
                return f"extent {offset}+{size} is outside of chunk {entry.number}"
            if offset <= before:
                return f"extent {offset}+{size} does not lie behind the one before, or touches it"
            before = offset + size
            content += size
        if content > CHUNK_BYTES and entry.pack != _ZERO_PACK:
            return f"{content} bytes of content, at most {CHUNK_BYTES} may be"
        if before > self._high:
            self._high = before
        return None

    def _place(self, entry: IndexEntry) -> str | None:
        if entry.pack == _ZERO_PACK:
            if entry.offset or entry.stored_bytes or entry.stored_digest is not None:
                return "a chunk of zeros has no place in a pack"
            if self._spans != (entry.content_digest is None):
                return "a chunk of zeros has no digest, and before format 6 that of its content"
            return None
        if entry.stored_digest is None or entry.content_digest is None:
            return "a stored chunk has two digests"
        if not 0 < entry.stored_bytes <= MAX_STORED_BYTES:
            return f"{entry.stored_bytes} stored bytes, at most {MAX_STORED_BYTES} may be"
        if entry.pack not in self._ends and (broken := self._next_pack(entry.pack)):
            return broken
        end = self._ends[entry.pack]
        if entry.offset < end or (entry.offset > end and entry.pack not in self._inherited):
            return f"offset {entry.offset} in pack {entry.pack}, but {end} is next"
        end = self._ends[entry.pack] = entry.offset + entry.stored_bytes
        limit = PACK_MAX_BYTES if self._packs is None else self._packs[entry.pack]
        if end > limit:
            return f"ends at {end}, beyond the {limit} bytes of pack {entry.pack}"
        return None

    def _next_pack(self, pack: int) -> str | None:
        """Begin a pack. Packs come in the order of the manifest; ours end before the next."""
        if self._packs is not None:
            if (wanted := next(self._order, None)) != pack:
                return f"pack {pack}, but the next of this volume is {wanted}"
        elif pack <= self._newest:
            return f"pack {pack} comes after pack {self._newest}"
        if pack not in self._inherited:
            if broken := self._own_left():
                return broken
            self._ends.pop(self._own, None)
            self._own = pack
        self._newest = pack
        self._ends[pack] = 0
        return None

    def _own_left(self) -> str | None:
        """Return what is wrong if our newest pack is not used to its end."""
        if self._packs is None or self._own == _ZERO_PACK:
            return None
        end, size = self._ends[self._own], self._packs[self._own]
        return None if end == size else f"pack {self._own} has {size} bytes, {end} used"


def _apart(stored: IndexEntry, zeros: IndexEntry, volume_bytes: int) -> str | None:
    """Return what is wrong with zeros that lie in between what is stored, if anything.

    They never share a page, so that it does not matter in which order both are written.
    """
    ends = {0, volume_bytes}
    for offset, size in zeros.extents:
        for at in (offset, offset + size):
            if at % ZEROS_ALIGNMENT and at not in ends:
                return f"zeros beside chunk {stored.number} begin or end at {at}"
    every = sorted((*stored.extents, *zeros.extents))
    for (one, size), (other, _) in pairwise(every):
        if other < one + size:
            return f"zeros beside chunk {stored.number} overlap what it stores, at {other}"
    return None


def _lines(stream: Source, name: str) -> Iterator[bytes]:
    """Yield the lines of the zstd text in `stream`, none longer than MAX_LINE_BYTES.

    Raises TemplateError for anything but one whole frame that ends in a line feed.
    """
    unpack = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
    rest = bytearray()
    number = 0
    while not unpack.eof:
        data = stream.read(_READ_BYTES)
        if not data:
            _refuse(name, number + 1, "the blob ends in the middle of its zstd frame")
        # A few bytes at a time, so that what they unpack to is bounded (4 MiB).
        for start in range(0, len(data), _STEP):
            if unpack.eof:
                _refuse(name, number + 1, "something follows the zstd frame")
            try:
                rest += unpack.decompress(data[start : start + _STEP])
            except zstandard.ZstdError as error:
                raise TemplateError(f"{name}: is not zstd as we know it: {error}") from error
            if len(rest) < _TOGETHER_BYTES and not unpack.eof:
                continue
            *lines, last = bytes(rest).split(b"\n")
            for line in lines:
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    _refuse(name, number, f"longer than {MAX_LINE_BYTES} bytes")
                yield line
            if len(last) > MAX_LINE_BYTES:
                _refuse(name, number + 1, f"longer than {MAX_LINE_BYTES} bytes")
            rest = bytearray(last)
    if unpack.unused_data or stream.read(1):
        _refuse(name, number + 1, "something follows the zstd frame")
    if rest:
        _refuse(name, number + 1, "the last line does not end")


def _refuse(name: str, line: int, rule: str) -> NoReturn:
    raise TemplateError(f"{name}, line {line}: {rule}")


class IndexWriter:
    """Writes an index line by line; `sink` gets compressed bytes as they come."""

    def __init__(self, sink: Sink, head: IndexHead, level: int = 3) -> None:
        self._sink = sink
        self._head = head
        self._written = 0
        compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
        self._zstd = compressor.compressobj()
        self._encoder = msgspec.json.Encoder()
        self._line(head)

    def add(self, entry: IndexEntry) -> None:
        self._written += 1
        self._line(entry)

    def close(self) -> None:
        """End the index. Raises AgentError if it is not what its head announces."""
        if self._written != self._head.chunks:
            raise AgentError(f"{self._written} chunks were read, {self._head.chunks} announced")
        if data := self._zstd.flush():
            self._sink.write(data)

    def _line(self, value: IndexHead | IndexEntry) -> None:
        if data := self._zstd.compress(self._encoder.encode(value) + b"\n"):
            self._sink.write(data)
