"""A client of an OCI Distribution registry: one repository, no redirects, no trust in headers.

Small things (manifests, blobs) are retried here. A ranged read is one attempt: what to fetch again
after a cut is known by whoever counts chunks. Uploads are retried in `agent.store.upload`.
"""

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final
from urllib.parse import quote, urlsplit

import requests
import urllib3

from agent.errors import ServerError, TemplateError
from agent.model.template import (
    DIGEST_PATTERN,
    MANIFEST_MAX_BYTES,
    MANIFEST_TYPE,
    NAME_PATTERN,
    TAG_PATTERN,
    Descriptor,
    Digest,
)
from agent.store.body import PIECE_BYTES, Body, Limits, root_reason
from agent.store.retry import Retry, Transient

_REASON_BYTES: Final = 2000
_BUSY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_NO_SERVER: Final = "is the server running, and does this machine reach it?"
_TOKEN: Final = "the job's token is wrong, expired, or not for this repository"  # noqa: S105


class RegistryClient:
    """One repository of one registry. Any thread may use it; each has its own connections."""

    def __init__(
        self,
        base_url: str,
        repository: str,
        token: str | None = None,
        *,
        limits: Limits | None = None,
        retry: Retry | None = None,
        ca: str | None = None,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise ServerError(f"not the URL of a server: {base_url!r}")
        if not re.match(NAME_PATTERN, repository):
            raise ServerError(f"not the name of a repository: {repository!r}")
        self.repository = repository
        self.retry = retry or Retry()
        self.limits = limits or Limits()
        self.url = f"{base_url.rstrip('/')}/v2/{repository}"
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._token = token
        self._ca = ca
        self._threads = threading.local()
        self._sessions: list[requests.Session] = []
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"RegistryClient({self.url})"

    def close(self) -> None:
        with self._lock:
            for session in self._sessions:
                session.close()
            self._sessions.clear()
            self._threads = threading.local()

    def manifest(self, reference: str) -> tuple[bytes, Digest]:
        """Return the manifest that a tag or digest names, and its digest."""
        if not re.match(DIGEST_PATTERN, reference) and not re.match(TAG_PATTERN, reference):
            raise ServerError(f"neither a tag nor a digest: {reference!r}")
        url = f"{self.url}/manifests/{quote(reference, safe=':')}"
        hint = f"no template is called {self.repository}:{reference}; see: metalcast template ls"

        def get() -> bytes:
            with self.request("GET", url, accept=MANIFEST_TYPE, not_found=hint) as response:
                return _whole(response, MANIFEST_MAX_BYTES, url, self.limits)

        data = self.retry.call(get)
        digest = f"sha256:{sha256(data).hexdigest()}"
        if reference.startswith("sha256:") and digest != reference:
            raise TemplateError(f"the manifest at {url} is damaged: it has digest {digest}")
        return data, digest

    def blob(self, descriptor: Descriptor, max_bytes: int) -> bytes:
        """Return a small blob whole. Raises TemplateError unless size and digest are right."""
        url = f"{self.url}/blobs/{descriptor.digest}"
        if descriptor.size > max_bytes:
            raise TemplateError(f"{url} has {descriptor.size} bytes, at most {max_bytes} may be")

        def get() -> bytes:
            with self.request("GET", url) as response:
                return _whole(response, descriptor.size, url, self.limits)

        data = self.retry.call(get)
        if len(data) != descriptor.size or _digest(data) != descriptor.digest:
            data = self.retry.call(get)  # once more: the fault may be on the way
        if len(data) != descriptor.size or _digest(data) != descriptor.digest:
            raise TemplateError(f"the blob at {url} is damaged: {len(data)} bytes, {_digest(data)}")
        return data

    def open_range(self, digest: Digest, offset: int, size: int, blob_bytes: int) -> Body:
        """Return bytes `offset` to `offset + size` of a blob, to be read. One attempt.

        The answer must be just that range; a whole blob is taken only where one was asked for.
        """
        url = f"{self.url}/blobs/{digest}"
        last = offset + size - 1
        response = self.request("GET", url, headers={"Range": f"bytes={offset}-{last}"})
        try:
            self._check_range(response, url, offset, size, blob_bytes)
        except BaseException:
            response.close()
            raise
        return Body(response, url, size, self.limits)

    def has_blob(self, digest: Digest) -> bool:
        """Return whether the registry holds the blob."""

        def head() -> bool:
            url = f"{self.url}/blobs/{digest}"
            with self.request("HEAD", url, allowed=(200, 404)) as response:
                return response.status_code == 200

        return self.retry.call(head)

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
        return _digest(data)

    def request(
        self,
        method: str,
        url: str,
        *,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        accept: str = "*/*",
        allowed: tuple[int, ...] = (200, 206),
        not_found: str | None = None,
    ) -> requests.Response:
        """Return the answer, its body unread. Raises Transient or ServerError for all but
        `allowed`."""
        sent = {"Accept": accept, "Accept-Encoding": "identity", **(headers or {})}
        if self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        try:
            response = self._session().request(
                method,
                url,
                data=data,
                headers=sent,
                stream=True,
                allow_redirects=False,
                timeout=(self.limits.connect_s, self.limits.read_s),
            )
        except requests.exceptions.SSLError as error:
            raise ServerError(
                f"{url}: no trust in its certificate: {root_reason(error)}"
            ) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise Transient(f"{method} {url}: {root_reason(error)}", hint=_NO_SERVER) from error
        try:
            _check_answer(response, method, url, allowed, not_found)
        except BaseException:
            response.close()
            raise
        return response

    def own_url(self, response: requests.Response, asked: str) -> str:
        """Return where an upload goes on. Only path and query count: our token stays here."""
        parts = urlsplit(response.headers.get("Location", ""))
        if not parts.path.startswith("/"):
            raise ServerError(f"{asked}: the answer does not say where the upload goes on")
        return f"{self._origin}{parts.path}" + (f"?{parts.query}" if parts.query else "")

    def _session(self) -> requests.Session:
        found: requests.Session | None = getattr(self._threads, "session", None)
        if found is None:
            found = requests.Session()
            found.trust_env = False
            found.headers.clear()
            found.headers["User-Agent"] = "metalcast"
            if self._ca:
                found.verify = self._ca
            self._threads.session = found
            with self._lock:
                self._sessions.append(found)
        return found

    def _check_range(
        self, response: requests.Response, url: str, offset: int, size: int, blob_bytes: int
    ) -> None:
        asked = f"bytes {offset}-{offset + size - 1}/{blob_bytes}"
        length = response.headers.get("Content-Length")
        if response.status_code == 200:
            if (offset, size) != (0, blob_bytes):
                raise ServerError(
                    f"{url}: the server ignores ranges: asked for {asked}, got the whole blob",
                    hint="a proxy between agent and server may be in the way",
                )
        else:
            given = response.headers.get("Content-Range", "")
            found = _CONTENT_RANGE.fullmatch(given.strip())
            if (
                not found
                or (int(found[1]), int(found[2])) != (offset, offset + size - 1)
                or found[3] not in ("*", str(blob_bytes))
            ):
                raise ServerError(f"{url}: asked for {asked}, the answer is for {given!r}")
        if length is not None and length != str(size):
            raise ServerError(f"{url}: asked for {size} bytes, the answer has {length}")


@dataclass(slots=True)
class BlobUpload:
    """One blob being pushed. Single attempts; `agent.store.upload` adds the patience."""

    client: RegistryClient
    location: str

    def patch(self, data: bytes, offset: int) -> None:
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


def _check_answer(
    response: requests.Response,
    method: str,
    url: str,
    allowed: tuple[int, ...],
    not_found: str | None,
) -> None:
    status = response.status_code
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", ""):
        raise ServerError(
            f"{url}: answered with Content-Encoding: {encoding}, though identity was asked for",
            hint="a proxy or web server on the way compresses; templates must pass as they are",
        )
    if status in allowed:
        return
    said = f"{method} {url}: {status} {response.reason or ''}".rstrip()
    if 300 <= status < 400:
        raise ServerError(f"{said}: redirects are not followed")
    if status in _BUSY:
        raise Transient(said, hint=_NO_SERVER, wait_s=_retry_after(response))
    reason = _reason(response)
    text = f"{said}: {reason}" if reason else said
    if status in (401, 403):
        raise ServerError(text, hint=_TOKEN)
    if status == 404:
        raise ServerError(text, hint=not_found)
    if status == 507:
        raise ServerError(text, hint="the store is full: make room on the server")
    raise ServerError(text)


def _retry_after(response: requests.Response) -> float:
    text = response.headers.get("Retry-After", "").strip()
    return float(text) if re.fullmatch(r"\d{1,6}", text) else 0.0


def _reason(response: requests.Response) -> str:
    """Return the start of what the server says, as one printable line."""
    try:
        data = response.raw.read(_REASON_BYTES, decode_content=False)
    except (urllib3.exceptions.HTTPError, OSError, ValueError):
        return ""
    text = " ".join(bytes(data).decode("utf-8", "replace").split())
    return "".join(letter for letter in text if letter.isprintable())[:300]


def _whole(response: requests.Response, max_bytes: int, url: str, limits: Limits) -> bytes:
    length = response.headers.get("Content-Length")
    if length is not None and length.isdigit() and int(length) > max_bytes:
        raise TemplateError(f"{url} has {length} bytes, at most {max_bytes} may be")
    body = Body(response, url, max_bytes + 1, limits)
    pieces: list[bytes] = []
    size = 0
    while piece := body.some(PIECE_BYTES):
        pieces.append(piece)
        size += len(piece)
        if size > max_bytes:
            raise TemplateError(f"{url} has more than the {max_bytes} bytes that may be")
    if length is not None and length.isdigit() and size != int(length):
        raise Transient(f"{url}: cut off after {size} of {length} bytes")
    return b"".join(pieces)


def _digest(data: bytes) -> Digest:
    return f"sha256:{sha256(data).hexdigest()}"
