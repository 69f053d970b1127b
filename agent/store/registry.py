"""A client of an OCI Distribution registry: one repository of it.

Small things (manifests, blobs) are retried here. A ranged read is one attempt: what to fetch again
after a cut is known by whoever counts chunks. Uploads are retried in `agent.store.upload`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import requests

from agent.errors import AgentError, ServerError
from agent.model.template import (
    MANIFEST_MAX_BYTES,
    MANIFEST_TYPE,
    NAME_PATTERN,
    Descriptor,
    Digest,
)
from agent.store.auth import Door, TokenDoor
from agent.store.body import Body, Limits
from agent.store.parts import Parts
from agent.store.retry import Retry, Transient
from agent.store.source import RangeBody, blob_digest, check_manifest, check_reference
from agent.store.web import Web


class RegistryClient:
    """One repository of one registry. Any thread may use it; each has its own connections."""

    def __init__(
        self,
        base_url: str,
        repository: str,
        token: str | None = None,
        *,
        door: Door | None = None,
        limits: Limits | None = None,
        retry: Retry | None = None,
        ca: str | None = None,
    ) -> None:
        """`token` is a bearer token as it is; `door` is for registries that want a login."""
        if not re.match(NAME_PATTERN, repository):
            raise ServerError(f"not the name of a repository: {repository!r}")
        self.base_url = base_url.rstrip("/")
        self.repository = repository
        self.retry = retry or Retry()
        self.limits = limits or Limits()
        self.url = f"{self.base_url}/v2/{repository}"
        self._web = Web(base_url, door=door or TokenDoor(token), limits=self.limits, ca=ca)

    def __repr__(self) -> str:
        return f"RegistryClient({self.url})"

    def close(self) -> None:
        self._web.close()

    def manifest(self, reference: str) -> tuple[bytes, Digest]:
        """Return the manifest that a tag or digest names, and its digest."""
        check_reference(reference)
        url = f"{self.url}/manifests/{quote(reference, safe=':')}"
        hint = f"no template is called {self.repository}:{reference}; see: metalcast template ls"
        data = self.retry.call(
            lambda: self._web.whole(url, MANIFEST_MAX_BYTES, accept=MANIFEST_TYPE, not_found=hint)
        )
        return data, check_manifest(data, reference, url)

    def find_manifest(self, reference: str) -> tuple[bytes, Digest] | None:
        """Return the manifest that a tag or digest names, and its digest; None if there is none."""
        check_reference(reference)
        url = f"{self.url}/manifests/{quote(reference, safe=':')}"
        data = self.retry.call(
            lambda: self._web.find_whole(url, MANIFEST_MAX_BYTES, accept=MANIFEST_TYPE)
        )
        return None if data is None else (data, check_manifest(data, reference, url))

    def blob(self, descriptor: Descriptor, max_bytes: int) -> bytes:
        """Return a small blob whole. Raises TemplateError unless size and digest are right."""
        url = f"{self.url}/blobs/{descriptor.digest}"
        return self._web.blob(url, descriptor, max_bytes, self.retry)

    def open_range(self, digest: Digest, offset: int, size: int, blob_bytes: int) -> Body:
        """Return bytes `offset` to `offset + size` of a blob, to be read. One attempt.

        The answer must be just that range; a whole blob is taken only where one was asked for.
        """
        return self._web.open_range(f"{self.url}/blobs/{digest}", offset, size, blob_bytes)

    def has_blob(self, digest: Digest) -> bool:
        """Return whether the registry holds the blob."""
        return self.retry.call(lambda: self._web.has(f"{self.url}/blobs/{digest}"))

    def blame(self, body: RangeBody, error: AgentError) -> bool:
        """There is no other source."""
        del body, error
        return False

    def mount(self, digest: Digest, from_repository: str) -> bool:
        """Take a blob over from another repository of the registry; return whether it did.

        False also when we may not read there, or the registry does not do such things: the bytes
        are then to be sent.
        """
        url = f"{self.url}/blobs/uploads/"
        query = f"?mount={quote(digest, safe='')}&from={quote(from_repository, safe='')}"

        def post() -> bool:
            allowed = (201, 202, 401, 403, 404, 405)
            with self.request("POST", url + query, data=b"", allowed=allowed) as response:
                if response.status_code == 202:  # an upload instead, which nobody asked for
                    BlobUpload(self, self.own_url(response, url)).cancel()
                return response.status_code == 201

        return self.retry.call(post)

    def start_upload(self) -> "BlobUpload":
        """Begin to push a blob whose digest is not known yet. One attempt."""
        url = f"{self.url}/blobs/uploads/"
        with self.request("POST", url, data=b"", allowed=(202,)) as response:
            return BlobUpload(self, self.own_url(response, url))

    def put_manifest(self, data: bytes, tag: str) -> Digest:
        """Push a manifest under `tag` (or its own digest); return its digest."""
        url = f"{self.url}/manifests/{quote(tag, safe=':')}"

        def put() -> None:
            headers = {"Content-Type": MANIFEST_TYPE}
            with self.request("PUT", url, data=data, headers=headers, allowed=(201,)):
                pass

        self.retry.call(put)
        return blob_digest(data)

    def request(
        self,
        method: str,
        url: str,
        *,
        data: bytes | Parts | None = None,
        headers: Mapping[str, str] | None = None,
        accept: str = "*/*",
        allowed: tuple[int, ...] = (200, 206),
    ) -> requests.Response:
        """Return the answer, its body unread. See `Web.request`."""
        return self._web.request(
            method, url, data=data, headers=headers, accept=accept, allowed=allowed
        )

    def own_url(self, response: requests.Response, asked: str) -> str:
        """Return where an upload goes on. Only path and query count: our token stays here."""
        parts = urlsplit(response.headers.get("Location", ""))
        if not parts.path.startswith("/"):
            raise ServerError(f"{asked}: the answer does not say where the upload goes on")
        return f"{self._web.origin}{parts.path}" + (f"?{parts.query}" if parts.query else "")


@dataclass(slots=True)
class BlobUpload:
    """One blob being pushed. Single attempts; `agent.store.upload` adds the patience."""

    client: RegistryClient
    location: str

    def patch(self, data: bytes | Parts, offset: int) -> None:
        """Send the bytes at `offset` and get them acknowledged."""
        end = offset + len(data)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{offset}-{end - 1}",
        }
        with self.client.request(
            "PATCH", self.location, data=data, headers=headers, allowed=(202, 404, 416)
        ) as response:
            if response.status_code != 202:  # whoever retries asks the server what it has
                raise Transient(f"PATCH {self.location}: {response.status_code} at {offset}")
            self.location = self.client.own_url(response, self.location)
            last = _last_held(response)
        if last != end - 1:
            raise Transient(f"{self.location}: {end} bytes were sent, the server has {last + 1}")

    def offset(self) -> int | None:
        """Return how many bytes the server has, or None if it knows nothing of this upload."""
        with self.client.request("GET", self.location, allowed=(204, 404)) as response:
            if response.status_code == 404:
                return None
            if response.headers.get("Location"):
                self.location = self.client.own_url(response, self.location)
            last = _last_held(response)
            return last + 1 if last else 0  # `0-0` is one byte, or what most say for none

    def finish(self, digest: Digest) -> None:
        """Close the blob. The server checks the digest."""
        joint = "&" if "?" in self.location else "?"
        url = f"{self.location}{joint}digest={quote(digest, safe='')}"
        with self.client.request("PUT", url, data=b"", allowed=(201,)):
            pass

    def cancel(self) -> None:
        with self.client.request("DELETE", self.location, allowed=(200, 202, 204, 404, 405)):
            pass


def _last_held(response: requests.Response) -> int:
    """Return the number of the last byte that the server says it has."""
    found = re.fullmatch(r"(?:bytes=)?0-(\d+)", response.headers.get("Range", ""))
    return int(found[1]) if found else 0
