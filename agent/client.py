"""The agent's side of the job API: hello, claim, events. One claim, one token."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlsplit

import requests

from agent.errors import AgentError, ClaimRefused, ServerError
from agent.model.event import Event
from agent.model.job import (
    CaptureSpec,
    ClaimRequest,
    Hello,
    HelloAnswer,
    Job,
    MachineId,
    Redemption,
    SignedClaim,
)
from agent.model.wire import BadDocument, decode, encode
from agent.trust.claims import Asked, TrustedClaim, open_claim
from agent.trust.minisign import PublicKey, TrustError

T = TypeVar("T")
CONNECT_S = 10
READ_S = 75
ANSWER_MAX_BYTES = 8 * 1024 * 1024


@dataclass
class ServerClient:
    """Speaks to `metalcast serve` at `base_url`, such as `http://10.0.0.5:8470`."""

    base_url: str
    token: str | None = None
    _session: requests.Session = field(default_factory=requests.Session, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise ServerError(
                f"not a server's URL: {self.base_url}", hint="write http://ADDRESS:8470"
            )
        self.base_url = self.base_url.rstrip("/")
        self._session.trust_env = False
        self._session.headers["Accept-Encoding"] = "identity"

    def hello(self, hello: Hello) -> HelloAnswer:
        return self._expect(self._call("POST", "/api/v1/agents/hello", encode(hello)), HelloAnswer)

    def claim(
        self, machine: MachineId, agent: str, wait_s: int, keys: Sequence[PublicKey]
    ) -> TrustedClaim | None:
        """Return the job, signed by one of `keys`, or None when `wait_s` passed without one.

        Raises ClaimRefused while another agent holds this machine's job, TrustError.
        """
        asked = Asked(machine, agent, secrets.token_hex(16))
        path = f"/api/v1/machines/{machine}/claim?wait={wait_s}"
        request = ClaimRequest(agent=agent, nonce=asked.nonce)
        return self._claimed("POST", path, encode(request), asked, keys)

    def redeem(
        self,
        code: str,
        machine: MachineId,
        agent: str,
        spec: CaptureSpec,
        keys: Sequence[PublicKey],
    ) -> TrustedClaim:
        """Return a capture job, made and claimed at once by a pass that the operator gave."""
        asked = Asked(machine, agent, secrets.token_hex(16))
        request = Redemption(code=code, machine=machine, agent=agent, nonce=asked.nonce, spec=spec)
        body = encode(request)
        trusted = self._claimed("POST", "/api/v1/passes/redeem", body, asked, keys)
        if trusted is None:
            raise ServerError(f"{self.base_url} took the pass and gave no job")
        if trusted.claim.job.spec != spec:
            raise TrustError("the server gave another job than the pass was spent on")
        return trusted

    def _claimed(
        self, method: str, path: str, body: bytes, asked: Asked, keys: Sequence[PublicKey]
    ) -> TrustedClaim | None:
        began = time.monotonic()
        answer = self._call(method, path, body)
        if answer.status_code == 204:
            return None
        signed = self._expect(answer, SignedClaim)
        return open_claim(signed, asked, keys, time.monotonic() - began)

    def post_events(self, job: str, events: list[Event]) -> None:
        self._call("POST", f"/api/v1/jobs/{job}/events", encode(events))

    def job(self, job: str) -> Job:
        return self._expect(self._call("GET", f"/api/v1/jobs/{job}"), Job)

    def _call(self, method: str, path: str, body: bytes | None = None) -> requests.Response:
        url = self.base_url + path
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            answer = self._session.request(
                method,
                url,
                data=body,
                headers=headers,
                timeout=(CONNECT_S, READ_S),
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise ServerError(
                f"no answer from {self.base_url}: {_plain(error)}",
                hint="is `metalcast serve` running there, and does this machine reach it?",
            ) from error
        if answer.status_code < 300:
            return answer
        raise _refusal(url, answer)

    def _expect(self, answer: requests.Response, kind: type[T]) -> T:
        try:
            return decode(answer.content, kind, answer.url, ANSWER_MAX_BYTES)
        except BadDocument as error:
            raise ServerError(
                f"{self.base_url} does not speak as a Metalcast server of this version",
                hint="check metalcast.server=, and that server and image have one version",
            ) from error


@dataclass(frozen=True)
class JobPoster:
    """Posts the events of one claimed job."""

    client: ServerClient
    job: str

    def post_events(self, events: list[Event]) -> None:
        self.client.post_events(self.job, events)


def _refusal(url: str, answer: requests.Response) -> AgentError:
    """Return the error that `answer` deserves; its problem document speaks if it has one."""
    detail = f"status {answer.status_code}"
    hint = None
    is_problem = answer.headers.get("Content-Type", "").startswith("application/problem+json")
    if is_problem and len(answer.content) <= 65536:
        try:
            problem = decode(answer.content, dict[str, object], url)
        except BadDocument:
            problem = {}
        detail = str(problem.get("detail") or problem.get("title") or detail)[:1000]
        hint = str(problem["hint"])[:1000] if problem.get("hint") else None
    if answer.status_code in (401, 403, 409) and is_problem:
        return ClaimRefused(detail, hint=hint)
    if not is_problem:
        return ServerError(
            f"{url} answers with status {answer.status_code}, not as a Metalcast server",
            hint="check metalcast.server=: is another web server listening there?",
        )
    return ServerError(f"{url}: {detail}", hint=hint)


def _plain(error: requests.RequestException) -> str:
    """Return the innermost reason of `error`: urllib3 wraps the useful words three deep."""
    current: BaseException = error
    while True:
        inner = current.__cause__ or current.__context__ or getattr(current, "reason", None)
        if not isinstance(inner, BaseException):
            return str(current) or type(current).__name__
        current = inner
