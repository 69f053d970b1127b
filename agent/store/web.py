"""Requests to one origin: what every source over HTTP has in common. No trust in headers.

What opens its door is sent to that origin only. Redirects are refused; the GET of a blob alone
may be sent elsewhere once, without what opens the door: registries keep blobs in object stores.
"""

import re
import threading
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from agent.errors import ServerError, TemplateError
from agent.model.template import Descriptor
from agent.store.auth import Door, TokenDoor
from agent.store.body import PIECE_BYTES, Body, Limits, root_reason
from agent.store.parts import Parts
from agent.store.retry import Retry, Transient
from agent.store.source import blob_digest

_REASON_BYTES: Final = 2000
_BUSY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_ACTIONS: Final = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}
_NO_SERVER: Final = "is the server running, and does this machine reach it?"


class Web:
    """One origin. Any thread may use it; each has its own connections."""

    def __init__(
        self,
        url: str,
        *,
        door: Door | None = None,
        limits: Limits | None = None,
        ca: str | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ServerError(f"not the URL of a server: {url!r}")
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self.limits = limits or Limits()
        self._door = door or TokenDoor(None)
        self._ca = ca
        self._threads = threading.local()
        self._sessions: list[requests.Session] = []
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            for session in self._sessions:
                session.close()
            self._sessions.clear()
            self._threads = threading.local()

    def request(
        self,
        method: str,
        url: str,
        *,
        data: bytes | Parts | None = None,
        headers: Mapping[str, str] | None = None,
        accept: str = "*/*",
        allowed: tuple[int, ...] = (200, 206),
        not_found: str | None = None,
        may_move: bool = False,
    ) -> requests.Response:
        """Return the answer, its body unread. Raises Transient or ServerError for all but
        `allowed`. `may_move`: one redirect is followed, as a stranger."""
        assert url.startswith(f"{self.origin}/")
        sent = {"Accept": accept, "Accept-Encoding": "identity", **(headers or {})}
        action = _ACTIONS.get(method, "push")
        for attempt in range(2):
            opens = self._door.header(action, self._ask)
            response = self._send(method, url, data, sent, opens)
            if response.status_code != 401 or attempt:
                break
            challenge = response.headers.get("WWW-Authenticate", "")
            if not self._door.challenged(action, challenge, opens):
                break
            response.close()
        if may_move and response.status_code in _MOVED:
            moved = self._moved(response, url)
            response.close()
            response = self._send(method, moved, None, sent, None)
            if 300 <= response.status_code < 400:
                response.close()
                raise ServerError(f"{method} {url}: redirects a second time")
        try:
            _check_answer(response, method, url, allowed, not_found, self._door.hint)
        except BaseException:
            response.close()
            raise
        if method == "HEAD" or response.headers.get("Content-Length") == "0":
            response.content  # noqa: B018  # its end is seen, so the connection is used again
        return response

    def whole(
        self, url: str, max_bytes: int, *, accept: str = "*/*", not_found: str | None = None
    ) -> bytes:
        """Return a small body. One attempt. Raises TemplateError if it is larger."""
        with self.request("GET", url, accept=accept, not_found=not_found) as response:
            return _whole(response, max_bytes, url, self.limits)

    def find_whole(self, url: str, max_bytes: int, *, accept: str = "*/*") -> bytes | None:
        """Return a small body, None if there is none at `url`. One attempt."""
        with self.request("GET", url, accept=accept, allowed=(200, 404)) as response:
            if response.status_code == 404:
                return None
            return _whole(response, max_bytes, url, self.limits)

    def blob(self, url: str, descriptor: Descriptor, max_bytes: int, retry: Retry) -> bytes:
        """Return a small blob whole. Raises TemplateError unless size and digest are right."""
        if descriptor.size > max_bytes:
            raise TemplateError(f"{url} has {descriptor.size} bytes, at most {max_bytes} may be")

        def get() -> bytes:
            with self.request("GET", url, may_move=True) as response:
                return _whole(response, descriptor.size, url, self.limits)

        data = retry.call(get)
        if len(data) != descriptor.size or blob_digest(data) != descriptor.digest:
            data = retry.call(get)  # once more: the fault may be on the way
        found = blob_digest(data)
        if len(data) != descriptor.size or found != descriptor.digest:
            raise TemplateError(f"the blob at {url} is damaged: {len(data)} bytes, {found}")
        return data

    def open_range(self, url: str, offset: int, size: int, blob_bytes: int) -> Body:
        """Return bytes `offset` to `offset + size` of a blob, to be read. One attempt.

        The answer must be just that range; a whole blob is taken only where one was asked for.
        """
        headers = {"Range": f"bytes={offset}-{offset + size - 1}"}
        response = self.request("GET", url, headers=headers, may_move=True)
        try:
            _check_range(response, url, offset, size, blob_bytes)
        except BaseException:
            response.close()
            raise
        return Body(response, url, size, self.limits)

    def has(self, url: str) -> bool:
        """Return whether there is something at `url`. One attempt."""
        with self.request("HEAD", url, allowed=(200, 404), may_move=True) as response:
            return response.status_code == 200

    def _send(
        self,
        method: str,
        url: str,
        data: bytes | Parts | None,
        headers: Mapping[str, str],
        opens: str | None,
    ) -> requests.Response:
        sent = {**headers, "Authorization": opens} if opens else headers
        shown = url.partition("?")[0]  # what a redirect has behind it may be a secret
        try:
            return self._session().request(
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
                f"{shown}: no trust in its certificate: {root_reason(error)}",
                hint="give the certificate of who signed it: --ca FILE, or ca_file of a mirror",
            ) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise Transient(f"{method} {shown}: {root_reason(error)}", hint=_NO_SERVER) from error

    def _moved(self, response: requests.Response, url: str) -> str:
        """Return where a blob is to be read instead."""
        moved = urljoin(url, response.headers.get("Location", ""))
        parts = urlsplit(moved)
        allowed = ("https",) if self.origin.startswith("https:") else ("https", "http")
        if parts.scheme not in allowed or not parts.hostname or "@" in parts.netloc:
            shown = f"{parts.scheme}://{parts.hostname}"
            raise ServerError(f"{url}: redirects to {shown!a}, which is not followed")
        return moved

    def _ask(self, url: str, opens: str | None, max_bytes: int) -> bytes:
        """Ask a token server."""
        shown = url.partition("?")[0]
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        with self._send("GET", url, None, headers, opens) as response:
            _check_answer(response, "GET", shown, (200,), None, self._door.hint)
            return _whole(response, max_bytes, shown, self.limits)

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
    response: requests.Response, url: str, offset: int, size: int, blob_bytes: int
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


def _check_answer(
    response: requests.Response,
    method: str,
    url: str,
    allowed: tuple[int, ...],
    not_found: str | None,
    no_entry: str,
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
        raise Transient(said, hint=_NO_SERVER, wait_s=retry_after_s(response.headers, time.time()))
    reason = _reason(response)
    text = f"{said}: {reason}" if reason else said
    if status in (401, 403):
        raise ServerError(text, hint=no_entry)
    if status == 404:
        raise ServerError(text, hint=not_found)
    if status == 507:
        raise ServerError(text, hint="the store is full: make room on the server")
    raise ServerError(text)


def retry_after_s(headers: Mapping[str, str], now: float) -> float:
    """Return for how many seconds a server wants to be left alone: a number, or up to a date.

    A date is taken by the server's own clock, where it tells: this machine's may be years off.
    """
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,6}", text):
        return float(text)
    until, sent = _timestamp(text), _timestamp(headers.get("Date", ""))
    return 0.0 if until is None else max(until - (now if sent is None else sent), 0.0)


def _timestamp(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


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
