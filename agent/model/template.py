"""A template: an OCI artifact. docs/template-format.md is the text that this follows."""

from enum import StrEnum
from typing import Annotated

import msgspec

from agent.model.inventory import Inventory
from agent.model.layout import Layout
from agent.model.nodes import Bytes, NodeId
from agent.model.wire import Value

FORMAT_VERSION = 6
SPANS_VERSION = 6
"""From this format on a chunk may reach over several windows, and zeros have no digest."""
OLDEST_VERSION = 1
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE = "application/vnd.metalcast.template.v1"
CONFIG_TYPE = "application/vnd.metalcast.template.config.v1+json"
INDEX_TYPE = "application/vnd.metalcast.template.index.v1+zstd"
PACK_TYPE = "application/vnd.metalcast.template.pack.v1+zstd"
VOLUME_ANNOTATION = "org.metalcast.volume"
TITLE_ANNOTATION = "org.opencontainers.image.title"
"""The file that `oras pull` makes of a layer; it fetches no layer without one."""
FROM_ANNOTATION = "org.metalcast.from"
"""On a pack that an incremental capture took over: the manifest that it was made for."""

CHUNK_BYTES = 4 * 1024 * 1024
ZEROS_ALIGNMENT = 4096
"""Where a chunk of zeros begins and ends that shares its number with one that is stored."""
PACK_TARGET_BYTES = 256 * 1024 * 1024
PACK_MAX_BYTES = 4 * 1024 * 1024 * 1024 + 2 * CHUNK_BYTES
MANIFEST_MAX_BYTES = 4 * 1024 * 1024
CONFIG_MAX_BYTES = 4 * 1024 * 1024

NAME_PATTERN = r"^[a-z0-9]+(?:[._-][a-z0-9]+)*(?:/[a-z0-9]+(?:[._-][a-z0-9]+)*)*$(?!\n)"
TAG_PATTERN = r"^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$(?!\n)"
DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$(?!\n)"

TemplateName = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN, max_length=128)]
Tag = Annotated[str, msgspec.Meta(pattern=TAG_PATTERN)]
Digest = Annotated[str, msgspec.Meta(pattern=DIGEST_PATTERN)]
"""`sha256:` and 64 lower-case hexadecimal digits, as OCI writes it."""
Hex = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An OCI content descriptor. Registries may add fields of theirs; we ignore those."""

    media_type: str
    digest: Digest
    size: Bytes
    annotations: dict[str, str] = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An OCI image manifest, 1.1, that carries a template."""

    schema_version: int
    media_type: str = ""
    artifact_type: str = ""
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str] = {}

    @property
    def packs(self) -> tuple[Descriptor, ...]:
        """The packs of all volumes, in manifest order: an index names a pack by its place here."""
        return tuple(layer for layer in self.layers if layer.media_type == PACK_TYPE)


class IndexHead(Value, frozen=True, kw_only=True):
    """The first line of an index."""

    format: int
    volume: NodeId
    volume_bytes: Bytes
    chunk_bytes: Bytes
    chunks: Annotated[int, msgspec.Meta(ge=0, le=2**40)]
    """How many entries follow."""
    content_digest: str = "sha256"
    """The algorithm of both digests: `sha256`, or from format 2 on `blake3`."""


class IndexEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One chunk, one line. An array, so that no key can come twice.

    `extents` are (offset, size) in bytes of the *volume*, sorted, from `number` × CHUNK_BYTES on.
    A chunk of nothing but zeros has `pack` -1, no bytes stored and no digests; it may be of any
    size, the content of another is CHUNK_BYTES at most.
    """

    number: Annotated[int, msgspec.Meta(ge=0, le=2**40)]
    extents: Annotated[tuple[tuple[Bytes, Bytes], ...], msgspec.Meta(min_length=1)]
    pack: Annotated[int, msgspec.Meta(ge=-1, le=2**20)]
    offset: Bytes
    stored_bytes: Bytes
    stored_digest: Hex | None
    content_digest: Hex | None
    """Before format 6, chunks of zeros have one, too."""

    @property
    def content_bytes(self) -> int:
        return sum(size for _, size in self.extents)


class Firmware(StrEnum):
    BIOS = "bios"
    UEFI = "uefi"


class NetworkStack(StrEnum):
    """What really configures the network of an operating system."""

    NETPLAN = "netplan"
    IFUPDOWN = "ifupdown"
    NETWORKD = "networkd"
    NETWORK_MANAGER = "network-manager"
    IFCFG = "ifcfg"


class OsIdentity(Value, frozen=True, kw_only=True):
    """What the captured root says it is: /etc/os-release and what is installed."""

    id: str
    version: str
    pretty_name: str
    kernel: str | None
    bootloader: str | None
    initramfs_tool: str | None
    network_stack: NetworkStack | None
    tools: tuple[str, ...] | None = None
    """The `Tool`s that it holds. None: captured before they were recorded."""


class Redaction(Value, frozen=True, kw_only=True):
    """A file whose contents were left out of the template because they are one machine's own."""

    volume: NodeId
    path: str
    bytes: Bytes


class Hole(Value, frozen=True, kw_only=True):
    """A run of bytes of a volume that the source could not read. It reads as zeros."""

    volume: NodeId
    offset: Bytes
    size: Bytes


class TemplateConfig(Value, frozen=True, kw_only=True):
    """The recorded configuration: the config blob."""

    format: int
    name: TemplateName
    captured_at: str
    """RFC 3339, UTC."""
    captured_by: str
    """`metalcast 0.1.0`."""
    firmware: Firmware
    """How the source was booted when it was captured."""
    boots: tuple[Firmware, ...]
    """The firmware modes that the captured boot code serves."""
    os: OsIdentity | None
    source: Inventory
    layout: Layout
    redactions: tuple[Redaction, ...] = ()
    parent: Digest | None = None
    """The template that an incremental capture was compared with. Format 2."""
    holes: tuple[Hole, ...] = ()
    """What was lost on the source, by consent of whoever captured it. Format 2."""
