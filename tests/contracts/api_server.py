"""A real server on a free port, in a thread of the test; and words to speak with it."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from agent.model.inventory import Board, Inventory, SecureBoot
from agent.model.job import Hello
from agent.model.wire import encode
from netboot.context import Context, Settings
from netboot.server import close_context, open_context, serve
from netboot.store import Store

MACHINE = "52-54-00-12-34-56"
OTHER = "52-54-00-00-00-02"
AGENT = "a" * 32
SECOND = "b" * 32
NONCE = "0" * 31 + "1"


def make_inventory(**changes: Any) -> Inventory:
    values: dict[str, Any] = {
        "firmware": "uefi",
        "secure_boot": SecureBoot.OFF,
        "arch": "x86_64",
        "kernel": "6.12",
        "board": Board(),
        "cpu_model": "QEMU",
        "cpus": 2,
        "memory_bytes": 2**30,
        "disks": (),
    }
    return Inventory(**(values | changes))


def make_hello(machine: str = MACHINE, agent: str = AGENT, **changes: Any) -> bytes:
    values: dict[str, Any] = {
        "agent": agent,
        "version": "0.1.0",
        "macs": (machine,),
        "uuid": None,
        "inventory": make_inventory(),
    }
    return encode(Hello(**(values | changes)))


@dataclass
class Api:
    """Speaks HTTP with one server, as whoever holds `token`."""

    url: str
    token: str | None
    context: Context
    session: requests.Session = field(default_factory=requests.Session)

    def __post_init__(self) -> None:
        self.session.trust_env = False

    def as_(self, token: str | None) -> "Api":
        return Api(self.url, token, self.context)

    def call(self, method: str, path: str, body: Any = None, **more: Any) -> requests.Response:
        headers = dict(more.pop("headers", {}))
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
            body = body if isinstance(body, bytes) else encode(body)
        return self.session.request(
            method,
            self.url + path,
            data=body,
            headers=headers,
            timeout=30,
            allow_redirects=False,
            **more,
        )

    def get(self, path: str, **more: Any) -> requests.Response:
        return self.call("GET", path, **more)

    def post(self, path: str, body: Any = None, **more: Any) -> requests.Response:
        return self.call("POST", path, body, **more)

    def hello(self, machine: str = MACHINE, agent: str = AGENT) -> None:
        answer = self.as_(None).post("/api/v1/agents/hello", make_hello(machine, agent))
        assert answer.status_code == 200, answer.text

    def claim(self, machine: str = MACHINE, agent: str = AGENT, wait: int = 0) -> requests.Response:
        path = f"/api/v1/machines/{machine}/claim?wait={wait}"
        return self.as_(None).post(path, {"agent": agent, "nonce": NONCE})

    def make_job(self, machine: str = MACHINE, **spec: Any) -> str:
        spec = spec or {"kind": "inspect"}
        answer = self.post("/api/v1/jobs", {"machine": machine, "spec": spec})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def job(self, job: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/api/v1/jobs/{job}").json()
        return found

    def events(self, job: str, *happenings: dict[str, Any], first: int = 1) -> requests.Response:
        said = [event(first + n, **happening) for n, happening in enumerate(happenings)]
        return self.post(f"/api/v1/jobs/{job}/events", said)


def claim_of(answer: requests.Response) -> dict[str, Any]:
    """Return the claim in an answer, whoever signed it."""
    found: dict[str, Any] = json.loads(answer.json()["document"])
    return found


def event(number: int, **happening: Any) -> dict[str, Any]:
    return {"number": number, "at": "2026-11-23T12:00:00Z", "happening": happening}


def log(message: str) -> dict[str, Any]:
    return {"kind": "log", "level": "info", "message": message}


def failed(status: int = 4, disk: str = "partly written, will not boot") -> dict[str, Any]:
    failure = {
        "summary": "could not restore root",
        "because": ["chunk 9f2c41d07a55 is damaged"],
        "disk": disk,
        "hint": "try again",
        "status": status,
    }
    return {"kind": "failed", "failure": failure}


SUCCEEDED = {"kind": "succeeded", "result": {"seconds": 3}}


@contextmanager
def running(
    folder: Path, prepare: Callable[[Context], None] = lambda _context: None, **settings: Any
) -> Iterator[Api]:
    """Run a server on `folder` until the block ends."""
    context, _ = open_context(Settings(data=folder, host="127.0.0.1", port=0, **settings))
    prepare(context)
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    started: list[int] = []
    is_ready = threading.Event()

    def ready(_host: str, port: int) -> None:
        started.append(port)
        is_ready.set()

    thread = threading.Thread(
        target=lambda: loop.run_until_complete(serve(context, ready, stop)), daemon=True
    )
    thread.start()
    assert is_ready.wait(10)
    token = (folder / "operator-token").read_text().strip()
    try:
        yield Api(f"http://127.0.0.1:{started[0]}", token, context)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()
        close_context(context)


def sweep_all_uploads(store: Store) -> None:
    """Cancel every upload; one whose writer was killed, when the server has noticed that."""
    until = time.monotonic() + 60
    while store.uploads():
        assert time.monotonic() < until, "somebody still writes"
        if not store.sweep_uploads(0):
            time.sleep(0.05)
