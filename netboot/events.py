"""What agents tell, kept once: transactions on the open database.

Everything but progress is kept. A repetition of (fence, number) is ignored, so an agent may send
again whatever it is not sure of.
"""

import sqlite3
from dataclasses import dataclass, field
from typing import Final

import msgspec

from agent.model.event import (
    Event,
    Failed,
    Happening,
    Logged,
    Progressed,
    StepStarted,
    Succeeded,
)
from agent.model.job import CaptureSpec, DeploySpec, JobState
from agent.model.wire import encode
from netboot import jobs, machines
from netboot.problems import conflict, unprocessable

EVENTS_MAX: Final = 20_000
"""Of one job. Further log lines are dropped; steps and the end are always kept."""
PAGE: Final = 1000


@dataclass
class Kept:
    """What one post did."""

    sequence: int = 0
    ended: bool = False
    fresh: list[Event] = field(default_factory=list)
    """What had not been heard before, progress too, in the order in which it was sent."""


def capture_result(events: list[Event]) -> str | None:
    """Return the digest that a capture says it made, if `events` end one."""
    for event in events:
        if isinstance(event.happening, Succeeded):
            digest = event.happening.result.get("digest")
            return digest if isinstance(digest, str) else None
    return None


def keep_events(db: sqlite3.Connection, job: str, fence: int, events: list[Event], at: str) -> Kept:
    """Keep what is new of `events`, sent by the agent that holds `fence`.

    Raises ProblemError `fenced`, `cancelled` or `ended`; a mere repetition after the end is fine.
    """
    found = jobs.find_job(db, job)
    if fence != found.fence:
        raise conflict("fenced", f"{job} was claimed by another agent since; stop")
    kept = Kept()
    known = {
        row["number"]
        for row in db.execute(
            "SELECT number FROM events WHERE job = ? AND fence = ? AND number BETWEEN ? AND ?",
            (job, fence, *_range(events)),
        )
    }
    fresh = [event for event in events if event.number not in known]
    lasting = [event for event in fresh if not isinstance(event.happening, Progressed)]
    if found.state is JobState.CANCELLED:
        raise conflict("cancelled", f"{job} was cancelled; stop")
    if found.state.ended and lasting:
        raise conflict("ended", f"{job} has {found.state.value} already")
    row = db.execute(
        "SELECT coalesce(max(sequence), 0) AS last FROM events WHERE job = ?", (job,)
    ).fetchone()
    kept.sequence = row["last"]
    if found.state.ended:
        return kept
    kept.fresh = fresh
    for event in lasting:
        if kept.ended:
            raise unprocessable("nothing may follow the event that ends a job")
        if isinstance(event.happening, Logged) and kept.sequence >= EVENTS_MAX:
            continue
        kept.sequence += 1
        db.execute(
            "INSERT INTO events (job, sequence, fence, number, at, body) VALUES (?, ?, ?, ?, ?, ?)",
            (job, kept.sequence, fence, event.number, event.at, encode(event.happening)),
        )
        kept.ended = _follow(db, job, event.happening, at)
    return kept


def _range(events: list[Event]) -> tuple[int, int]:
    numbers = [event.number for event in events]
    return (min(numbers, default=0), max(numbers, default=0))


def _follow(db: sqlite3.Connection, job: str, happening: Happening, at: str) -> bool:
    """Change the job as `happening` says; True when that ended it."""
    match happening:
        case StepStarted():
            step = f"{happening.index}/{happening.count} {happening.summary}"
            db.execute("UPDATE jobs SET step = ? WHERE id = ?", (step[:500], job))
        case Succeeded():
            found = jobs.find_job(db, job)
            digest = happening.result.get("digest")
            made = digest if isinstance(found.spec, CaptureSpec) else None
            jobs.succeed_job(db, job, made, at)
            if isinstance(found.spec, DeploySpec) and found.spec.identity.hostname:
                machines.name_machine(db, found.machine, found.spec.identity.hostname)
            return True
        case Failed():
            jobs.fail_job(db, job, happening.failure, at)
            return True
        case _:
            pass
    return False


def find_events(db: sqlite3.Connection, job: str, after: int) -> tuple[Event, ...]:
    """Return at most a page of what happened after sequence `after`, in order."""
    rows = db.execute(
        "SELECT * FROM events WHERE job = ? AND sequence > ? ORDER BY sequence LIMIT ?",
        (job, after, PAGE),
    )
    return tuple(
        Event(
            number=row["number"],
            at=row["at"],
            happening=msgspec.json.decode(row["body"], type=Happening),
            sequence=row["sequence"],
            fence=row["fence"],
        )
        for row in rows
    )
