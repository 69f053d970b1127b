"""Who gave word when, and how far they are: kept in memory, because it is stale in a minute.

After a restart of the server every running job gets a whole lease anew, so no agent loses its job
to the restart.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from agent.model.event import Event, Progress, Progressed, StepStarted
from agent.model.job import Job, JobState
from netboot.state import rfc3339

LEASE_S: Final = 60


@dataclass(frozen=True, slots=True)
class Word:
    """The last sign of life of the agent that holds a job."""

    fence: int
    monotonic: float
    at: str | None
    number: int = 0
    progress: Progress | None = None


class Watch:
    def __init__(
        self,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        lease_s: int = LEASE_S,
    ) -> None:
        self._now = now
        self._monotonic = monotonic
        self.lease_s = lease_s
        self._since = monotonic()
        self._words: dict[str, Word] = {}

    def hear(self, job: str, fence: int, events: Iterable[Event] = ()) -> None:
        """Note that the agent with `fence` gave word; keep the newest of its progress.

        A step that begins has none yet: that of the step before is forgotten.
        """
        word = self._words.get(job)
        if word is None or word.fence != fence:
            word = Word(fence, 0.0, None)
        word = replace(word, monotonic=self._monotonic(), at=rfc3339(self._now()))
        for event in events:
            if event.number <= word.number:
                continue
            match event.happening:
                case StepStarted():
                    word = replace(word, number=event.number, progress=None)
                case Progressed(progress=progress):
                    word = replace(word, number=event.number, progress=progress)
        self._words[job] = word

    def forget(self, job: str) -> None:
        self._words.pop(job, None)

    def silent_s(self, job: str) -> float:
        """Return how long the job's agent has been silent; a restart counts as a word."""
        word = self._words.get(job)
        return self._monotonic() - (word.monotonic if word else self._since)

    def left_s(self, job: str) -> float:
        """Return how much of the lease is left, at least 0."""
        return max(0.0, self.lease_s - self.silent_s(job))

    def shown(self, job: Job) -> Job:
        """Return `job` as it is shown: with the progress and the last word of its agent."""
        word = self._words.get(job.id)
        if job.state is not JobState.RUNNING or word is None or word.fence != job.fence:
            return job
        return msgspec.structs.replace(job, progress=word.progress, heard_at=word.at)
