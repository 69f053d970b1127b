"""A web folder that holds an exported OCI layout, as any static web server gives it."""

from agent.errors import AgentError
from agent.model.template import MANIFEST_MAX_BYTES, Descriptor, Digest
from agent.store.auth import Door
from agent.store.body import Body, Limits
from agent.store.layout import INDEX_MAX_BYTES, find_tag, lookup_tag, read_layout_index
from agent.store.retry import Retry
from agent.store.source import RangeBody, check_manifest, check_reference
from agent.store.web import Web


class FolderSource:
    """`oci-layout`, `index.json` and `blobs/sha256/…` below one URL. Read only."""

    def __init__(
        self,
        url: str,
        *,
        door: Door | None = None,
        limits: Limits | None = None,
        retry: Retry | None = None,
        ca: str | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.retry = retry or Retry()
        self.limits = limits or Limits()
        self._web = Web(url, door=door, limits=self.limits, ca=ca)

    def __repr__(self) -> str:
        return f"FolderSource({self.url})"

    def close(self) -> None:
        self._web.close()

    def manifest(self, reference: str) -> tuple[bytes, Digest]:
        """Return the manifest that a tag or digest names, and its digest."""
        check_reference(reference)
        digest = reference
        if not reference.startswith("sha256:"):
            digest = find_tag(self._index(), reference, self.url).digest
        url = self._blob_url(digest)
        hint = f"that folder has no {reference}"
        data = self.retry.call(lambda: self._web.whole(url, MANIFEST_MAX_BYTES, not_found=hint))
        return data, check_manifest(data, digest, url)

    def find_manifest(self, reference: str) -> tuple[bytes, Digest] | None:
        """Return the manifest that a tag names, and its digest; None if there is none."""
        check_reference(reference)
        named = lookup_tag(self._index(), reference)
        return self.manifest(named.digest) if named else None

    def blob(self, descriptor: Descriptor, max_bytes: int) -> bytes:
        """Return a small blob whole. Raises TemplateError unless size and digest are right."""
        url = self._blob_url(descriptor.digest)
        return self._web.blob(url, descriptor, max_bytes, self.retry)

    def open_range(self, digest: Digest, offset: int, size: int, blob_bytes: int) -> Body:
        """Return bytes `offset` to `offset + size` of a blob, to be read. One attempt."""
        return self._web.open_range(self._blob_url(digest), offset, size, blob_bytes)

    def has_blob(self, digest: Digest) -> bool:
        return self.retry.call(lambda: self._web.has(self._blob_url(digest)))

    def blame(self, body: RangeBody, error: AgentError) -> bool:
        """There is no other source."""
        del body, error
        return False

    def _index(self) -> tuple[Descriptor, ...]:
        url = f"{self.url}/index.json"
        hint = "a folder with an exported template has index.json: metalcast template export"
        data = self.retry.call(lambda: self._web.whole(url, INDEX_MAX_BYTES, not_found=hint))
        return read_layout_index(data, url)

    def _blob_url(self, digest: Digest) -> str:
        return f"{self.url}/blobs/sha256/{digest.removeprefix('sha256:')}"
