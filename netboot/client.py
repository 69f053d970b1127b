"""The operator's side of the API: what the CLI calls."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

import requests

from agent.errors import AgentError, ServerError
from agent.model.event import Event
from agent.model.inventory import Inventory
from agent.model.job import Job, JobRequest, Machine, Pass, PassRequest
from agent.model.problem import PROBLEM_TYPE, Problem
from agent.model.wire import BadDocument, decode, encode
from netboot.grammar import parse_url
from netboot.values import GcReport, GcRequest, TemplateShown, TemplateSummary

T = TypeVar("T")
CONNECT_S: Final = 10
READ_S: Final = 60
SWEEP_S: Final = 1800
LINE_MAX: Final = 4 * 1024 * 1024


@dataclass
class Client:
    """Speaks to `metalcast serve` at `server` as the operator."""

    server: str
    token: str | None
    _session: requests.Session = field(default_factory=requests.Session, repr=False)

    def __post_init__(self) -> None:
        self.server = parse_url(self.server)
        self._session.trust_env = False
        self._session.headers["Accept-Encoding"] = "identity"

    def machines(self) -> tuple[Machine, ...]:
        return self._ask("GET", "/machines", tuple[Machine, ...])

    def machine(self, machine: str) -> Machine:
        return self._ask("GET", f"/machines/{_part(machine)}", Machine)

    def inventory(self, machine: str) -> Inventory:
        return self._ask("GET", f"/machines/{_part(machine)}/inventory", Inventory)

    def remove_machine(self, machine: str) -> None:
        self._send("DELETE", f"/machines/{_part(machine)}")

    def templates(self) -> tuple[TemplateSummary, ...]:
        return self._ask("GET", "/templates", tuple[TemplateSummary, ...])

    def template(self, reference: str) -> TemplateShown:
        return self._ask("GET", f"/templates/{_part(reference)}", TemplateShown)

    def remove_template(self, reference: str) -> None:
        self._send("DELETE", f"/templates/{_part(reference)}")

    def sweep(self, asked: GcRequest) -> GcReport:
        return self._ask("POST", "/gc", GcReport, asked, read_s=SWEEP_S)

    def jobs(self) -> tuple[Job, ...]:
        return self._ask("GET", "/jobs", tuple[Job, ...])

    def job(self, job: str) -> Job:
        return self._ask("GET", f"/jobs/{_part(job)}", Job)

    def make_job(self, asked: JobRequest) -> Job:
        return self._ask("POST", "/jobs", Job, asked)

    def cancel_job(self, job: str) -> Job:
        return self._ask("POST", f"/jobs/{_part(job)}/cancel", Job)

    def make_pass(self, asked: PassRequest) -> Pass:
        return self._ask("POST", "/passes", Pass, asked)

    def events(self, job: str, after: int = 0) -> tuple[Event, ...]:
        return self._ask("GET", f"/jobs/{_part(job)}/events?after={after}", tuple[Event, ...])

    def watch(self, job: str, after: int) -> Iterator[Job | Event]:
        """Give what happens after sequence `after` as it happens, until the job or the line ends.

        Raises ServerError when the line is cut; ask again with the last sequence.
        """
        path = f"/jobs/{_part(job)}/events/stream?after={after}"
        kind = ""
        try:
            with self._send("GET", path, stream=True) as answer:
                for line in answer.iter_lines(chunk_size=None):
                    name, _, value = line.partition(b": ")
                    if name == b"event":
                        kind = value.decode()
                    elif name == b"data" and kind == "job":
                        yield decode(value, Job, "stream", LINE_MAX)
                    elif name == b"data" and kind == "event":
                        yield decode(value, Event, "stream", LINE_MAX)
        except requests.RequestException as error:
            raise ServerError(f"lost the connection to {self.server}") from error

    def _ask(
        self, method: str, path: str, kind: type[T], body: Any = None, *, read_s: float = READ_S
    ) -> T:
        answer = self._send(method, path, body, read_s=read_s)
        return decode(answer.content, kind, f"answer of {self.server}", 64 * 1024 * 1024)

    def _send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        stream: bool = False,
        read_s: float = READ_S,
    ) -> requests.Response:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            answer = self._session.request(
                method,
                f"{self.server}/api/v1{path}",
                data=encode(body) if body is not None else None,
                headers=headers,
                timeout=(CONNECT_S, read_s),
                allow_redirects=False,
                stream=stream,
            )
        except requests.RequestException as error:
            raise ServerError(
                f"no answer from {self.server}: {_plain(error)}",
                hint="is `metalcast serve` running? else give --server URL",
            ) from None
        if answer.status_code >= 300:
            raise _refusal(self.server, answer)
        return answer


def _plain(error: BaseException) -> str:
    """Return the innermost reason of `error`: urllib3 wraps the useful words three deep."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return str(error) or type(error).__name__


def _part(text: str) -> str:
    return quote(text, safe="")


def _refusal(server: str, answer: requests.Response) -> AgentError:
    if answer.headers.get("Content-Type", "").partition(";")[0] != PROBLEM_TYPE:
        return ServerError(f"{server} does not answer as a Metalcast server")
    try:
        problem = decode(answer.content, Problem, "problem")
    except BadDocument:
        return ServerError(f"{server} answers with status {answer.status_code}")
    if problem.status == 401:
        return ServerError(
            f"{server}: {problem.detail}",
            hint="give --token-file FILE; the token is in the data directory of `metalcast serve`",
        )
    return ServerError(problem.detail, hint=problem.hint)


def read_token(path: Path) -> str:
    """Return the token in a file. Raises AgentError."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise AgentError(f"cannot read the token in {path}") from error
