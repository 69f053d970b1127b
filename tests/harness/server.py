"""`metalcast serve` as a child, and the other commands that speak to it."""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.harness.machine import free_port

METALCAST = (sys.executable, "-m", "netboot")


class CommandFailed(AssertionError):
    """A metalcast command did not end with 0."""


class Server:
    """A server on a free port of this host's loopback, which guests reach as 10.0.2.2."""

    def __init__(self, folder: Path, image: Path, data: Path | None = None) -> None:
        self.data = data or folder / "server"
        self.port = free_port()
        self._image = image
        self._log = folder / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The server as this host sees it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def guest_url(self) -> str:
        """The server as a guest sees it."""
        return f"http://10.0.2.2:{self.port}"

    @property
    def bootfile(self) -> str:
        return f"{self.guest_url}/boot/boot.ipxe"

    @property
    def token_file(self) -> Path:
        return self.data / "operator-token"

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self, timeout_s: float = 60) -> None:
        """Start the server, or start it again on the same data and port; wait until it answers."""
        words = [*METALCAST, "serve", "--data", str(self.data), "--image", str(self._image)]
        words += ["--listen", f"127.0.0.1:{self.port}"]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        until = time.monotonic() + timeout_s
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise RuntimeError(f"metalcast serve did not start:\n{self.log[-3000:]}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            link.request("GET", "/boot/boot.ipxe")
            return link.getresponse().status == 200
        except OSError:
            return False
        finally:
            link.close()

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """Kill the server as a crash would; `start` brings it back with its data."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(20)

    def words(self, *command: str | Path) -> list[str]:
        """Return the command line of a metalcast command that speaks to this server."""
        options = ["--server", self.url, "--token-file", str(self.token_file)]
        return [*METALCAST, *map(str, command), *options]

    def run(self, *command: str | Path, timeout_s: float = 60) -> str:
        """Run a metalcast command and return what it printed. Raises CommandFailed."""
        words = self.words(*command)
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL
        )
        if done.returncode:
            said = (done.stdout + done.stderr).strip()
            raise CommandFailed(f"metalcast {' '.join(map(str, command))}: {said}")
        return done.stdout

    def ask(self, *command: str | Path) -> Any:
        """Run a metalcast command with --json and return the value that it printed."""
        return json.loads(self.run(*command, "--json"))

    def watch(
        self, job: str, tell: Callable[[str], None] = lambda _: None, timeout_s: float = 900
    ) -> int:
        """Follow a job to its end with `metalcast job watch`; return that command's exit status."""
        child = subprocess.Popen(
            self.words("job", "watch", job),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        reader = threading.Thread(target=_tell_lines, args=(child.stdout, tell))
        reader.start()
        try:
            return child.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise CommandFailed(f"job {job} did not end in {timeout_s:.0f} s") from error
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait(10)
            reader.join()

    def blobs(self) -> Iterable[Path]:
        """Return the files of everything that the store has finished taking in."""
        return sorted(p for p in (self.data / "store" / "blobs").rglob("*") if p.is_file())


def _tell_lines(lines: Iterable[str], tell: Callable[[str], None]) -> None:
    for line in lines:
        tell(line.rstrip())
