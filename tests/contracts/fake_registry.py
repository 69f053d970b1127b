"""A registry in this process: small, obedient, and a liar when a test tells it to be one."""

import hashlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_ROUTE = re.compile(r"/v2/(?P<name>.+?)/(?P<kind>manifests|blobs/uploads|blobs)/(?P<rest>[^?]*)")


@dataclass
class FakeRegistry:
    """What is stored, what was asked, and how to lie. `lie` gets each request first.

    It returns True if it has answered itself.
    """

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    lie: Callable[["Handler"], bool] | None = None
    token: str | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def serving(self, port: int = 0) -> Iterator[str]:
        """Yield the URL of this registry while it answers, at a free port unless one is given."""
        handler = type("Bound", (Handler,), {"registry": self})
        server = Server(("127.0.0.1", port), handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


class Handler(BaseHTTPRequestHandler):
    """One connection. The helpers below are for lies, too."""

    registry: FakeRegistry
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = b""
        with self.registry.lock:
            self.registry.asked.append((self.command, self.path, dict(self.headers)))
        if self.registry.lie is not None and self.registry.lie(self):
            return None
        self.body = self.rfile.read(length)
        if self.registry.token and self.headers.get("Authorization") != (
            f"Bearer {self.registry.token}"
        ):
            return self.answer(401)
        found = _ROUTE.match(self.path)
        if not found:
            return self.answer(404)
        with self.registry.lock:
            getattr(self, "on_" + found["kind"].replace("/", "_"))(found["name"], found["rest"])
        return None

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = do_any

    def on_manifests(self, name: str, rest: str) -> None:
        if self.command == "PUT":
            digest = sha256(self.body)
            self.registry.manifests[digest] = self.registry.manifests[rest] = self.body
            return self.answer(201, headers={"Docker-Content-Digest": digest})
        data = self.registry.manifests.get(rest)
        return self.answer(404) if data is None else self.answer(200, data)

    def on_blobs(self, name: str, rest: str) -> None:
        data = self.registry.blobs.get(rest)
        if data is None:
            return self.answer(404)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not asked:
            return self.answer(200, data)
        first, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
        if first > last:
            return self.answer(416)
        headers = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        return self.answer(206, data[first : last + 1], headers)

    def on_blobs_uploads(self, name: str, rest: str) -> None:
        uploads = self.registry.uploads
        if self.command == "POST":
            rest = f"u{len(self.registry.asked)}"
            uploads[rest] = bytearray()
            return self.answer(202, headers={"Location": f"/v2/{name}/blobs/uploads/{rest}"})
        if rest not in uploads:
            return self.answer(404)
        location = {"Location": f"/v2/{name}/blobs/uploads/{rest}"}
        held = uploads[rest]
        match self.command:
            case "PATCH":
                start = int(self.headers["Content-Range"].split("-")[0])
                if start != len(held):
                    return self.answer(416)
                held += self.body
                return self.answer(202, headers={**location, "Range": f"0-{len(held) - 1}"})
            case "GET":
                end = max(len(held) - 1, 0)
                return self.answer(204, headers={**location, "Range": f"0-{end}"})
            case "DELETE":
                del uploads[rest]
                return self.answer(204)
            case "PUT":
                held += self.body
                digest = self.path.partition("digest=")[2].replace("%3A", ":")
                if digest != sha256(bytes(held)):
                    return self.answer(400, b"wrong digest")
                self.registry.blobs[digest] = bytes(held)
                del uploads[rest]
                return self.answer(201, headers={"Docker-Content-Digest": digest})
        return self.answer(405)

    def answer(self, status: int, data: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def ranged(self) -> tuple[bytes, int, int]:
        """Return the blob that is asked for, and the first and last byte wanted."""
        data = self.registry.blobs[self.path.rpartition("/")[2]]
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        assert asked
        return data, int(asked[1]), int(asked[2])

    def cut(self, after: int, *, reset: bool) -> None:
        """Answer a ranged GET rightly, but hang up `after` bytes of its body."""
        data, first, last = self.ranged()
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.write(data[first : min(last + 1, first + after)])
        self.wfile.flush()
        self.hang_up(reset=reset)

    def hang_up(self, *, reset: bool) -> None:
        if reset:
            time.sleep(0.01)
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.rfile.close()
            self.connection.close()
        self.close_connection = True


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
