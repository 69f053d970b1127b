"""A template in a registry: opened and checked, ready to be read from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

import msgspec

from agent.errors import TemplateError
from agent.model.layout import Layout, Swap, Volume
from agent.model.template import (
    ARTIFACT_TYPE,
    CONFIG_MAX_BYTES,
    CONFIG_TYPE,
    FORMAT_VERSION,
    FROM_ANNOTATION,
    INDEX_TYPE,
    MANIFEST_MAX_BYTES,
    MANIFEST_TYPE,
    OLDEST_VERSION,
    PACK_MAX_BYTES,
    PACK_TYPE,
    VOLUME_ANNOTATION,
    Descriptor,
    Digest,
    IndexEntry,
    IndexHead,
    Manifest,
    TemplateConfig,
)
from agent.model.wire import decode, refuse_doubled_keys
from agent.store.index import read_index
from agent.store.retry import Transient, Tries
from agent.store.source import BlobSource
from agent.units import MiB

_INDEX_IN_MEMORY: Final = 8 * MiB
_INDEX_PIECE: Final = 1 * MiB
_INDEX_MAX_BYTES: Final = 4096 * MiB


@dataclass(frozen=True, slots=True)
class VolumeBlobs:
    """Where one volume's data is. `packs` maps a pack's number in the manifest to the blob."""

    index: Descriptor
    packs: Mapping[int, Descriptor]

    @property
    def inherited(self) -> frozenset[int]:
        """The packs that were made for another template: not all of them need be used."""
        return frozenset(n for n, pack in self.packs.items() if FROM_ANNOTATION in pack.annotations)


@dataclass(frozen=True, slots=True)
class Template:
    """A template whose manifest and config have been verified and understood."""

    client: BlobSource
    digest: Digest
    manifest: Manifest
    config: TemplateConfig
    blobs: Mapping[str, VolumeBlobs]
    """By volume id; a volume without data (swap) has none."""

    @property
    def layout(self) -> Layout:
        return self.config.layout

    @property
    def stored_bytes(self) -> int:
        return sum(layer.size for layer in self.manifest.layers)

    def volume(self, volume_id: str) -> Volume:
        return self.layout.volume(volume_id)

    def data_of(self, volume_id: str) -> VolumeBlobs:
        """Return where the data of a volume is. Raises TemplateError if it has none."""
        if volume_id not in self.blobs:
            raise TemplateError(f"volume {volume_id} of the template has no data")
        return self.blobs[volume_id]

    def entries(self, volume_id: str) -> tuple[IndexHead, Iterator[IndexEntry]]:
        """Return head and entries of a volume's index, whose digest has been verified first."""
        blobs = self.data_of(volume_id)
        sizes = {number: pack.size for number, pack in blobs.packs.items()}
        name = f"index {blobs.index.digest[:19]} of {volume_id}"
        head, entries = read_index(
            VerifiedBlob(self.client, blobs.index),
            name=name,
            packs=sizes,
            inherited=blobs.inherited,
        )
        wanted = (volume_id, self.volume(volume_id).size_bytes)
        if (head.volume, head.volume_bytes) != wanted:
            raise TemplateError(
                f"{name}, line 1: is for {head.volume} of {head.volume_bytes} bytes, "
                f"not for {wanted[0]} of {wanted[1]}"
            )
        return head, entries


def open_template(client: BlobSource, digest: Digest) -> Template:
    """Return the template that `digest` (or a tag) names.

    Verified: the manifest against its digest, the config against the manifest, the types and
    the order of the layers, and that each index is there. Nothing of the data is read.
    """
    data, found = client.manifest(digest)
    manifest = read_manifest(data, f"manifest {found[:19]}")
    config = read_config(client.blob(manifest.config, CONFIG_MAX_BYTES), manifest.config.digest)
    blobs = _sorted_layers(manifest, found, config.layout)
    for volume_id, volume in blobs.items():
        if not client.has_blob(volume.index.digest):
            raise TemplateError(f"the index of {volume_id} is missing: {volume.index.digest}")
    return Template(client, found, manifest, config, blobs)


def check_index(template: Template, volume: str) -> None:
    """Read the index of a volume to its end. Raises TemplateError at a rule that is broken."""
    for _ in template.entries(volume)[1]:
        pass


def check_indexes(template: Template) -> None:
    """Read every index to its end. Raises TemplateError at the first rule that is broken."""
    for volume in template.blobs:
        check_index(template, volume)


def check_complete(template: Template) -> None:
    """See that each index is right to its end and each pack there, before a disk depends on it.

    What is in the packs is verified as it is restored. Raises TemplateError, ServerError.
    """
    check_indexes(template)
    for volume, blobs in template.blobs.items():
        for digest in {pack.digest for pack in blobs.packs.values()}:
            if not template.client.has_blob(digest):
                raise TemplateError(
                    f"a pack of {volume} is missing: {digest}",
                    hint="metalcast template verify says what else is",
                )


def read_manifest(data: bytes, name: str) -> Manifest:
    """Return the manifest in `data` if it is that of a template."""
    manifest = decode(data, Manifest, name, MANIFEST_MAX_BYTES)
    refuse_doubled_keys(data, name)
    if manifest.schema_version != 2 or manifest.media_type not in ("", MANIFEST_TYPE):
        raise TemplateError(f"{name}: not an OCI image manifest: {manifest.media_type!r}")
    if manifest.artifact_type != ARTIFACT_TYPE or manifest.config.media_type != CONFIG_TYPE:
        kind = manifest.artifact_type or manifest.config.media_type
        raise TemplateError(f"{name}: not a template of ours but {kind!r}")
    return manifest


class _Format(msgspec.Struct):
    format: int


def read_config(data: bytes, digest: Digest) -> TemplateConfig:
    name = f"config {digest[:19]}"
    version = decode(data, _Format, name, CONFIG_MAX_BYTES).format
    if version > FORMAT_VERSION:
        raise TemplateError(
            f"{name}: format {version} is newer than this release, which reads {FORMAT_VERSION}",
            hint=f"use a release of Metalcast that reads format {version}",
        )
    if version < OLDEST_VERSION:
        raise TemplateError(f"{name}: there is no format {version}")
    config = decode(data, TemplateConfig, name, CONFIG_MAX_BYTES)
    refuse_doubled_keys(data, name)
    if version == 1 and (config.parent or config.holes):
        raise TemplateError(f"{name}: format 1 has neither parent nor holes")
    return config


def _sorted_layers(manifest: Manifest, digest: Digest, layout: Layout) -> dict[str, VolumeBlobs]:
    """Return the layers by volume. Raises TemplateError unless each index leads its packs."""
    volumes = {volume.id: volume for volume in layout.volumes}
    found: dict[str, VolumeBlobs] = {}
    packs: dict[int, Descriptor] = {}
    number = 0
    last: str | None = None
    for place, layer in enumerate(manifest.layers):
        where = f"layer {place} ({layer.digest[:19]}) of manifest {digest[:19]}"
        volume_id = layer.annotations.get(VOLUME_ANNOTATION)
        if volume_id is None or volume_id not in volumes:
            raise TemplateError(f"{where}: the layout has no volume {volume_id!r}")
        if layer.media_type == INDEX_TYPE:
            if volume_id in found:
                raise TemplateError(f"{where}: a second index of {volume_id}")
            if layer.size > _INDEX_MAX_BYTES:
                raise TemplateError(f"{where}: an index of {layer.size} bytes")
            packs = {}
            found[volume_id] = VolumeBlobs(layer, packs)
            last = volume_id
        elif layer.media_type == PACK_TYPE:
            if volume_id != last:
                raise TemplateError(f"{where}: a pack of {volume_id} that follows no index of it")
            if not 0 < layer.size <= PACK_MAX_BYTES:
                raise TemplateError(f"{where}: a pack of {layer.size} bytes")
            packs[number] = layer
            number += 1
        else:
            raise TemplateError(f"{where}: unknown media type {layer.media_type!r}")
    for volume in layout.volumes:
        is_empty = isinstance(volume.content, Swap)
        if is_empty and volume.id in found:
            raise TemplateError(f"volume {volume.id} is swap, yet it has data")
        if not is_empty and volume.id not in found:
            raise TemplateError(f"volume {volume.id} has no index")
    return found


@dataclass(slots=True)
class VerifiedBlob:
    """A blob as a stream of which no byte is seen before the whole was found to be right.

    A small blob is kept in memory. A large one is fetched twice: once for its digest, with
    a digest of each piece on the side, then piece by piece, each compared with the first time.
    """

    client: BlobSource
    blob: Descriptor
    _pieces: list[bytes] = field(default_factory=list)
    _digests: list[bytes] = field(default_factory=list)
    _next: int = 0
    _rest: memoryview = field(default_factory=lambda: memoryview(b""))

    def read(self, size: int = -1, /) -> bytes:
        if not self._pieces and not self._digests:
            self._check()
        if not self._rest:
            self._rest = memoryview(self._piece())
        size = len(self._rest) if size < 0 else size
        data, self._rest = self._rest[:size], self._rest[size:]
        return bytes(data)

    def _check(self) -> None:
        if self.blob.size <= _INDEX_IN_MEMORY:
            self._pieces = [self.client.blob(self.blob, _INDEX_IN_MEMORY)]
            return
        whole = sha256()
        for number in range(-(-self.blob.size // _INDEX_PIECE)):
            piece = self._fetch(number)
            whole.update(piece)
            self._digests.append(sha256(piece).digest())
        if f"sha256:{whole.hexdigest()}" != self.blob.digest:
            raise TemplateError(f"the blob {self.blob.digest} is damaged")

    def _piece(self) -> bytes:
        number = self._next
        self._next += 1
        if self._pieces:
            return self._pieces[number] if number < len(self._pieces) else b""
        if number >= len(self._digests):
            return b""
        piece = self._fetch(number)
        if sha256(piece).digest() != self._digests[number]:
            raise TemplateError(f"the blob {self.blob.digest} changed while it was read")
        return piece

    def _fetch(self, number: int) -> bytes:
        offset = number * _INDEX_PIECE
        size = min(_INDEX_PIECE, self.blob.size - offset)
        buffer = bytearray(size)
        tries = Tries(self.client.retry)
        while True:
            try:
                with self.client.open_range(self.blob.digest, offset, size, self.blob.size) as body:
                    body.readinto(memoryview(buffer))
            except Transient as error:
                tries.failed(error)
            else:
                return bytes(buffer)
