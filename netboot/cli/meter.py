"""Progress of a long command on the standard error: bytes, rate, time left."""

import sys
import time
from dataclasses import dataclass, field
from typing import Final, TextIO

from agent.units import format_bytes
from netboot.cli.show import format_seconds

PLAIN_EVERY_S: Final = 10.0
TERMINAL_EVERY_S: Final = 0.2


@dataclass
class Meter:
    """Says how far `what` has got: one line that changes on a terminal, else a line now and then.

    The first line of a log comes only after some seconds, so a short command says nothing.
    """

    what: str
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    began: float = field(default_factory=time.monotonic)
    _said_at: float = 0.0
    _width: int = 0

    def __post_init__(self) -> None:
        self._said_at = self.began

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        is_terminal = self.stream.isatty()
        if now - self._said_at < (TERMINAL_EVERY_S if is_terminal else PLAIN_EVERY_S):
            return
        self._said_at = now
        line = meter_line(self.what, done, total, now - self.began)
        if is_terminal:
            self.stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self.stream.write(line + "\n")
        self.stream.flush()

    def end(self) -> None:
        """Wipe the line off a terminal."""
        if self._width:
            self.stream.write("\r" + " " * self._width + "\r")
            self.stream.flush()


def meter_line(what: str, done: int, total: int, seconds: float) -> str:
    parts = [f"{format_bytes(done)} of {format_bytes(total)}"]
    if total:
        parts.insert(0, f"{100 * done // total} %")
    if seconds > 0 and done:
        rate = done / seconds
        parts.append(f"{format_bytes(int(rate))}/s")
        parts.append(f"{format_seconds(round((total - done) / rate))} left")
    return f"{what}: {' · '.join(parts)}"
