"""The one table of routes: the router, the access rules, the documents and the tests read it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

from agent.model.job import JobId, MachineId, TemplateRef
from agent.model.wire import BadDocument, decode, encode
from netboot.auth import Access
from netboot.problems import ProblemError, bad_request, unprocessable

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

JSON: Final = "application/json"
STREAM: Final = "text/event-stream"
WAIT_MAX_S: Final = 60
BODY_MAX: Final = 1024 * 1024
PATH_TYPES: Final[dict[str, Any]] = {
    "machine": MachineId,
    "job": JobId,
    "template": TemplateRef,
}


@dataclass(frozen=True, slots=True)
class Query:
    """A parameter after the question mark."""

    name: str
    type: Any
    text: str


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. `{template}` may hold slashes; other parameters may not."""

    method: str
    path: str
    access: Access
    handler: Handler
    summary: str
    request: Any = None
    response: Any = None
    status: int = 200
    media_type: str = JSON
    query: tuple[Query, ...] = ()
    errors: tuple[int, ...] = ()
    empty: tuple[int, ...] = ()
    """Further successes that have no body, such as 204."""

    @property
    def name(self) -> str:
        return self.handler.__name__

    @property
    def methods(self) -> tuple[str, ...]:
        """The method, and HEAD beside GET: firmware that boots over HTTP asks for sizes first."""
        has_head = self.method == "GET" and self.media_type != STREAM
        return (self.method, "HEAD") if has_head else (self.method,)

    @property
    def pattern(self) -> str:
        """The path as aiohttp's router wants it."""
        return self.path.replace("{template}", "{template:.+}")


WAIT: Final = Query("wait", int, f"wait up to so many seconds for news, at most {WAIT_MAX_S}")
AFTER: Final = Query("after", int, "only what has a higher sequence")


def path_value(request: web.Request, name: str) -> str:
    """Return a parameter of the path, if it passes its grammar. Raises ProblemError 400."""
    text = request.match_info[name]
    try:
        value: str = msgspec.convert(text, type=PATH_TYPES[name])
    except msgspec.ValidationError as error:
        raise bad_request(f"not a {name}: {text[:100]!a}") from error
    return value


def query_number(request: web.Request, name: str, most: int) -> int:
    """Return a number from the query, 0 if absent, at most `most`. Raises ProblemError 400."""
    text = request.query.get(name, "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise bad_request(f"{name}: expected a whole number, got {text[:40]!a}")
    return min(int(text), most)


async def read_body(request: web.Request, kind: type[T], most: int = BODY_MAX) -> T:
    """Return the body of `request` as a `kind`. Raises ProblemError 400, 413, 415 or 422."""
    if request.content_type != JSON:
        raise ProblemError(415, "bad-request", f"Content-Type: expected {JSON}")
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise ProblemError(415, "bad-request", "Content-Encoding: expected identity")
    parts = bytearray()
    if (request.content_length or 0) > most:
        raise ProblemError(413, "too-large", f"at most {most} bytes are read here")
    async for part in request.content.iter_any():
        parts += part
        if len(parts) > most:
            raise ProblemError(413, "too-large", f"at most {most} bytes are read here")
    try:
        return decode(bytes(parts), kind, "request", most)
    except BadDocument as error:
        raise unprocessable(str(error)[:1000]) from error


def json_response(value: object, status: int = 200) -> web.Response:
    return web.Response(
        body=encode(value),
        status=status,
        content_type=JSON,
        headers={"Cache-Control": "no-store"},
    )
