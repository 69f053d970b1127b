"""A template from one place to another, byte for byte: registry, layout folder, web folder.

What passes is checked: the template's own rules, and each blob's digest. What the target has
already is not moved. The manifest comes last, so that nothing is listed before it is whole.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from agent.errors import TemplateError
from agent.model.template import Descriptor, Digest, TemplateConfig
from agent.model.wire import decode
from agent.store.retry import Transient, Tries
from agent.store.source import BlobSource, blob_digest
from agent.store.target import Target
from agent.store.template import check_indexes, open_template
from agent.trust.minisign import SIGNATURE_MAX_BYTES
from agent.trust.templates import (
    LIST_MAX_BYTES,
    SIGNATURE_ARTIFACT,
    SIGNATURE_LAYER,
    SIGNATURES_MAX,
    SignatureList,
    read_signatures,
    render_signature_list,
    signature_tag,
)
from agent.units import MiB

PIECE_BYTES: Final = 4 * MiB

Tell = Callable[[int, int], None]
"""Hears how many bytes are done, of how many."""


def quiet(done: int, total: int) -> None:
    """The default: nobody is told."""


@dataclass(slots=True)
class Moved:
    """What a copy did. Bytes are those of the blobs."""

    digest: Digest
    config: TemplateConfig
    blobs: int = 0
    moved_blobs: int = 0
    moved_bytes: int = 0
    kept_bytes: int = 0
    """Were there already, or came from a neighbour without being sent."""
    has_signatures: bool = False


@dataclass(slots=True)
class _Copy:
    source: BlobSource
    target: Target
    tell: Tell
    total: int
    done: int = 0
    seen: set[Digest] = field(default_factory=set)

    def blob(self, blob: Descriptor, moved: Moved) -> None:
        """See that the target has the blob."""
        if blob.digest in self.seen:
            return
        self.seen.add(blob.digest)
        moved.blobs += 1
        if self.target.has(blob) or self.target.take_over(blob, self.source):
            moved.kept_bytes += blob.size
            self._step(blob.size)
            return
        self._send(blob)
        moved.moved_blobs += 1
        moved.moved_bytes += blob.size

    def _send(self, blob: Descriptor) -> None:
        before = self.done
        for is_last in (False, True):
            writer = self.target.writer(blob)
            try:
                digest = sha256()
                for piece in pieces(self.source, blob):
                    digest.update(piece)
                    writer.append(piece)
                    self._step(len(piece))
                if (found := f"sha256:{digest.hexdigest()}") == blob.digest:
                    writer.finish(blob.digest)
                    return
            except BaseException:
                writer.cancel()
                raise
            writer.cancel()
            self.done = before
            if is_last:
                raise TemplateError(
                    f"{blob.digest} from {self.source.url} is damaged: it has digest {found}",
                    hint="metalcast template verify --deep says where the damage is",
                )

    def _step(self, size: int) -> None:
        self.done += size
        self.tell(self.done, self.total)


def copy_template(
    source: BlobSource,
    reference: str,
    target: Target,
    tag: str,
    tell: Tell = quiet,
) -> Moved:
    """Copy the template that `reference` names, with its signatures; return what was done.

    Raises TemplateError if it breaks a rule or is damaged, ServerError.
    """
    template = open_template(source, reference)
    check_indexes(template)
    data, digest = source.manifest(template.digest)
    layers = (template.manifest.config, *template.manifest.layers)
    total = sum({layer.digest: layer.size for layer in layers}.values())
    moved = Moved(digest, template.config)
    with target.at_work():
        copy = _Copy(source, target, tell, total)
        for layer in layers:
            copy.blob(layer, moved)
        moved.has_signatures = _copy_signatures(source, digest, target)
        put = target.put_manifest(data, tag, template.manifest.artifact_type)
    if put != digest:
        raise TemplateError(f"the manifest became {put} on its way, it was {digest}")
    return moved


def _copy_signatures(source: BlobSource, digest: Digest, target: Target) -> bool:
    """Add the signatures of a manifest to those that the target has; return whether there are any.

    Whose they are, and whether they are good, is looked at by whoever relies on them.
    """
    tag = signature_tag(digest)
    found = source.find_manifest(tag)
    if found is None:
        return False
    files = read_signatures(source, digest)
    kept = read_signatures(target.reading, digest) if target.reading.find_manifest(tag) else ()
    listed = decode(found[0], SignatureList, f"the signatures of {digest[:19]}", LIST_MAX_BYTES)
    data, more = found[0], tuple(file for file in kept if file not in files)
    if more:
        files = (*files, *more)
        if len(files) > SIGNATURES_MAX:
            raise TemplateError(f"{len(files)} signatures of {digest[:19]} are too many")
        digests = [blob_digest(file) for file in files]
        data = render_signature_list(listed.subject, files, digests, listed.config.digest)
    small = {blob_digest(file): file for file in files}
    small[listed.config.digest] = source.blob(listed.config, SIGNATURE_MAX_BYTES)
    for name, content in small.items():
        blob = Descriptor(media_type=SIGNATURE_LAYER, digest=name, size=len(content))
        if not target.has(blob):
            writer = target.writer(blob)
            writer.append(content)
            writer.finish(name)
    target.put_manifest(data, tag, SIGNATURE_ARTIFACT)
    return True


def pieces(source: BlobSource, blob: Descriptor) -> Iterator[bytes]:
    """Yield the bytes of a blob, unverified, going on where a cut came."""
    offset = 0
    tries = Tries(source.retry)
    buffer = bytearray(min(PIECE_BYTES, blob.size))
    while offset < blob.size:
        with contextlib.ExitStack() as stack:
            try:
                body = stack.enter_context(
                    source.open_range(blob.digest, offset, blob.size - offset, blob.size)
                )
            except Transient as error:
                tries.failed(error)
                continue
            while offset < blob.size:
                part = memoryview(buffer)[: min(len(buffer), blob.size - offset)]
                try:
                    body.readinto(part)
                except Transient as error:
                    tries.failed(error)
                    break
                tries.progress()
                offset += len(part)
                yield bytes(part)
