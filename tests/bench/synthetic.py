"""Templates and sources that nobody has on a disk: the bookkeeping is real, the data is small."""

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from agent.model import wire
from agent.model.template import (
    ARTIFACT_TYPE,
    CHUNK_BYTES,
    CONFIG_TYPE,
    FORMAT_VERSION,
    INDEX_TYPE,
    MANIFEST_TYPE,
    PACK_TYPE,
    VOLUME_ANNOTATION,
    Descriptor,
    IndexEntry,
    IndexHead,
    Manifest,
)
from agent.store.digests import CHUNK_DIGESTS, DIGEST
from agent.store.index import IndexWriter
from agent.store.layout import LayoutFolder
from agent.store.pack import Encoder
from tests.bench.contents import DIGITS
from tests.bench.setting import TAG
from tests.contracts.stream_builders import make_config, make_volume

PAGE: Final = 4096
_ANNOTATIONS: Final = {VOLUME_ANNOTATION: "root"}


def make_template(folder: Path, chunks: int, stored: Callable[[int], int], per_pack: int) -> bytes:
    """Make a layout folder with a template of `chunks` chunks; return its manifest.

    `stored` says of how many random bytes at its start a chunk consists; 0: it is all zeros.
    So many stored chunks are in a pack.
    """
    layout = LayoutFolder(folder)
    layout.prepare()
    work = _Maker(folder / "blobs" / "sha256", per_pack)
    volume = make_volume(chunks * CHUNK_BYTES)
    head = IndexHead(
        format=FORMAT_VERSION,
        volume="root",
        volume_bytes=volume.size_bytes,
        chunk_bytes=CHUNK_BYTES,
        chunks=chunks,
        content_digest=DIGEST,
    )
    half = folder / "index"
    used = 0
    with half.open("wb") as sink:
        index = IndexWriter(sink, head)
        for entry in work.entries(chunks, stored):
            index.add(entry)
            used += sum(size for _, size in entry.extents)
        index.close()
    config = make_config(msgspec.structs.replace(volume, used_bytes=used))
    manifest = Manifest(
        schema_version=2,
        media_type=MANIFEST_TYPE,
        artifact_type=ARTIFACT_TYPE,
        config=work.blob(wire.encode(config), CONFIG_TYPE, {}),
        layers=(work.blob(half.read_bytes(), INDEX_TYPE, _ANNOTATIONS), *work.packs),
    )
    half.unlink()
    data = wire.encode(manifest)
    layout.put_manifest(data, TAG, ARTIFACT_TYPE)
    return data


class _Maker:
    """Makes packs of random chunks, each chunk its own."""

    def __init__(self, blobs: Path, per_pack: int) -> None:
        self.packs: list[Descriptor] = []
        self._blobs = blobs
        self._per_pack = per_pack
        self._noise = random.Random(1)
        self._encoder = Encoder(1)
        self._digest = CHUNK_DIGESTS[DIGEST]

    def entries(self, chunks: int, stored: Callable[[int], int]) -> Iterator[IndexEntry]:
        pack = bytearray()
        inside = 0
        for number in range(chunks):
            at = number * CHUNK_BYTES
            size = stored(number)
            if not size:
                yield IndexEntry(number, ((at, CHUNK_BYTES),), -1, 0, 0, None, None)
                continue
            content = self._noise.randbytes(size)
            frame = self._encoder.encode(content)
            place = (len(self.packs), len(pack), len(frame), self._digest(frame))
            yield IndexEntry(number, ((at, size),), *place, self._digest(content))
            pack += frame
            inside += 1
            if inside == self._per_pack:
                self.packs.append(self.blob(bytes(pack), PACK_TYPE, _ANNOTATIONS))
                pack, inside = bytearray(), 0
        if pack:
            self.packs.append(self.blob(bytes(pack), PACK_TYPE, _ANNOTATIONS))

    def blob(self, data: bytes, media_type: str, annotations: dict[str, str]) -> Descriptor:
        name = hashlib.sha256(data).hexdigest()
        (self._blobs / name).write_bytes(data)
        return Descriptor(
            media_type=media_type,
            digest=f"sha256:{name}",
            size=len(data),
            annotations=annotations,
        )


def make_source(disk: Path, chunks: int, filled: Callable[[int], int], runs: Path) -> str:
    """Make a sparse disk and, in `runs`, the list of what is used of it: two pages a chunk.

    `filled` says how many random bytes are written at the start of a chunk; with more than a
    page, those are used. Returns the first digits of the SHA-256 of what was written and listed.
    """
    noise = random.Random(2)
    digest = hashlib.sha256()
    with disk.open("wb") as file, runs.open("w") as lines:
        file.truncate(chunks * CHUNK_BYTES)
        for number in range(chunks):
            at, size = number * CHUNK_BYTES, filled(number)
            if size:
                data = noise.randbytes(size)
                file.seek(at)
                file.write(data)
                digest.update(data)
            listed = "".join(_lines(at, max(size, PAGE)))
            lines.write(listed)
            digest.update(listed.encode())
    return digest.hexdigest()[:DIGITS]


def _lines(at: int, size: int) -> Iterable[str]:
    yield f"{at} {size}\n"
    if size <= CHUNK_BYTES // 2:
        yield f"{at + CHUNK_BYTES // 2} {PAGE}\n"
