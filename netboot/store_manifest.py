"""What a manifest says, as far as a store must know it: which blobs and manifests it needs."""

from dataclasses import dataclass
from typing import Final

import msgspec

from agent.model.nodes import Bytes
from agent.model.template import MANIFEST_MAX_BYTES, MANIFEST_TYPE, Digest
from netboot.store_errors import ManifestInvalid

INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
_IMAGES: Final = (MANIFEST_TYPE, "application/vnd.docker.distribution.manifest.v2+json")
_INDEXES: Final = (INDEX_TYPE, "application/vnd.docker.distribution.manifest.list.v2+json")


class Link(msgspec.Struct, frozen=True, rename="camel"):
    """A descriptor. Fields that we do not know are other people's business."""

    digest: Digest
    size: Bytes
    media_type: str = ""
    urls: tuple[str, ...] | None = None


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int
    media_type: str = ""
    artifact_type: str = ""
    config: Link | None = None
    layers: tuple[Link, ...] | None = None
    manifests: tuple[Link, ...] | None = None
    subject: Link | None = None
    annotations: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class ManifestFacts:
    """What of a manifest goes into the catalog."""

    media_type: str
    artifact_type: str
    config: Link | None
    blobs: tuple[Link, ...]
    manifests: tuple[Link, ...]
    subject: str | None
    annotations: dict[str, str]


def parse_manifest(data: bytes, media_type: str) -> ManifestFacts:
    """Return the facts of the manifest `data`, which was pushed as `media_type`.

    A layer with `urls` may live elsewhere and is not needed here.
    Raises ManifestInvalid: too large, another type, not what its type demands.
    """
    if len(data) > MANIFEST_MAX_BYTES:
        raise ManifestInvalid(f"the manifest has more than {MANIFEST_MAX_BYTES} bytes")
    if media_type not in (*_IMAGES, *_INDEXES):
        raise ManifestInvalid(f"not a type of manifest that is kept here: {media_type[:128]!r}")
    try:
        document = msgspec.json.decode(data, type=_Document)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise ManifestInvalid(f"manifest: {error}") from error
    if document.schema_version != 2:
        raise ManifestInvalid(f"manifest: schemaVersion is {document.schema_version}, not 2")
    if document.media_type not in ("", media_type):
        raise ManifestInvalid(f"manifest: mediaType is not its Content-Type {media_type}")
    return _facts(document, media_type)


def _facts(document: _Document, media_type: str) -> ManifestFacts:
    subject = document.subject.digest if document.subject else None
    annotations = document.annotations or {}
    if media_type in _INDEXES:
        if document.manifests is None or document.layers is not None or document.config:
            raise ManifestInvalid("an index has `manifests`, and neither `config` nor `layers`")
        kind = document.artifact_type
        return ManifestFacts(media_type, kind, None, (), document.manifests, subject, annotations)
    if document.config is None or document.layers is None or document.manifests is not None:
        raise ManifestInvalid("an image has `config` and `layers`, and no `manifests`")
    layers = tuple(layer for layer in document.layers if not layer.urls)
    return ManifestFacts(
        media_type=media_type,
        artifact_type=document.artifact_type or document.config.media_type,
        config=document.config,
        blobs=(document.config, *layers),
        manifests=(),
        subject=subject,
        annotations=annotations,
    )
