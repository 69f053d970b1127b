"""Registries to run one suite on: ours, and the one that Debian packages."""

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from tests.conftest import cannot_run
from tests.contracts.registry_child import TOKEN

IMPLEMENTATIONS = ("ours", "debian")
ROOT = Path(__file__).parents[2]


def digest_of(data: bytes) -> str:
    return f"sha256:{sha256(data).hexdigest()}"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Registry:
    """A registry in a process of its own, and a client that is logged in."""

    kind: str
    folder: Path
    idle_s: float = 10.0
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    session: requests.Session = field(default_factory=requests.Session)

    def __post_init__(self) -> None:
        self.session.trust_env = False
        if self.kind == "ours":
            self.session.auth = ("metalcast", TOKEN)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def free_file(self) -> Path:
        return self.folder / "free"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def start(self) -> None:
        self.data.mkdir(exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command(), cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(requests.ConnectionError):
                if self.session.get(f"{self.url}/v2/", timeout=5).status_code == 200:
                    return
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"no registry came up:\n{(self.folder / 'log').read_text()}")
            time.sleep(0.05)

    def _command(self) -> list[str]:
        if self.kind == "ours":
            child = [sys.executable, "-m", "tests.contracts.registry_child"]
            return [*child, str(self.data), str(self.port), str(self.free_file), str(self.idle_s)]
        config = self.folder / "config.yml"
        config.write_text(
            "version: 0.1\nlog: {level: warn}\n"
            f"storage: {{filesystem: {{rootdirectory: {self.data}}}, delete: {{enabled: true}}}}\n"
            f"http: {{addr: '127.0.0.1:{self.port}', secret: constant}}\n"
        )
        return ["docker-registry", "serve", str(config)]

    def kill(self) -> None:
        """SIGKILL: no handler runs, nothing is flushed."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.session.close()

    def log(self) -> str:
        return (self.folder / "log").read_text()

    # what a client says

    def ask(self, method: str, path: str, **values: object) -> requests.Response:
        url = path if path.startswith("http") else self.url + path
        return self.session.request(method, url, timeout=30, **values)  # type: ignore[arg-type]

    def begin(self, name: str) -> str:
        """Return the path of a new upload."""
        answer = self.ask("POST", f"/v2/{name}/blobs/uploads/")
        assert answer.status_code == 202, answer.text
        return answer.headers["Location"]

    def patch(self, location: str, data: bytes, at: int) -> requests.Response:
        headers = {"Content-Range": f"{at}-{at + len(data) - 1}"}
        return self.ask("PATCH", location, data=data, headers=headers)

    def finish(self, location: str, digest: str, data: bytes = b"") -> requests.Response:
        sign = "&" if "?" in location else "?"
        return self.ask("PUT", f"{location}{sign}digest={digest}", data=data)

    def push(self, name: str, data: bytes) -> str:
        digest = digest_of(data)
        assert self.finish(self.begin(name), digest, data).status_code == 201
        return digest

    def has(self, name: str, digest: str) -> bool:
        return self.ask("HEAD", f"/v2/{name}/blobs/{digest}").status_code == 200

    def offset(self, location: str) -> int:
        """Return how many bytes the registry says that it has; one is never just that."""
        answer = self.ask("GET", location)
        assert answer.status_code == 204, answer.text
        last = int(answer.headers["Range"].removeprefix("0-"))
        return last + 1 if last else 0

    def raw(self, head: str, location: str, headers: str) -> socket.socket:
        """Return a connection on which a request's head has been sent."""
        parts = urlsplit(location)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(
            f"{head} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            f"Authorization: Bearer {TOKEN}\r\n{headers}\r\n".encode()
        )
        return connection


@contextlib.contextmanager
def running(kind: str, folder: Path, idle_s: float = 10.0) -> Iterator[Registry]:
    if kind == "debian" and shutil.which("docker-registry") is None:
        cannot_run("docker-registry is not installed")
    registry = Registry(kind, folder, idle_s)
    registry.start()
    try:
        yield registry
    finally:
        registry.kill()


def wait_for(claim: object, timeout_s: float = 10.0) -> None:
    """Wait until the callable `claim` is true."""
    assert callable(claim)
    deadline = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
