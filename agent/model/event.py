"""What an agent tells while it works. Small, frozen, safe to send twice (`number` is the key)."""

from enum import StrEnum
from typing import Any

import msgspec

from agent.model.wire import Value


class Progress(Value, frozen=True, kw_only=True):
    """How far a long step is. `rate` is bytes a second over the last seconds."""

    what: str
    done_bytes: int
    total_bytes: int
    rate: int = 0
    seconds_left: int | None = None
    bottleneck: str | None = None
    """The stage that the others wait for."""
    stage_seconds: dict[str, float] = msgspec.field(default_factory=dict)
    """What its threads spent in each stage until now, in sum."""

    @classmethod
    def at(
        cls,
        what: str,
        done_bytes: int,
        total_bytes: int,
        rate: int,
        bottleneck: str | None = None,
        stage_seconds: dict[str, float] | None = None,
    ) -> "Progress":
        """Return how far `what` is, with the time that the rest takes at this rate."""
        left = max(total_bytes - done_bytes, 0)
        return cls(
            what=what,
            done_bytes=done_bytes,
            total_bytes=total_bytes,
            rate=rate,
            seconds_left=-(-left // rate) if rate else None,
            bottleneck=bottleneck,
            stage_seconds=stage_seconds or {},
        )


class Failure(Value, frozen=True, kw_only=True):
    """Why a job failed, for a person."""

    summary: str
    because: tuple[str, ...]
    disk: str
    """How the disk was left, by agent.errors.DiskState."""
    hint: str | None
    status: int
    """The agent's exit status."""


class Level(StrEnum):
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class StepStarted(Value, frozen=True, kw_only=True, tag="step", tag_field="kind"):
    index: int
    count: int
    summary: str


class Progressed(Value, frozen=True, kw_only=True, tag="progress", tag_field="kind"):
    progress: Progress


class Logged(Value, frozen=True, kw_only=True, tag="log", tag_field="kind"):
    level: Level
    message: str


class PlanMade(Value, frozen=True, kw_only=True, tag="plan", tag_field="kind"):
    """The whole plan, before the first write: as a page, and as data with its digest."""

    text: str
    digest: str


class Succeeded(Value, frozen=True, kw_only=True, tag="succeeded", tag_field="kind"):
    """The job is done. `result` is small JSON: digest, bytes, seconds a stage."""

    result: dict[str, Any]


class Failed(Value, frozen=True, kw_only=True, tag="failed", tag_field="kind"):
    failure: Failure


Happening = StepStarted | Progressed | Logged | PlanMade | Succeeded | Failed


class Event(Value, frozen=True, kw_only=True):
    """`POST /api/v1/jobs/{id}/events` takes a list of these; `GET …/events?after=N&wait=S`
    gives them.

    `number` counts from 1 in one claim; the server gives its own `sequence` and ignores a
    repetition of (fence, number).
    """

    number: int
    at: str
    happening: Happening
    sequence: int = 0
    fence: int = 0
