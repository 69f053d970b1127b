"""Templates made to hurt, out of a good one, by name: `CASES`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import zstandard

from agent.model import wire
from agent.model.template import (
    CHUNK_BYTES,
    FORMAT_VERSION,
)
from agent.store.template import open_template
from agent.units import MiB
from tests.contracts.fake_registry import sha256
from tests.contracts.hostile_frames import (
    bomb,
    declaring,
    frame,
    huge_window,
    skippable,
    with_dictionary,
)
from tests.contracts.hostile_maker import HEX, Maker, as_line
from tests.contracts.seeds import draw

SIZE = 13 * MiB
FORMAT = b'"format":%d' % FORMAT_VERSION


def put(line: int, place: int, value: Any) -> Callable[[list[Any]], None]:
    def change(lines: list[Any]) -> None:
        lines[line][place] = value

    return change


def head(**fields: Any) -> Callable[[list[Any]], None]:
    return lambda lines: lines[0].update(fields)


def raw(line: int, text: bytes) -> Callable[[list[Any]], None]:
    def change(lines: list[Any]) -> None:
        lines[line] = text + b"\n"

    return change


def stored_line(maker: Maker, which: int = 0) -> int:
    """Return the line of the index with the stored chunk `which`."""
    return [n for n, line in enumerate(maker.lines) if n and line[2] >= 0][which]


def swapped(lines: list[Any]) -> None:
    lines[1], lines[2] = lines[2], lines[1]


def doubled(lines: list[Any]) -> None:
    lines.insert(2, list(lines[1]))


def million(lines: list[Any]) -> None:
    lines[1:] = [b"[%d,[[%d,512]],-1,0,0,null,null]\n" % (n, n * CHUNK_BYTES) for n in range(10**6)]


def all_but_the_last(maker: Maker) -> str:
    """Return a template of 4 TB whose index is right up to the last of its million lines."""
    count = 10**6
    size = count * CHUNK_BYTES
    head = maker.lines[0] | {"volume_bytes": size, "chunks": count}
    line = b"[%d,[[%d,512]],-1,0,0,null,null]\n"
    lines = [line % (n, n * CHUNK_BYTES) for n in range(count - 1)]
    lines.append(line % (count - 1, size))
    layers = maker.good.manifest.layers[:1]
    larger = with_number(maker, b"size_bytes", SIZE, size)
    text = frame(b"".join((as_line(head), *lines)))
    changed = msgspec.structs.replace(layers[0], digest=maker.blob(text), size=len(text))
    manifest = open_template(maker.good.client, larger).manifest
    return maker.push(msgspec.structs.replace(manifest, layers=(changed,)))


def with_zeros(maker: Maker, offset: int, size: int) -> str:
    """Return a template with zeros beside the first stored chunk, `offset` behind its start."""

    def change(lines: list[Any]) -> None:
        place = stored_line(maker)
        number, ((start, _), *_) = lines[place][:2]
        zeros = [number, [[start + offset, size]], -1, 0, 0, None, None]
        lines.insert(place + 1, zeros)
        lines[0]["chunks"] += 1

    return maker.text(change)


def with_field(maker: Maker, at: int, value: int) -> str:
    return maker.text(put(stored_line(maker), at, value))


NUMBERS = {
    "-1": -1,
    "2^31": 2**31,
    "2^32": 2**32,
    "2^63-1": 2**63 - 1,
    "2^63": 2**63,
    "2^64": 2**64,
}
FIELDS = {"number": 0, "pack": 2, "offset": 3, "stored": 4}
INDEX: dict[str, Callable[[Maker], str]] = {
    **{
        f"{field} {name}": partial(with_field, at=at, value=value)
        for field, at in FIELDS.items()
        for name, value in NUMBERS.items()
    },
    **{
        f"extent at {name}": partial(Maker.text, change=put(1, 1, [[value, 512]]))
        for name, value in NUMBERS.items()
    },
    **{
        f"extent of {name}": partial(Maker.text, change=put(1, 1, [[0, value]]))
        for name, value in NUMBERS.items()
    },
    **{
        f"head: {key} {name}": partial(Maker.text, change=head(**{key: value}))
        for key in ("format", "chunks", "volume_bytes", "chunk_bytes")
        for name, value in NUMBERS.items()
    },
    "overlapping extents": lambda maker: maker.text(put(1, 1, [[0, 4096], [512, 4096]])),
    "extents backwards": lambda maker: maker.text(put(1, 1, [[8192, 512], [0, 512]])),
    "unsorted": lambda maker: maker.text(swapped),
    "a chunk twice": lambda maker: maker.text(doubled),
    "a chunk of two windows, full": lambda maker: maker.text(put(1, 1, [[0, 2 * CHUNK_BYTES]])),
    "zeros over what is stored": partial(with_zeros, offset=4096, size=4096),
    "zeros in a part of a page": partial(with_zeros, offset=512, size=512),
    "zeros over the next chunk": partial(with_zeros, offset=CHUNK_BYTES, size=CHUNK_BYTES),
    "a million entries": lambda maker: maker.text(million),
    "a million entries, the last one wrong": all_but_the_last,
    "an overlap in a pack": lambda maker: maker.text(put(stored_line(maker, 1), 3, 1)),
    "NaN": lambda maker: maker.text(raw(1, b'[NaN,[[0,512]],-1,0,0,null,"%s"]' % HEX.encode())),
    "NaN in the head": lambda maker: maker.text(raw(0, b'{"format":NaN}')),
    "Infinity": lambda maker: maker.text(raw(1, b"[Infinity]")),
    "nested deep": lambda maker: maker.text(raw(1, b"[" * 200_000 + b"]" * 200_000)),
    "nested deep in an entry": lambda maker: maker.text(
        raw(1, b"[0," + b"[" * 200_000 + b"]" * 200_000 + b"]")
    ),
    "a digit a million times": lambda maker: maker.text(raw(1, b"[" + b"9" * 10**6 + b"]")),
    "a line of 2 MiB": lambda maker: maker.text(raw(1, b" " * (2 * MiB))),
    "no line at all": lambda maker: maker.index(frame(b"")),
    "a key twice in the head": lambda maker: maker.text(
        raw(0, twice(b'"format":1', as_line(maker.lines[0]).rstrip()))
    ),
    "a key twice, escaped": lambda maker: maker.text(
        raw(0, twice(rb'"form\u0061t":1', as_line(maker.lines[0]).rstrip()))
    ),
    "not UTF-8": lambda maker: maker.text(raw(1, b'["\xff\xfe"]')),
    "a bomb of zeros": lambda maker: maker.index(bomb(1024 * MiB, b"\0")),
    "a bomb of lines": lambda maker: maker.index(bomb(1024 * MiB, b"\n")),
    "a bomb after the head": lambda maker: maker.index(
        bomb(1024 * MiB, b"[", head=as_line(maker.lines[0]))
    ),
    "a huge window": lambda maker: maker.index(huge_window(text_of(maker))),
    "a skippable frame first": lambda maker: maker.index(
        skippable() + maker.registry.blobs[maker.good.blobs["root"].index.digest]
    ),
    "a skippable frame last": lambda maker: maker.index(
        maker.registry.blobs[maker.good.blobs["root"].index.digest] + skippable()
    ),
    "two frames": lambda maker: maker.index(
        2 * maker.registry.blobs[maker.good.blobs["root"].index.digest]
    ),
    "one byte more": lambda maker: maker.index(
        maker.registry.blobs[maker.good.blobs["root"].index.digest] + b"x"
    ),
    "one byte less": lambda maker: maker.index(
        maker.registry.blobs[maker.good.blobs["root"].index.digest][:-1]
    ),
    "a dictionary": lambda maker: maker.index(with_dictionary()),
    "not zstd": lambda maker: maker.index(b"{}" * 1000),
    "empty": lambda maker: maker.index(b""),
    "parent's packs: going back": lambda maker: maker.inherited(put(stored_line(maker, 1), 3, 0)),
    "parent's packs: beyond the end": lambda maker: maker.inherited(
        put(stored_line(maker), 3, 500 * MiB)
    ),
}


def text_of(maker: Maker) -> bytes:
    return b"".join(as_line(line) for line in maker.lines)


def twice(key: bytes, data: bytes) -> bytes:
    """Return a JSON object with one more `key` in front."""
    return b"{" + key + b"," + data[1:]


def good_manifest(maker: Maker) -> bytes:
    return wire.encode(maker.good.manifest)


def good_config(maker: Maker) -> bytes:
    return wire.encode(maker.good.config)


def first_size(value: str) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        parts = data.rpartition(b'"size":')
        rest = parts[2].lstrip(b"0123456789")
        return parts[0] + parts[1] + value.encode() + rest

    return change


def with_size(maker: Maker, value: int) -> str:
    return maker.manifest(first_size(str(value))(good_manifest(maker)))


def with_number(maker: Maker, key: bytes, was: int, value: int) -> str:
    """Return a template whose config has another number wherever it had `"key":was`."""
    text = b'"%b":%d'
    return maker.config(good_config(maker).replace(text % (key, was), text % (key, value)))


MANIFEST: dict[str, Callable[[Maker], str]] = {
    **{f"size {name}": partial(with_size, value=value) for name, value in NUMBERS.items()},
    "size NaN": lambda maker: maker.manifest(first_size("NaN")(good_manifest(maker))),
    "a key twice": lambda maker: maker.manifest(twice(b'"layers":[]', good_manifest(maker))),
    "two million objects": lambda maker: maker.manifest(
        twice(b'"x":[' + b",".join([b"{}"] * 10**6) + b"]", good_manifest(maker))
    ),
    "two million lists": lambda maker: maker.manifest(
        twice(b'"layers":[],"x":[' + b",".join([b"[]"] * 10**6) + b"]", good_manifest(maker))
    ),
    "nested deep": lambda maker: maker.manifest(b'{"layers":' + b"[" * 10**6),
    "annotations nested deep": lambda maker: maker.manifest(
        twice(b'"x":' + b'{"x":' * 300_000 + b"1" + b"}" * 300_000, good_manifest(maker))
    ),
    "longer than may be": lambda maker: maker.manifest(good_manifest(maker) + b" " * (5 * MiB)),
    "12,000 layers": lambda maker: maker.push(
        msgspec.structs.replace(maker.good.manifest, layers=maker.good.manifest.layers[:1] * 12_000)
    ),
    "no JSON": lambda maker: maker.manifest(b"\x28\xb5\x2f\xfd" * 1000),
    "empty": lambda maker: maker.manifest(b""),
    "a list": lambda maker: maker.manifest(b"[]"),
    "no config": lambda maker: maker.manifest(b'{"schemaVersion":2,"layers":[]}'),
}

CONFIG: dict[str, Callable[[Maker], str]] = {
    **{
        f"format {name}": partial(with_number, key=b"format", was=FORMAT_VERSION, value=value)
        for name, value in NUMBERS.items()
    },
    **{
        f"volume of {name}": partial(with_number, key=b"size_bytes", was=SIZE, value=value)
        for name, value in NUMBERS.items()
    },
    "a key twice": lambda maker: maker.config(twice(b'"name":"other"', good_config(maker))),
    "a key twice, within": lambda maker: maker.config(
        good_config(maker).replace(b'"volumes":', b'"volumes":[],"volumes":')
    ),
    "NaN": lambda maker: maker.config(good_config(maker).replace(FORMAT, b'"format":NaN')),
    "nested deep": lambda maker: maker.config(b"{" + FORMAT + b',"os":' + b"[" * 10**6),
    "nested deep, unknown": lambda maker: maker.config(
        twice(b'"x":' + b"[" * 10**6 + b"]" * 10**6, good_config(maker))
    ),
    "longer than may be": lambda maker: maker.config(good_config(maker) + b" " * (5 * MiB)),
    "a bomb": lambda maker: maker.config(bomb(1024 * MiB, b" ")),
    "empty": lambda maker: maker.config(b""),
    "two documents": lambda maker: maker.config(2 * good_config(maker)),
}


def other_template(maker: Maker) -> str:
    """Return a template with the pack of another one, of the same size."""
    return maker.pack(lambda data: draw("other").randbytes(len(data)))


def end_of_first_chunk(maker: Maker) -> int:
    line = maker.lines[stored_line(maker)]
    return int(line[3] + line[4])


def pack_frame(change: Callable[[bytes], bytes]) -> Callable[[Maker], str]:
    """Return a template whose first stored chunk is another frame, rightly described.

    `change` makes it of the content that it should have.
    """

    def make(maker: Maker) -> str:
        lines, place = maker.lines, stored_line(maker)
        old = lines[place][4]
        pack = maker.registry.blobs[maker.good.manifest.packs[0].digest]
        data = change(zstandard.ZstdDecompressor().decompress(pack[:old]))
        for line in lines[place + 1 :]:
            if line[2] == lines[place][2]:
                line[3] += len(data) - old
        lines[place][4:6] = [len(data), sha256(data).removeprefix("sha256:")]
        lines[0].update(content_digest="sha256")
        digest = maker.pack(lambda pack: data + pack[old:])
        changed = Maker(maker.registry, open_template(maker.good.client, digest))
        return changed.index(frame(b"".join(as_line(line) for line in lines)))

    return make


PACK: dict[str, Callable[[Maker], str]] = {
    "cut at a chunk's end": lambda maker: maker.pack(
        lambda data: data[: end_of_first_chunk(maker)]
    ),
    "cut inside a chunk": lambda maker: maker.pack(lambda data: data[:-1]),
    "a byte more": lambda maker: maker.pack(lambda data: data + b"x"),
    "a frame more": lambda maker: maker.pack(lambda data: data + frame(b"more")),
    "a skippable frame more": lambda maker: maker.pack(lambda data: data + skippable()),
    "another template's": other_template,
    "a bomb": pack_frame(lambda _: bomb(1024 * MiB, b"\0")),
    "a bomb that declares a chunk": pack_frame(
        lambda text: declaring(len(text), bomb(1024 * MiB, b"\0"))
    ),
    "a huge window": pack_frame(lambda text: declaring(len(text), huge_window(text))),
    "a skippable frame": pack_frame(lambda _: skippable()),
    "a dictionary": pack_frame(with_dictionary),
    "two frames": pack_frame(lambda text: frame(text) + frame(b"more")),
    "no checksum": pack_frame(zstandard.ZstdCompressor().compress),
}

CASES = {
    f"{kind}: {name}": make
    for kind, cases in (
        ("index", INDEX),
        ("manifest", MANIFEST),
        ("config", CONFIG),
        ("pack", PACK),
    )
    for name, make in cases.items()
}
