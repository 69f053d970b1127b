"""How far a stream is: a few events a second, with the rate and the stage that holds it up."""

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from agent.model.event import Progress, Progressed
from agent.report import Report

_EVERY_S: Final = 0.5
_RATE_WINDOW_S: Final = 5.0


class Stages:
    """Seconds that threads spent in each stage, summed over the threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}
        self._threads: dict[str, int] = {}

    def share(self, stages: Iterable[str], threads: int) -> None:
        """Say that `threads` work at each of these stages side by side; else it is one."""
        self._threads.update(dict.fromkeys(stages, threads))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.add(**{stage: time.monotonic() - started})

    def add(self, **seconds: float) -> None:
        """Add what one thread spent in each of some stages."""
        with self._lock:
            for stage, spent in seconds.items():
                self._seconds[stage] = self._seconds.get(stage, 0.0) + spent

    @property
    def seconds(self) -> dict[str, float]:
        with self._lock:
            return {stage: round(spent, 3) for stage, spent in self._seconds.items()}

    @property
    def each(self) -> dict[str, float]:
        """The seconds of one of a stage's own threads: its fair share."""
        seconds = self.seconds.items()
        return {stage: spent / self._threads.get(stage, 1) for stage, spent in seconds}

    @property
    def bottleneck(self) -> str | None:
        """The stage that the others wait for: where its own threads spent most time each."""
        return slowest(self.each)


def slowest(seconds: Mapping[str, float]) -> str | None:
    """Return the stage in which threads spent most time: what to make faster first."""
    return max(seconds, key=seconds.__getitem__) if seconds else None


@dataclass(slots=True)
class Meter:
    """Counts bytes from any thread; `tick`, called by one, reports at most twice a second."""

    what: str
    total_bytes: int
    """May be an estimate: of more that is done, that is all."""
    report: Report
    stages: Stages
    done_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, count: int) -> None:
        with self.lock:
            self.done_bytes += count

    def tick(self, *, final: bool = False) -> None:
        now = time.monotonic()
        if self._seen and not final and now - self._seen[-1][0] < _EVERY_S:
            return
        self._seen.append((now, self.done_bytes))
        while len(self._seen) > 2 and now - self._seen[0][0] > _RATE_WINDOW_S:
            self._seen.popleft()
        then, before = self._seen[0]
        rate = int((self.done_bytes - before) / (now - then)) if now > then else 0
        slow, seconds = self.stages.bottleneck, self.stages.seconds
        total = max(self.total_bytes, self.done_bytes)
        progress = Progress.at(self.what, self.done_bytes, total, rate, slow, seconds)
        self.report(Progressed(progress=progress))
