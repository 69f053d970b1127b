"""What a person at the machine sees and types. Writing never holds up the work."""

import os
import queue
import select
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from agent.model.event import (
    Failed,
    Failure,
    Happening,
    Level,
    Logged,
    PlanMade,
    Progress,
    Progressed,
    StepStarted,
    Succeeded,
)
from agent.model.result import result_line
from agent.units import format_bytes

PROGRESS_EVERY_S = 3.0
QUEUE_LINES = 2000


@dataclass
class Screen:
    """One console. Lines wait in a queue; when nobody takes them for long, new ones are dropped."""

    fd: int
    _lines: queue.Queue[str] = field(default_factory=lambda: queue.Queue(QUEUE_LINES))

    def __post_init__(self) -> None:
        threading.Thread(target=self._run, name=f"console-{self.fd}", daemon=True).start()

    def put(self, text: str) -> None:
        try:
            self._lines.put_nowait(text)
        except queue.Full:
            return

    def drain(self, timeout_s: float) -> None:
        """Wait until everything is out, at most `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self._lines.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.02)

    def _run(self) -> None:
        while True:
            text = self._lines.get()
            self._write(text.encode())
            self._lines.task_done()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self.fd, view) :]
            except BlockingIOError:
                select.select([], [self.fd], [], 1.0)
            except OSError:
                return


class Console:
    """All consoles of the machine as one: everything is shown on each, a line comes from any."""

    def __init__(self, screens: Iterable[Screen], inputs: Iterable[int], lack: str = "") -> None:
        self.screens = tuple(screens)
        self.inputs = tuple(inputs)
        self.lack = lack
        """The keys that the image was built without: every page and progress line says so."""
        self._typed: dict[int, bytes] = {}
        self._progress_at = 0.0
        self._progress_of = ""

    def say(self, text: str = "") -> None:
        for screen in self.screens:
            screen.put(text + "\n")

    def show(self, page: str) -> None:
        """Say `page`, and which keys the image lacks: a page may be all that somebody sees."""
        self.say(with_lack(page, self.lack))

    def ask(self, question: str) -> str:
        """Show `question` and return the line that somebody types on any console.

        Raises EOFError when there is nobody to type.
        """
        for screen in self.screens:
            screen.put(question)
        while self.inputs:
            for fd in select.select(self.inputs, [], [])[0]:
                line = self._read_line(fd)
                if line is not None:
                    return line
        raise EOFError

    def _read_line(self, fd: int) -> str | None:
        data = os.read(fd, 4096)
        if not data:
            self.inputs = tuple(other for other in self.inputs if other != fd)
            return None
        typed = self._typed.get(fd, b"") + data.replace(b"\r", b"\n")
        line, newline, rest = typed.partition(b"\n")
        self._typed[fd] = rest if newline else typed
        return line.decode("utf-8", "replace").strip() if newline else None

    def drain(self, timeout_s: float = 3.0) -> None:
        for screen in self.screens:
            screen.drain(timeout_s)

    def report(self, happening: Happening) -> None:
        """Show `happening`: plain lines, progress at most every few seconds and at its end."""
        match happening:
            case Progressed(progress=progress):
                now = time.monotonic()
                ends = progress.done_bytes >= progress.total_bytes
                fresh = progress.what != self._progress_of
                if fresh or ends or now - self._progress_at >= PROGRESS_EVERY_S:
                    self._progress_at, self._progress_of = now, progress.what
                    self.say(progress_line(progress, self.lack))
            case StepStarted(index=index, count=count, summary=summary):
                self.say(f"[{index}/{count}] {summary}")
            case Logged(level=level, message=message):
                self.say(message if level is Level.INFO else f"{level.value}: {message}")
            case PlanMade(text=text):
                self.show(text)
            case Succeeded(result=result):
                line = result_line(result)
                self.show(f"done: {line}" if line else "done")
            case Failed(failure=failure):
                self.show(failure_page(failure))


def with_lack(page: str, lack: str) -> str:
    """Return `page` as it is shown by an image that was built without keys, if it was."""
    if not lack:
        return page
    return f"{page}\nThis image has {lack}: what they would vouch for is NOT VERIFIED."


def progress_line(progress: Progress, lack: str = "") -> str:
    """Return `  root  41 %  312.0 MiB of 760.1 MiB  95.0 MiB/s  5 s left  (slowest: decode)`."""
    percent = 100 * progress.done_bytes // progress.total_bytes if progress.total_bytes else 100
    done, total = format_bytes(progress.done_bytes), format_bytes(progress.total_bytes)
    words = [f"  {progress.what}", f"{percent} %", f"{done} of {total}"]
    if progress.rate:
        words.append(f"{format_bytes(progress.rate)}/s")
    if progress.seconds_left is not None:
        words.append(f"{duration(progress.seconds_left)} left")
    if progress.bottleneck:
        words.append(f"(slowest: {progress.bottleneck})")
    if lack:
        words.append(f"({lack})")
    return "  ".join(words)


def duration(seconds: float) -> str:
    """Return `4 s`, `2 min 05 s` or `1 h 07 min`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def failure_page(failure: Failure) -> str:
    """Return the failure as an operator reads it: what, why, the disk, the next step."""
    lines = [f"error: {failure.summary}"]
    lines += [f"  because  {reason}" for reason in failure.because]
    lines.append(f"  disk     {failure.disk}")
    if failure.hint:
        lines.append(f"  try      {failure.hint}")
    return "\n".join(lines)


def machine_console(names: Iterable[str]) -> Console:
    """Return a console on `/dev/NAME` for each of `names` that can be opened."""
    screens, inputs = [], []
    for name in names:
        path = Path("/dev") / name
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError:
            continue
        screens.append(Screen(fd))
        inputs.append(fd)
    return Console(screens, inputs)


def standard_console() -> Console:
    """Return a console on this process's own standard output and input."""
    return Console([Screen(sys.stdout.fileno())], [sys.stdin.fileno()])
