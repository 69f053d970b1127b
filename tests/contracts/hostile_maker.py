"""Makes hostile templates out of a good one: each is whole, but for what was changed."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import zstandard

from agent.model import wire
from agent.model.template import FROM_ANNOTATION, INDEX_TYPE, PACK_TYPE, Manifest
from agent.store.template import Template
from tests.contracts.fake_registry import FakeRegistry, sha256
from tests.contracts.hostile_frames import frame

HEX = "ab" * 32


@dataclass
class Maker:
    """Makes hostile templates out of a good one."""

    registry: FakeRegistry
    good: Template

    def blob(self, data: bytes) -> str:
        self.registry.blobs[sha256(data)] = data
        return sha256(data)

    def manifest(self, data: bytes) -> str:
        self.registry.manifests[sha256(data)] = data
        return sha256(data)

    def push(self, manifest: Manifest) -> str:
        return self.manifest(wire.encode(manifest))

    @property
    def lines(self) -> list[Any]:
        """The good index, as values that may be changed."""
        data = self.registry.blobs[self.good.blobs["root"].index.digest]
        text = zstandard.ZstdDecompressor().decompressobj().decompress(data)
        return [json.loads(line) for line in text.splitlines()]

    def index(self, data: bytes) -> str:
        """Return a template whose index is the blob `data`."""
        return self.layers(lambda layer: layer.media_type == INDEX_TYPE, data)

    def config(self, data: bytes) -> str:
        manifest = self.good.manifest
        config = msgspec.structs.replace(manifest.config, digest=self.blob(data), size=len(data))
        return self.push(msgspec.structs.replace(manifest, config=config))

    def pack(self, change: Callable[[bytes], bytes]) -> str:
        """Return a template whose first pack is changed, and so its place in the manifest."""
        first = self.good.manifest.packs[0]
        data = change(self.registry.blobs[first.digest])
        return self.layers(lambda layer: layer.digest == first.digest, data)

    def layers(self, wanted: Callable[[Any], bool], data: bytes, **more: str) -> str:
        digest = self.blob(data)
        layers = tuple(
            msgspec.structs.replace(
                layer, digest=digest, size=len(data), annotations={**layer.annotations, **more}
            )
            if wanted(layer)
            else layer
            for layer in self.good.manifest.layers
        )
        return self.push(msgspec.structs.replace(self.good.manifest, layers=layers))

    def text(self, change: Callable[[list[Any]], object]) -> str:
        """Return a template whose index has lines that were changed."""
        lines = self.lines
        change(lines)
        return self.index(frame(b"".join(as_line(line) for line in lines)))

    def inherited(self, change: Callable[[list[Any]], object]) -> str:
        """As `text`, with all packs made for a parent: gaps are allowed, going back is not."""
        lines = self.lines
        change(lines)
        data = frame(b"".join(as_line(line) for line in lines))
        digest = self.blob(data)
        parent = {FROM_ANNOTATION: "sha256:" + HEX}
        layers = tuple(
            msgspec.structs.replace(layer, annotations={**layer.annotations, **parent})
            if layer.media_type == PACK_TYPE
            else msgspec.structs.replace(layer, digest=digest, size=len(data))
            for layer in self.good.manifest.layers
        )
        return self.push(msgspec.structs.replace(self.good.manifest, layers=layers))


def as_line(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n"
