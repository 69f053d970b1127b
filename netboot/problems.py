"""Saying no: each refusal is a `ProblemError`, and leaves the server as RFC 9457 problem+json."""

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from agent.model.problem import PREFIX, PROBLEM_TYPE, Problem
from agent.model.wire import encode

TITLES: Final = {
    "bad-request": "The request cannot be understood",
    "unauthorized": "A token is needed",
    "forbidden": "This token does not allow that",
    "not-found": "There is no such thing",
    "method-not-allowed": "This address does not take that method",
    "conflict": "Something is in the way",
    "fenced": "Another agent has the job now",
    "cancelled": "The job was cancelled",
    "ended": "The job has ended",
    "leased": "Another agent has the job",
    "too-large": "The request is too large",
    "unprocessable": "The request asks for something that cannot be done",
    "too-many": "Too many requests",
    "full": "The server can take no more",
    "bug": "A bug in the server",
}


class ProblemError(Exception):
    """An answer that is not what was asked for. `word` is what a client branches on."""

    def __init__(
        self,
        status: int,
        word: str,
        detail: str,
        *,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.word = word
        self.hint = hint
        self.headers = dict(headers or {})

    def problem(self) -> Problem:
        return Problem(
            type=PREFIX + self.word,
            title=TITLES[self.word],
            status=self.status,
            detail=str(self),
            hint=self.hint,
        )

    def response(self) -> web.Response:
        return web.Response(
            status=self.status,
            body=encode(self.problem()),
            content_type=PROBLEM_TYPE,
            headers=self.headers,
        )


def bad_request(detail: str) -> ProblemError:
    return ProblemError(400, "bad-request", detail)


def unauthorized(detail: str = "no token, or not one that is known here") -> ProblemError:
    return ProblemError(
        401,
        "unauthorized",
        detail,
        hint="give the operator token, or that of a running job, as `Authorization: Bearer TOKEN`",
        headers={"WWW-Authenticate": 'Basic realm="metalcast", charset="UTF-8"'},
    )


def forbidden(detail: str) -> ProblemError:
    return ProblemError(403, "forbidden", detail)


def not_found(detail: str, hint: str | None = None) -> ProblemError:
    return ProblemError(404, "not-found", detail, hint=hint)


def conflict(word: str, detail: str, hint: str | None = None) -> ProblemError:
    return ProblemError(409, word, detail, hint=hint)


def unprocessable(detail: str, hint: str | None = None) -> ProblemError:
    return ProblemError(422, "unprocessable", detail, hint=hint)


def try_later(detail: str, seconds: float) -> ProblemError:
    after = str(max(1, round(seconds)))
    return ProblemError(429, "too-many", detail, headers={"Retry-After": after})
