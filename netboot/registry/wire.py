"""How the registry speaks: errors, ranges, and bodies that are bounded in size and in time."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, Literal

from aiohttp import web

from agent.errors import AgentError
from agent.model.wire import encode
from netboot import store_errors as errors
from netboot.problems import ProblemError

Action = Literal["pull", "push", "delete"]
Authorize = Callable[[web.Request, str, Action], Awaitable[None]]
"""Asked before anything is looked at: may this request do `action` on this repository?

The name is checked already; `""` is the registry itself (`/v2/`, the catalog). Says no by raising
web.HTTPUnauthorized, web.HTTPForbidden or ProblemError; the status and the headers are
kept, and the body becomes OCI's. A 401 must carry `WWW-Authenticate: Basic realm="metalcast"`, else
skopeo and its like do not offer the password they have.
"""

REALM: Final = 'Basic realm="metalcast"'
_STATUS: Final[dict[type[AgentError], tuple[int, str]]] = {
    errors.NameInvalid: (400, "NAME_INVALID"),
    errors.NameUnknown: (404, "NAME_UNKNOWN"),
    errors.DigestInvalid: (400, "DIGEST_INVALID"),
    errors.BlobUnknown: (404, "BLOB_UNKNOWN"),
    errors.BlobInUse: (409, "DENIED"),
    errors.UploadUnknown: (404, "BLOB_UPLOAD_UNKNOWN"),
    errors.UploadSuperseded: (409, "BLOB_UPLOAD_INVALID"),
    errors.UploadOutOfOrder: (416, "BLOB_UPLOAD_INVALID"),
    errors.TooManyUploads: (429, "TOOMANYREQUESTS"),
    errors.BlobTooLarge: (413, "SIZE_INVALID"),
    errors.StoreFull: (507, "DENIED"),
    errors.ManifestUnknown: (404, "MANIFEST_UNKNOWN"),
    errors.ManifestInvalid: (400, "MANIFEST_INVALID"),
    errors.ManifestBlobUnknown: (404, "MANIFEST_BLOB_UNKNOWN"),
}
_CODES: Final = {401: "UNAUTHORIZED", 403: "DENIED", 429: "TOOMANYREQUESTS"}
_RANGE: Final = re.compile(r"bytes=(\d{0,19})-(\d{0,19})$(?!\n)")
_CONTENT_RANGE: Final = re.compile(r"(?:bytes )?(\d{1,19})-(\d{1,19})(?:/(?:\d{1,19}|\*))?$(?!\n)")


class RequestInvalid(AgentError):
    """A request that is not understood: status 400, or the one given."""

    def __init__(self, message: str, code: str = "UNSUPPORTED", status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class RangeRefused(AgentError):
    """No such range of a blob: 416."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"not one range inside {size_bytes} bytes")
        self.size_bytes = size_bytes


class BodyCut(AgentError):
    """The connection ended, or went quiet, before the body did."""


def oci_response(
    status: int, code: str, message: str, detail: Any = None, headers: dict[str, str] | None = None
) -> web.Response:
    """Return an error as OCI Distribution words it."""
    error = {"code": code, "message": message, "detail": detail}
    body = encode({"errors": [error]})
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def refusal(error: AgentError) -> web.Response:
    """Return the answer that an expected failure deserves; 500 for a failure of the store."""
    detail: Any = {"hint": error.hint} if error.hint else None
    headers: dict[str, str] = {}
    match error:
        case RequestInvalid():
            return oci_response(error.status, error.code, str(error))
        case RangeRefused():
            headers["Content-Range"] = f"bytes */{error.size_bytes}"
            return oci_response(416, "RANGE_INVALID", str(error), headers=headers)
        case BodyCut():
            return oci_response(408, "BLOB_UPLOAD_INVALID", str(error))
        case errors.UploadOutOfOrder():
            headers["Range"] = received_range(error.offset)
        case errors.ManifestBlobUnknown():
            detail = {"digests": list(error.digests)}
        case _:
            pass
    status, code = _STATUS.get(type(error), (500, "UNKNOWN"))
    return oci_response(status, code, str(error), detail, headers)


def denied(error: web.HTTPException | ProblemError) -> web.Response:
    """Return the server's own refusal (no token, wrong token) in OCI's words."""
    kept = {
        name: value
        for name, value in error.headers.items()
        if name.lower() not in ("content-type", "content-length")
    }
    if error.status == 401:
        kept.setdefault("WWW-Authenticate", REALM)
    text = error.reason if isinstance(error, web.HTTPException) else str(error)
    return oci_response(error.status, _CODES.get(error.status, "UNKNOWN"), text, headers=kept)


def received_range(offset: int) -> str:
    """Return OCI's `Range` for an upload that has `offset` bytes: inclusive, so `0-0` for none."""
    return f"0-{max(offset - 1, 0)}"


def parse_range(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """Return (offset, size) of the one range asked for; None means all of it.

    A unit other than bytes is none of ours (RFC 9110, 14.2) and gives None.
    Raises RangeRefused for several ranges, a malformed one, or one with nothing in it.
    """
    if header is None or not header.strip().lower().startswith("bytes"):
        return None
    found = _RANGE.match(header.strip())
    if not found or found.groups() == ("", ""):
        raise RangeRefused(size_bytes)
    first, last = found.groups()
    if not first:
        offset, end = max(size_bytes - int(last), 0), size_bytes
    else:
        offset, end = int(first), min(int(last) + 1 if last else size_bytes, size_bytes)
    if offset >= end:
        raise RangeRefused(size_bytes)
    return offset, end - offset


def parse_content_range(header: str | None, size_bytes: int | None) -> int | None:
    """Return where an uploaded piece begins, by `first-last`; None if it does not say.

    Raises RequestInvalid if it is malformed or does not fit the Content-Length.
    """
    if header is None:
        return None
    found = _CONTENT_RANGE.match(header.strip())
    if not found:
        raise RequestInvalid(f"not a Content-Range: {header[:64]!r}", "BLOB_UPLOAD_INVALID")
    first, last = int(found[1]), int(found[2])
    if last < first or (size_bytes is not None and last - first + 1 != size_bytes):
        raise RequestInvalid("Content-Range and Content-Length do not agree", "SIZE_INVALID")
    return first


def declared_size(request: web.Request) -> int | None:
    """Return the Content-Length; 0 without a body, None for a chunked one."""
    if request.content_length is not None:
        return request.content_length
    return None if request.can_read_body else 0


async def body_pieces(
    request: web.Request, idle_s: float, least_bytes: int
) -> AsyncIterator[bytes]:
    """Yield the body as it arrives.

    Raises BodyCut when it ends early, when nothing comes for `idle_s`, or when fewer than
    `least_bytes` come in that time: a trickle holds nothing open.
    """
    expected = declared_size(request)
    received = counted = 0
    since = time.monotonic()
    while True:
        try:
            async with asyncio.timeout(idle_s):
                piece = await request.content.readany()
        except TimeoutError as error:
            raise BodyCut(f"nothing came for {idle_s:g} s") from error
        except (OSError, web.RequestPayloadError) as error:
            raise BodyCut("the client hung up") from error
        except Exception as error:
            if request.transport is None:
                raise BodyCut("the client hung up") from error
            raise
        if not piece:
            break
        received += len(piece)
        counted += len(piece)
        if (now := time.monotonic()) - since > idle_s:
            if counted < least_bytes:
                raise BodyCut(f"only {counted} bytes came in {idle_s:g} s")
            since, counted = now, 0
        yield piece
    if expected is not None and received != expected:
        raise BodyCut(f"{received} bytes came, {expected} were announced")


async def small_body(request: web.Request, max_bytes: int, idle_s: float) -> bytes:
    """Return a whole body of at most `max_bytes`. Raises RequestInvalid (413) or BodyCut."""
    refused = RequestInvalid(f"more than {max_bytes} bytes", "SIZE_INVALID", 413)
    if (declared_size(request) or 0) > max_bytes:
        raise refused
    data = bytearray()
    async for piece in body_pieces(request, idle_s, least_bytes=1024):
        data += piece
        if len(data) > max_bytes:
            raise refused
    return bytes(data)
