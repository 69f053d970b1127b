"""What an agent says when the server is away, is another program, or says no."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from agent.client import ServerClient
from agent.errors import ClaimRefused, ServerError


class Scripted(BaseHTTPRequestHandler):
    status = 200
    kind = "text/html"
    body = b"<html>welcome</html>"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.status)
        self.send_header("Content-Type", self.kind)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_GET = do_POST

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def scripted() -> Iterator[tuple[str, type[Scripted]]]:
    handler = type("Handler", (Scripted,), {})
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()


def test_no_server() -> None:
    with pytest.raises(ServerError, match=r"no answer from http://127.0.0.1:1: .*refused") as error:
        ServerClient("http://127.0.0.1:1").job("j-0123456789ab")
    assert error.value.hint


def test_another_web_server(scripted: tuple[str, type[Scripted]]) -> None:
    with pytest.raises(ServerError, match="does not speak as a Metalcast server"):
        ServerClient(scripted[0]).job("j-0123456789ab")


def test_another_web_server_that_says_404(scripted: tuple[str, type[Scripted]]) -> None:
    url, handler = scripted
    handler.status = 404
    with pytest.raises(ServerError, match="status 404, not as a Metalcast server"):
        ServerClient(url).job("j-0123456789ab")


def test_a_redirect_is_not_followed(scripted: tuple[str, type[Scripted]]) -> None:
    url, handler = scripted
    handler.status = 302
    with pytest.raises(ServerError, match="status 302"):
        ServerClient(url).job("j-0123456789ab")


def test_a_problem_document_speaks(scripted: tuple[str, type[Scripted]]) -> None:
    url, handler = scripted
    handler.status, handler.kind = 409, "application/problem+json"
    handler.body = b'{"title":"fenced","detail":"another agent holds the job","hint":"power off"}'
    with pytest.raises(ClaimRefused, match="another agent holds the job") as error:
        ServerClient(url).claim("52-54-00-12-34-56", "0" * 32, 0, ())
    assert error.value.hint == "power off"


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://user:pw@host", "nonsense"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ServerError, match="not a server's URL"):
        ServerClient(url)
