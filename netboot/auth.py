"""Who is asking, and what that allows. Deny by default: a route without a rule is nobody's.

| who | proves it by | may |
|---|---|---|
| operator | the operator token (Bearer, Basic password), or the session it opened | everything |
| job | the token of a claim | its job's events, that job, pull or push its one repository |
| nobody | nothing | hello, claim, boot files, health, the API's description, the login form |
"""

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import Path
from typing import Final

from aiohttp import web

from agent.model.job import JobState
from netboot import jobs
from netboot.jobs import JobToken
from netboot.problems import conflict, forbidden, unauthorized
from netboot.state import State

COOKIE: Final = "metalcast"
SESSION_S: Final = 12 * 3600
TOKEN_MAX: Final = 512


class Access(Enum):
    """Who may use a route."""

    PUBLIC = "anyone"
    OPERATOR = "operator"
    JOB = "operator, or the agent of that job"
    JOB_EVENTS = "the agent of that job"
    REGISTRY = "operator, or the agent of a job of that repository"


class Action(StrEnum):
    """What may be done with a repository of the store."""

    PULL = "pull"
    PUSH = "push"
    DELETE = "delete"
    LIST = "list"


class Who:
    """Whoever is asking."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Operator(Who):
    pass


@dataclass(frozen=True, slots=True)
class JobBearer(Who):
    """The agent of a job. `token` may be stale: `holds` says whether it still counts."""

    token: JobToken
    expired: bool

    @property
    def holds(self) -> bool:
        return (
            not self.expired
            and self.token.fence == self.token.newest_fence
            and self.token.state is JobState.RUNNING
        )


@dataclass(frozen=True, slots=True)
class Nobody(Who):
    pass


def make_operator_token(path: Path) -> str | None:
    """Return a new operator token, written to `path` for its owner only; None if there is one."""
    token = secrets.token_urlsafe(32)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return None
    with os.fdopen(file, "w") as writer:
        writer.write(token + "\n")
        writer.flush()
        os.fsync(writer.fileno())
    return token


def token_of(headers_authorization: str) -> str | None:
    """Return the token in an Authorization header: Bearer, or the password of Basic."""
    scheme, _, rest = headers_authorization.partition(" ")
    rest = rest.strip()
    if len(rest) > 2 * TOKEN_MAX:
        return None
    if scheme.lower() == "bearer":
        return rest or None
    if scheme.lower() == "basic":
        try:
            text = base64.b64decode(rest, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return None
        return text.partition(":")[2] or None
    return None


class Guard:
    """Answers who is asking, and whether that is enough."""

    def __init__(
        self, operator_token: str, state: State, now: Callable[[], float] = time.time
    ) -> None:
        self._hash = hashlib.sha256(operator_token.encode()).digest()
        self._key = hmac.digest(operator_token.encode(), b"metalcast session 1", "sha256")
        self._state = state
        self._now = now

    def is_operator(self, token: str) -> bool:
        given = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        return hmac.compare_digest(given, self._hash)

    # the dashboard's session: a cookie that says until when, and proves it

    def open_session(self) -> str:
        until = f"{int(self._now()) + SESSION_S}"
        return f"{until}.{self._sign(until)}"

    def _sign(self, until: str) -> str:
        return hmac.new(self._key, until.encode(), "sha256").hexdigest()

    def is_session(self, cookie: str) -> bool:
        until, _, proof = cookie.partition(".")
        if not (until.isascii() and until.isdigit() and len(until) <= 12 and proof.isascii()):
            return False
        return hmac.compare_digest(proof, self._sign(until)) and int(until) > self._now()

    # who

    async def identify(self, request: web.Request) -> Who:
        """Return who sends `request`. A token that is given but unknown makes it nobody."""
        if "Authorization" in request.headers:
            token = token_of(request.headers["Authorization"])
            return await self._bearer(token) if token else Nobody()
        if self.is_session(request.cookies.get(COOKIE, "")) and _is_from_ourselves(request):
            return Operator()
        return Nobody()

    async def _bearer(self, token: str) -> Who:
        if self.is_operator(token):
            return Operator()
        found = await self._state.run(jobs.find_token, token)
        if found is None:
            return Nobody()
        return JobBearer(found, expired=self._now() >= found.expires_at)

    # may they

    def check(self, who: Who, access: Access, job: str | None) -> None:
        """Raise ProblemError 401, 403 or 409 unless `who` may use a route of that access."""
        if access is Access.PUBLIC or isinstance(who, Operator):
            if access is Access.JOB_EVENTS:
                raise forbidden("only the agent that claimed a job reports on it")
            return
        if not isinstance(who, JobBearer):
            raise unauthorized()
        if access is Access.REGISTRY:
            return  # `check_repository` decides, when the repository is known
        if access not in (Access.JOB, Access.JOB_EVENTS) or who.token.job != job:
            raise forbidden("the token of a job is good for that job only")
        if who.expired:
            raise unauthorized("this token has expired; claim the job again")
        if access is Access.JOB_EVENTS:
            if who.token.fence != who.token.newest_fence:
                raise conflict("fenced", f"{job} was claimed by another agent since; stop")
        elif not who.holds and not who.token.state.ended:
            raise unauthorized("this token is no longer good: another agent has the job")

    def check_repository(self, who: Who, repository: str | None, action: Action) -> None:
        """Raise ProblemError unless `who` may do `action` with `repository` of the store.

        None stands for the store as a whole: the version check of `/v2/`, and lists.
        """
        if isinstance(who, Operator):
            return
        if not isinstance(who, JobBearer):
            raise unauthorized()
        if not who.holds:
            raise unauthorized("this token is no longer good: its job has ended or moved on")
        if repository is None and action is Action.PULL:
            return
        allowed = (Action.PULL, Action.PUSH) if who.token.is_capture else (Action.PULL,)
        if repository != who.token.repository or action not in allowed:
            raise forbidden(f"the job {who.token.job} does not include {action} of that repository")


def _is_from_ourselves(request: web.Request) -> bool:
    """Say whether a request with our cookie comes from a page of ours, as far as it matters.

    The cookie is SameSite=Strict already; a change must prove its origin as well.
    """
    if request.method in ("GET", "HEAD"):
        return True
    origin = request.headers.get("Origin", "")
    return origin.partition("://")[2] == request.headers.get("Host", "")
