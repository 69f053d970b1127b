"""Where templates are read from: what a registry, a folder of blobs and a set of mirrors share."""

import re
from hashlib import sha256
from types import TracebackType
from typing import Protocol

from agent.errors import AgentError, ServerError, TemplateError
from agent.model.template import DIGEST_PATTERN, TAG_PATTERN, Descriptor, Digest
from agent.store.body import Limits
from agent.store.retry import Retry


class RangeBody(Protocol):
    """A range of a blob, to be read."""

    def __enter__(self) -> "RangeBody": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def wake(self) -> None:
        """End the wait of the thread that reads; for any other thread."""
        ...

    def readinto(self, buffer: memoryview) -> None:
        """Fill `buffer`. Raises Transient if the bytes end, stall or trickle."""
        ...

    def fill(self, buffer: memoryview) -> None:
        """As `readinto`, without a copy; another thread must call `check_pace` now and then."""
        ...

    def check_pace(self, now: float) -> None:
        """End a `fill` that trickles; for any other thread, with the monotonic time."""
        ...


class BlobSource(Protocol):
    """One repository's manifests and blobs, to be read. Any thread may use it."""

    @property
    def url(self) -> str:
        """What it is called in errors."""
        ...

    @property
    def retry(self) -> Retry:
        """How patient a reader of ranges should be."""
        ...

    @property
    def limits(self) -> Limits: ...

    def manifest(self, reference: str) -> tuple[bytes, Digest]:
        """Return the manifest that a tag or digest names, and its digest."""
        ...

    def find_manifest(self, reference: str) -> tuple[bytes, Digest] | None:
        """Return the manifest that a tag or digest names, and its digest; None if there is none."""
        ...

    def blob(self, descriptor: Descriptor, max_bytes: int) -> bytes:
        """Return a small blob whole. Raises TemplateError unless size and digest are right."""
        ...

    def open_range(self, digest: Digest, offset: int, size: int, blob_bytes: int) -> RangeBody:
        """Return bytes `offset` to `offset + size` of a blob, to be read. One attempt."""
        ...

    def has_blob(self, digest: Digest) -> bool: ...

    def blame(self, body: RangeBody, error: AgentError) -> bool:
        """Hear that what came in `body` was damaged; return whether another source is next."""
        ...

    def close(self) -> None: ...


def blob_digest(data: bytes) -> Digest:
    return f"sha256:{sha256(data).hexdigest()}"


def check_reference(reference: str) -> None:
    """Raise ServerError unless it is a tag or a digest."""
    if not re.match(DIGEST_PATTERN, reference) and not re.match(TAG_PATTERN, reference):
        raise ServerError(f"neither a tag nor a digest: {reference!r}")


def check_manifest(data: bytes, reference: str, url: str) -> Digest:
    """Return the digest of a manifest. Raises TemplateError if `reference` is another one."""
    digest = blob_digest(data)
    if reference.startswith("sha256:") and digest != reference:
        raise TemplateError(f"the manifest at {url} is damaged: it has digest {digest}")
    return digest
