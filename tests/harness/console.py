"""A machine's serial console: everything it says is kept, and one can wait for a word."""

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

# Colours, cursor movements and window titles: they would come between the letters of a word.
_ESCAPES = re.compile(
    r"\x1b(?:\[[0-9;?=<>]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][0-9A-B]|[=>78cDEHM])"
)
# More of an unfinished escape sequence than this is text.
_LONGEST_ESCAPE = 64


class ConsoleSilent(AssertionError):
    """What we waited for did not appear in time, or the machine ended before it did."""


class Console:
    """Reads `link` in a thread until the machine goes away; `log` gets every byte as it came."""

    def __init__(self, link: socket.socket, log: Path, echo: Callable[[str], None] | None = None):
        self._link = link
        self._log = log
        self._echo = echo
        self._said = threading.Condition()
        self._text = ""
        self._unfinished = ""
        self._mark = 0
        self._closed = False
        self.on_silence: Callable[[], None] = lambda: None
        self._reader = threading.Thread(target=self._read, name=f"console {log.stem}", daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        """Everything the machine has said, without escape sequences."""
        with self._said:
            return self._text

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.text.splitlines()[-lines:])

    def expect(self, pattern: str, timeout_s: float) -> re.Match[str]:
        """Wait until `pattern` matches what came after the last match; return the match.

        Raises ConsoleSilent with the end of the console after `timeout_s`, or at the machine's end.
        """
        wanted = re.compile(pattern, re.MULTILINE)
        until = time.monotonic() + timeout_s
        with self._said:
            while True:
                if found := wanted.search(self._text, self._mark):
                    self._mark = found.end()
                    return found
                left = until - time.monotonic()
                if self._closed or left <= 0:
                    break
                self._said.wait(left)
            why = "the machine ended" if self._closed else f"nothing in {timeout_s:.0f} s"
        self.on_silence()
        raise ConsoleSilent(f"{self._log.stem}: waited for {pattern!r}: {why}\n{self.tail()}")

    def skip(self) -> None:
        """Let the next `expect` look only at what is said from now on."""
        with self._said:
            self._mark = len(self._text)

    def send(self, text: str) -> None:
        self._link.sendall(text.encode())

    def send_line(self, text: str) -> None:
        self.send(text + "\r")

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the machine may have closed it first
            self._link.shutdown(socket.SHUT_RDWR)
        self._reader.join(5)
        self._link.close()

    def _read(self) -> None:
        with self._log.open("ab", buffering=0) as log:
            while data := self._receive():
                log.write(data)
                self._take(data.decode("utf-8", "replace"))
        with self._said:
            self._closed = True
            self._said.notify_all()

    def _receive(self) -> bytes:
        try:
            return self._link.recv(65536)
        except OSError:
            return b""

    def _take(self, text: str) -> None:
        text = self._unfinished + text
        cut = text.rfind("\x1b")
        if cut >= 0 and len(text) - cut < _LONGEST_ESCAPE and not _ESCAPES.match(text, cut):
            text, self._unfinished = text[:cut], text[cut:]
        else:
            self._unfinished = ""
        clean = _ESCAPES.sub("", text).replace("\r", "")
        with self._said:
            self._text += clean
            self._said.notify_all()
        if self._echo:
            self._echo(clean)
