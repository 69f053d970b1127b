"""Where happenings go: consoles, a log file, the server. A `Report` is a plain callable."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import msgspec

from agent.errors import AgentError, ClaimRefused, ServerError
from agent.model.event import Event, Happening, Progressed

Report = Callable[[Happening], None]

HEARTBEAT_S = 10.0
POST_EVERY_S = 0.7


def silent(happening: Happening) -> None:
    """The default report: nobody is told."""


def tee(*reports: Report) -> Report:
    """Return a report that tells all of `reports`, in order."""

    def tell(happening: Happening) -> None:
        for report in reports:
            report(happening)

    return tell


def log_file(path: Path) -> Report:
    """Return a report that appends to `path`, one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def tell(happening: Happening) -> None:
        line = {"at": now(), **json.loads(msgspec.json.encode(happening))}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    return tell


def now() -> str:
    """Return this moment as RFC 3339 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Poster(Protocol):
    """Whoever takes events: the client of one claimed job."""

    def post_events(self, events: list[Event]) -> None: ...


class EventPoster:
    """Sends happenings to the server from a thread of its own, and keeps the lease alive.

    The work never waits for the network: happenings queue here, and of several progress figures
    only the newest is sent. When the server says that the job belongs to another agent, or was
    cancelled, the next `report` raises ClaimRefused: the work stops at its next sign of life.
    """

    def __init__(self, poster: Poster, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._poster = poster
        self._heartbeat_s = heartbeat_s
        self._waiting: deque[Event] = deque()
        self._number = 0
        self._lost: AgentError | None = None
        self._lock = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def report(self, happening: Happening) -> None:
        with self._lock:
            if self._lost:
                raise ClaimRefused("the job was taken from this agent") from self._lost
            waits = self._waiting and isinstance(self._waiting[-1].happening, Progressed)
            if waits and isinstance(happening, Progressed):
                self._waiting.pop()
            self._number += 1
            self._waiting.append(Event(number=self._number, at=now(), happening=happening))
            self._lock.notify()

    def confirm(self, timeout_s: float = 60.0) -> None:
        """Return when the server has taken all that was reported: the lease is ours.

        Raises ServerError when it has not within `timeout_s`, ClaimRefused when the job is lost.
        """
        deadline = time.monotonic() + timeout_s
        with self._lock:
            while self._waiting and not self._lost:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ServerError(
                        f"the server did not take our events for {timeout_s:.0f} s",
                        hint="is `metalcast serve` running, and the network up?",
                    )
                self._lock.notify()
                self._lock.wait(min(left, 0.2))
            if self._lost:
                raise ClaimRefused("the job was taken from this agent") from self._lost

    def close(self, timeout_s: float = 30.0) -> None:
        """Send what is left, then stop."""
        try:
            self.confirm(timeout_s)
        finally:
            with self._lock:
                self._closing = True
                self._lock.notify()
            self._thread.join(timeout=5)

    def _run(self) -> None:
        last_sent = time.monotonic()
        while True:
            with self._lock:
                if not self._waiting and not self._closing:
                    self._lock.wait(1.0)
                if self._closing or self._lost:
                    return
                batch = list(self._waiting)[:200]
            if not batch and time.monotonic() - last_sent < self._heartbeat_s:
                continue
            try:
                self._poster.post_events(batch)
            except ClaimRefused as error:
                with self._lock:
                    self._lost = error
                    self._lock.notify_all()
                return
            except ServerError:
                time.sleep(2)
                continue
            last_sent = time.monotonic()
            with self._lock:
                sent = {event.number for event in batch}
                self._waiting = deque(e for e in self._waiting if e.number not in sent)
                self._lock.notify_all()
            time.sleep(POST_EVERY_S if batch else 0)
