"""The index: what is written can be read, and what breaks a rule is refused, fast."""

import contextlib
import io
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import AgentError, TemplateError
from agent.model.template import CHUNK_BYTES, IndexEntry, IndexHead
from agent.store.index import IndexWriter, read_index
from agent.units import MiB

HEX = "ab" * 32
PACKS = {3: 300, 4: 50}


def make_head(**changes: Any) -> dict[str, Any]:
    head = {
        "format": 1,
        "volume": "root",
        "volume_bytes": 100 * MiB,
        "chunk_bytes": CHUNK_BYTES,
        "chunks": 4,
        "content_digest": "sha256",
    }
    return {**head, **changes}


def make_lines() -> list[Any]:
    """Three stored chunks in two packs, and one of zeros."""
    return [
        make_head(),
        [0, [[0, 4096], [8192, 512]], 3, 0, 100, HEX, HEX],
        [1, [[CHUNK_BYTES, CHUNK_BYTES]], 3, 100, 200, HEX, HEX],
        [2, [[2 * CHUNK_BYTES, 512]], -1, 0, 0, None, HEX],
        [24, [[100 * MiB - 512, 512]], 4, 0, 50, HEX, HEX],
    ]


def packed(text: bytes) -> io.BytesIO:
    return io.BytesIO(zstandard.ZstdCompressor(write_checksum=True).compress(text))


def written(lines: list[Any]) -> io.BytesIO:
    return packed(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


def read_all(stream: io.BytesIO, packs: dict[int, int] | None = PACKS) -> list[IndexEntry]:
    _, entries = read_index(stream, packs=packs)
    return list(entries)


def test_what_the_format_page_describes_is_read() -> None:
    head, entries = read_index(written(make_lines()), packs=PACKS)
    assert head.volume == "root"
    assert [entry.number for entry in entries] == [0, 1, 2, 24]


def test_what_is_written_can_be_read() -> None:
    sink = io.BytesIO()
    head = msgspec.convert(make_head(), IndexHead)
    entries = [msgspec.convert(line, IndexEntry) for line in make_lines()[1:]]
    writer = IndexWriter(sink, head)
    for entry in entries:
        writer.add(entry)
    writer.close()
    sink.seek(0)
    assert read_all(sink) == entries


def test_a_writer_keeps_to_what_it_announced() -> None:
    writer = IndexWriter(io.BytesIO(), msgspec.convert(make_head(), IndexHead))
    with pytest.raises(AgentError, match="0 chunks were read, 4 announced"):
        writer.close()


def edit(line: int, place: Any, value: Any) -> Callable[[list[Any]], None]:
    def change(lines: list[Any]) -> None:
        lines[line][place] = value

    return change


BAD = {
    "newer format": (edit(0, "format", 7), "line 1: format 7 needs a newer release"),
    "no such format": (edit(0, "format", 0), "line 1: there is no format 0"),
    "other chunks": (edit(0, "chunk_bytes", 65536), "line 1: chunks of 65536 bytes"),
    "other digest": (edit(0, "content_digest", "md5"), "line 1: unknown content digest 'md5'"),
    "too many chunks": (edit(0, "chunks", 26), "line 1: 26 chunks do not fit"),
    "huge volume": (edit(0, "volume_bytes", 2**63), "line 1: Expected `int` <= 9223372036854775"),
    "negative volume": (edit(0, "volume_bytes", -1), "line 1: Expected `int` >= 0"),
    "unknown field": (edit(0, "extra", 1), "line 1: .*unknown field `extra`"),
    "bad volume": (edit(0, "volume", "../x"), "line 1: Expected `str` matching regex"),
    "fewer lines": (edit(0, "chunks", 5), "line 5: ends after 4 of 5 chunks"),
    "more lines": (edit(0, "chunks", 3), "line 5: more than the 3 chunks"),
    "unsorted": (edit(2, 0, 0), "line 3: chunk 0 comes after chunk 0"),
    "negative number": (edit(1, 0, -1), "line 2: Expected `int` >= 0"),
    "no extents": (edit(1, 1, []), "line 2: Expected `array` of length >= 1"),
    "empty extent": (edit(1, 1, [[0, 0]]), "line 2: an empty extent at 0"),
    "negative extent": (edit(1, 1, [[-512, 512]]), "line 2: Expected `int` >= 0"),
    "2^63": (edit(1, 1, [[0, 2**63 - 1]]), "line 2: extent 0.9223372036854775807 is outside"),
    "beyond 2^63": (edit(1, 1, [[0, 2**64]]), "line 2: "),
    "other chunk's": (edit(1, 1, [[CHUNK_BYTES, 512]]), "line 2: extent .* is outside of chunk 0"),
    "over the border": (edit(1, 1, [[4096, CHUNK_BYTES]]), "line 2: extent .* is outside"),
    "zeros without content digest": (edit(3, 6, None), "line 4: a chunk of zeros has no digest, a"),
    "over the volume": (edit(4, 1, [[100 * MiB - 512, 1024]]), "line 5: extent .* is outside"),
    "overlap": (
        edit(1, 1, [[0, 4096], [512, 4096]]),
        "line 2: extent 512.4096 does not lie behind",
    ),
    "touching": (edit(1, 1, [[0, 512], [512, 512]]), "line 2: extent 512.512 .* touches"),
    "backwards": (edit(1, 1, [[512, 512], [0, 256]]), "line 2: extent 0.256 does not lie behind"),
    "three numbers": (edit(1, 1, [[0, 512, 1]]), "line 2: Expected `array` of length 2"),
    "a float": (edit(1, 1, [[0, 512.5]]), "line 2: Expected `int`, got `float`"),
    "text": (edit(1, 3, "0"), "line 2: Expected `int`, got `str`"),
    "zeros with bytes": (edit(3, 4, 7), "line 4: a chunk of zeros has no place"),
    "zeros with a digest": (edit(3, 5, HEX), "line 4: a chunk of zeros has no place"),
    "stored without digest": (edit(1, 5, None), "line 2: a stored chunk has two digests"),
    "stored without content digest": (edit(1, 6, None), "line 2: a stored chunk has two digests"),
    "nothing stored": (edit(1, 4, 0), "line 2: 0 stored bytes"),
    "too much stored": (edit(1, 4, 5 * MiB), "line 2: 5242880 stored bytes, at most"),
    "bad digest": (edit(1, 6, "AB" * 32), "line 2: Expected `str` matching"),
    "digest with line feed": (edit(1, 6, HEX + "\n"), "line 2: Expected `str` matching"),
    "first not at 0": (edit(1, 3, 1), "line 2: offset 1 in pack 3, but 0 is next"),
    "a gap in the pack": (edit(2, 3, 101), "line 3: offset 101 in pack 3, but 100 is next"),
    "overlap in the pack": (edit(2, 3, 99), "line 3: offset 99 in pack 3, but 100 is next"),
    "pack too short": (edit(2, 4, 199), "line 5: pack 3 has 300 bytes, 299 used"),
    "beyond the pack": (edit(2, 4, 201), "line 3: ends at 301, beyond the 300 bytes of pack 3"),
    "foreign pack": (edit(1, 2, 0), "line 2: pack 0, but the next of this volume is 3"),
    "pack left out": (edit(1, 2, 4), "line 2: pack 4, but the next of this volume is 3"),
    "last pack too short": (edit(4, 4, 49), "line 5: pack 4 has 50 bytes, 49 used"),
    "too long a line": (edit(1, slice(7, 7), [0]), "line 2: "),
}


@pytest.mark.parametrize("name", BAD)
def test_a_broken_rule_is_named(name: str) -> None:
    change, message = BAD[name]
    lines = make_lines()
    change(lines)
    with pytest.raises(TemplateError, match=message):
        read_all(written(lines))


def spans(*changes: Callable[[list[Any]], None]) -> list[Any]:
    """As `make_lines`, in the format that has chunks of several windows."""
    lines = make_lines()
    lines[0]["format"] = 6
    lines[3][6] = None
    for change in changes:
        change(lines)
    return lines


def beside(*zeros: tuple[int, int]) -> list[Any]:
    """Zeros right after the first chunk, which stores 0 to 4096 and 8192 to 8704."""
    lines = spans()
    lines.insert(2, [0, [list(run) for run in zeros], -1, 0, 0, None, None])
    lines[0]["chunks"] += 1
    return lines


def test_zeros_may_lie_in_between_what_is_stored() -> None:
    lines = beside((4096, 4096), (12288, CHUNK_BYTES - 12288))
    assert [entry.pack for entry in read_all(written(lines))] == [3, -1, 3, -1, 4]
    lines[4][1] = [[2 * CHUNK_BYTES, 20 * CHUNK_BYTES]]
    assert len(read_all(written(lines))) == 5


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (beside((8192, 4096)), "line 3: zeros beside chunk 0 overlap what it stores, at 8192"),
        (beside((4096, 8192)), "line 3: zeros beside chunk 0 overlap what it stores, at 8192"),
        (beside((0, 16384)), "line 3: zeros beside chunk 0 overlap what it stores, at"),
        (beside((8704, 3584)), "line 3: zeros beside chunk 0 begin or end at 8704"),
        (beside((12288, 512)), "line 3: zeros beside chunk 0 begin or end at 12800"),
        (beside((12288, CHUNK_BYTES)), "line 4: chunk 1 begins before 4206592"),
        (
            [*spans()[:4], [2, [[3 * CHUNK_BYTES, 512]], -1, 0, 0, None, None]],
            "line 5: chunk 2 comes after chunk 2",
        ),
        (
            [*make_lines()[:2], [0, [[4096, 4096]], -1, 0, 0, None, HEX], *make_lines()[2:4]],
            "line 3: chunk 0 comes after chunk 0",
        ),
        (spans(edit(2, 1, [[0, 512]])), "line 3: extent 0.512 is outside of chunk 1"),
        (spans(edit(1, 1, [[4096, CHUNK_BYTES]])), "chunk 1 begins before 4198400, where"),
        (spans(edit(0, "chunks", 51)), "line 1: 51 chunks do not fit"),
        (spans(edit(3, 6, HEX)), "line 4: a chunk of zeros has no digest, a"),
        (
            spans(edit(2, 1, [[CHUNK_BYTES, 4096], [2 * CHUNK_BYTES, CHUNK_BYTES]])),
            "line 3: 4198400 bytes of content, at most 4194304 may be",
        ),
    ],
)
def test_what_no_span_can_hold_is_refused(lines: list[Any], message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        read_all(written(lines))


def test_an_unused_pack_is_refused() -> None:
    with pytest.raises(TemplateError, match="no chunk is in pack 9"):
        read_all(written(make_lines()), {**PACKS, 9: 10})


TEXTS = {
    "nothing": b"",
    "no line feed": b'{"format":1}',
    "not JSON": b"hello\n",
    "NaN": b'{"format":NaN}\n',
    "infinity": b'{"format":1e999}\n',
    "not UTF-8": b'{"volume":"\xff"}\n',
    "deep nesting": b"[" * 500_000 + b"\n",
    "a deep entry": msgspec.json.encode(make_head()) + b"\n" + b"[" * 500_000 + b"\n",
    "a long line": b'{"volume":"' + b"a" * 2 * MiB + b'"}\n',
    "a million empty lines": msgspec.json.encode(make_head()) + b"\n" + b"\n" * 10**6,
    "a bomb of zeros": bytes(256 * MiB),
    "a bomb of line feeds": b"\n" * (256 * MiB),
}


@pytest.mark.parametrize("name", TEXTS)
def test_hostile_text_is_refused_within_a_second(name: str) -> None:
    stream = packed(TEXTS[name])
    started = time.monotonic()
    with pytest.raises(TemplateError):
        read_all(stream)
    assert time.monotonic() - started < 1


def test_a_million_entries_that_cannot_be_are_refused_at_the_head() -> None:
    head = make_head(chunks=10**6)
    line = msgspec.json.encode(make_lines()[1]) + b"\n"
    stream = packed(msgspec.json.encode(head) + b"\n" + line * 10**6)
    started = time.monotonic()
    with pytest.raises(TemplateError, match="line 1: 1000000 chunks do not fit"):
        read_all(stream)
    assert time.monotonic() - started < 1


def test_a_window_too_large_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    text = written(make_lines()).read()
    plain = zstandard.ZstdDecompressor().decompress(text)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    stream = io.BytesIO(compressor.compress(plain) + compressor.flush())
    with pytest.raises(TemplateError, match=r"zstd|memory"):
        read_all(stream)


def test_bytes_after_the_frame_are_refused() -> None:
    good = written(make_lines()).read()
    for more in (b"x", good, bytes(300_000)):
        with pytest.raises(TemplateError, match="something follows the zstd frame"):
            read_all(io.BytesIO(good + more))


def test_every_truncation_is_refused() -> None:
    good = written(make_lines()).read()
    for end in range(len(good)):
        with pytest.raises(TemplateError):
            read_all(io.BytesIO(good[:end]))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_comes_is_an_index_or_a_template_error(data: st.DataObject) -> None:
    lines = make_lines()
    line = data.draw(st.integers(0, len(lines) - 1))
    junk = st.recursive(
        st.none() | st.integers() | st.floats() | st.text(max_size=9) | st.booleans(),
        lambda inner: st.lists(inner, max_size=4),
        max_leaves=8,
    )
    if line == 0:
        lines[0][data.draw(st.sampled_from(sorted(lines[0])))] = data.draw(junk)
    else:
        lines[line][data.draw(st.integers(0, 6))] = data.draw(junk)
    try:
        text = written(lines)
    except (msgspec.MsgspecError, ValueError, OverflowError):
        return
    with contextlib.suppress(TemplateError):
        read_all(text)
