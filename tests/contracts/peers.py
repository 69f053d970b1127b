"""The world's own servers and tools, run for a test: docker-registry, nginx, skopeo, oras."""

import base64
import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.conftest import cannot_run
from tests.contracts.registry_servers import free_port
from tests.harness.cache import key_of, made_once

USER, PASSWORD = "ada", "correct horse"


def need(*tools: str) -> None:
    """Skip, or fail in CI, unless all of these programs are installed."""
    for tool in tools:
        if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            cannot_run(f"{tool} is not installed")


def run(*words: str | Path, env: dict[str, str] | None = None) -> str:
    """Return what a program prints; its errors are shown when it fails."""
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **(env or {})},
    )
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def skopeo_copy(source: str, target: str, *options: str) -> None:
    need("skopeo")
    run(
        "skopeo",
        "copy",
        "--quiet",
        "--insecure-policy",
        "--preserve-digests",
        *options,
        source,
        target,
    )


def oras() -> Path:
    """Return the oras program of Debian 13, unpacked once."""
    need("mmdebstrap")
    return made_once("oras", key_of("trixie", "oras", 1), _unpack_oras) / "oras"


def _unpack_oras(folder: Path) -> None:
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    tree = folder / "tree.tar"
    run(
        "mmdebstrap",
        "--mode=" + ("root" if os.geteuid() == 0 else "unshare"),
        "--variant=extract",
        "--include=oras",
        "--format=tar",
        *([f"--keyring={keyring}"] if keyring.exists() else []),
        "trixie",
        tree,
    )
    run("tar", "--extract", "--file", tree, "--directory", folder, "./usr/bin/oras")
    (folder / "usr/bin/oras").rename(folder / "oras")
    tree.unlink()


@dataclass(frozen=True)
class Certificate:
    """A certificate that signs itself, for 127.0.0.1 and as guests see it."""

    cert: Path
    key: Path


def make_certificate(folder: Path, name: str = "server") -> Certificate:
    need("openssl")
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    run(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-sha256"),
        *("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1,IP:10.0.2.2"),
        *("-keyout", made.key, "-out", made.cert),
    )
    return made


@contextlib.contextmanager
def docker_registry(
    folder: Path, *, auth: str = "", certificate: Certificate | None = None, port: int = 0
) -> Iterator[str]:
    """Run Debian's docker-registry on `folder`; yield its URL."""
    need("docker-registry")
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    tls = (
        f", tls: {{certificate: {certificate.cert}, key: {certificate.key}}}" if certificate else ""
    )
    config = folder / "config.yml"
    config.write_text(
        "version: 0.1\nlog: {level: warn}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'data'}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}', secret: constant{tls}}}\n" + auth
    )
    with serving(["docker-registry", "serve", config], folder / "log", port):
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{port}"


def htpasswd_auth(folder: Path) -> str:
    """Return what makes docker-registry want a name and a password."""
    need("htpasswd")
    file = folder / "htpasswd"
    file.write_text(run("htpasswd", "-nbB", USER, PASSWORD))
    return f"auth: {{htpasswd: {{realm: store, path: {file}}}}}\n"


@contextlib.contextmanager
def nginx(root: Path, folder: Path) -> Iterator[str]:
    """Run nginx, giving out the files below `root`; yield its URL."""
    need("nginx")
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    temporary = "".join(
        f"{kind}_temp_path {folder / kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"{'user root;' if os.geteuid() == 0 else ''} daemon off; pid {folder / 'pid'};\n"
        "worker_processes 1; error_log stderr; events {}\n"
        "http { log_format all '$request $http_authorization';\n"
        f"access_log {folder / 'access'} all; sendfile on; {temporary}\n"
        f"server {{ listen 127.0.0.1:{port}; root {root}; }} }}\n"
    )
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    words: list[str | Path] = [str(program), "-p", folder, "-c", config, "-e", "stderr"]
    with serving(words, folder / "log", port):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def serving(words: list[str | Path], log: Path, port: int) -> Iterator[None]:
    """Run a server until the block ends; it has answered on `port` before that begins."""
    with log.open("ab") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{words[0]} did not come up:\n{log.read_text()}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(10)


@dataclass
class TokenServer:
    """Gives out tokens that docker-registry believes, to whoever has the password.

    `good_s` is how long it says that they are good; they are good for a minute.
    """

    folder: Path
    certificate: Certificate
    good_s: int = 300
    asked: list[dict[str, list[str]]] = field(default_factory=list)
    refused: int = 0
    url: str = ""

    def auth(self) -> str:
        """Return what makes docker-registry want tokens of ours."""
        return (
            f"auth: {{token: {{realm: '{self.url}/token', service: store, issuer: us, "
            f"rootcertbundle: {self.certificate.cert}}}}}\n"
        )

    @contextlib.contextmanager
    def serving(self) -> Iterator["TokenServer"]:
        handler = type("Bound", (_TokenHandler,), {"tokens": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate.cert, self.certificate.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        self.url = f"https://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def token(self, query: dict[str, list[str]]) -> str:
        now = int(time.time())
        access = []
        for scope in query.get("scope", []):
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        pem = self.certificate.cert.read_text()
        der = "".join(pem.split("-----")[2].split())
        head = {"typ": "JWT", "alg": "RS256", "x5c": [der]}
        claims = {
            "iss": "us",
            "sub": USER,
            "aud": "store",
            "access": access,
            "jti": os.urandom(8).hex(),
            "exp": now + 60,
            "nbf": now - 5,
            "iat": now,
        }
        signed = f"{_url64(json.dumps(head).encode())}.{_url64(json.dumps(claims).encode())}"
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(self.certificate.key)],
            input=signed.encode(),
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        return f"{signed}.{_url64(signature)}"


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class _TokenHandler(BaseHTTPRequestHandler):
    tokens: TokenServer

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != wanted:
            self.tokens.refused += 1
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.tokens.asked.append(query)
        answer = {"token": self.tokens.token(query), "expires_in": self.tokens.good_s}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
