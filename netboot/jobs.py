"""Jobs: making, claiming, ending. Transactions on the open database; time comes from outside.

Disk keys are in a Job that was claimed and in no other; when a job ends they are forgotten.

A claim hands the job's token to one agent. Each new agent's claim raises the fence; only the
holder of the newest fence may act. How long ago that agent gave word is known to `Watch`.
"""

import hashlib
import math
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from agent.errors import DiskState, ExitStatus
from agent.model.event import Failure
from agent.model.job import CaptureSpec, DeploySpec, InspectSpec, Job, JobSpec, JobState, WipeSpec
from agent.model.keys import DiskKey
from agent.model.wire import encode
from netboot import machines
from netboot.problems import ProblemError, conflict, not_found, unprocessable

CLAIMS_MAX: Final = 3
TOKEN_LIFE_S: Final = 24 * 3600
NO_REPOSITORY: Final = "none"


@dataclass(frozen=True, slots=True)
class Granted:
    """The outcome of a claim: the job is this agent's."""

    job: Job
    token: str
    expires_at: float
    repository: str


@dataclass(frozen=True, slots=True)
class JobToken:
    """What a job token stands for, whether or not it still holds."""

    job: str
    fence: int
    expires_at: float
    newest_fence: int
    state: JobState
    repository: str
    is_capture: bool


def decode_spec(data: bytes) -> JobSpec:
    """Return a spec as this file wrote it."""
    spec: JobSpec = msgspec.json.decode(data, type=JobSpec)
    return spec


def without_secrets(spec: JobSpec) -> JobSpec:
    """Return `spec` as it may be shown: of each disk key, only that it was given."""
    if isinstance(spec, DeploySpec | CaptureSpec) and spec.keys:
        return msgspec.structs.replace(spec, keys=tuple(key.shown for key in spec.keys))
    return spec


def _keys(spec: JobSpec) -> tuple[DiskKey, ...]:
    return spec.keys if isinstance(spec, DeploySpec | CaptureSpec) else ()


def repository_of(spec: JobSpec) -> str:
    """Return the one repository that the job's agent may use; others use none."""
    match spec:
        case DeploySpec():
            return spec.template.partition("@")[0].partition(":")[0]
        case CaptureSpec():
            return spec.name
        case InspectSpec() | WipeSpec():
            return NO_REPOSITORY


def make_job(
    db: sqlite3.Connection, machine: str, spec: JobSpec, digest: str | None, at: str
) -> Job:
    """Queue a job, also for a machine that never booted. Raises ProblemError if it has one."""
    if any(key.given for key in _keys(spec)):
        raise unprocessable("spec.keys: these were made to be shown, the secrets are not in them")
    machines.make_machine(db, machine, at)
    if active := find_active(db, machine):
        raise conflict(
            "conflict",
            f"{machine} already has the job {active.id} ({active.state.value})",
            f"wait for it, or: metalcast job cancel {active.id}",
        )
    job = f"j-{secrets.token_hex(6)}"
    db.execute(
        "INSERT INTO jobs (id, machine, spec, state, repository, template_digest, created_at)"
        " VALUES (?, ?, ?, 'queued', ?, ?, ?)",
        (job, machine, encode(spec), repository_of(spec), digest, at),
    )
    return find_job(db, job)


def claim_job(
    db: sqlite3.Connection,
    machine: str,
    agent: str,
    *,
    now: float,
    at: str,
    lease_left_s: Callable[[str], float],
) -> Granted | None:
    """Give the machine's job to `agent`; None if there is none, or it just failed for good.

    Raises ProblemError `leased` while another agent holds it, by what `lease_left_s` says.
    """
    row = db.execute(
        "SELECT * FROM jobs WHERE machine = ? AND state IN ('queued', 'running')", (machine,)
    ).fetchone()
    if row is None:
        return None
    is_same = row["state"] == "running" and secrets.compare_digest(row["agent"] or "", agent)
    if row["state"] == "running" and not is_same:
        if (left_s := lease_left_s(row["id"])) > 0:
            raise ProblemError(
                409,
                "leased",
                f"another agent works on {row['id']} of {machine}",
                hint="is a second machine using the same MAC?",
                headers={"Retry-After": str(math.ceil(left_s))},
            )
        if row["fence"] >= CLAIMS_MAX:
            fail_job(db, row["id"], _abandoned(decode_spec(row["spec"])), at)
            return None
    if not is_same:
        db.execute(
            "UPDATE jobs SET state = 'running', fence = fence + 1, agent = ?, step = NULL,"
            " started_at = coalesce(started_at, ?) WHERE id = ?",
            (agent, at, row["id"]),
        )
    job = msgspec.structs.replace(find_job(db, row["id"]), spec=decode_spec(row["spec"]))
    token = secrets.token_urlsafe(32)
    expires_at = now + TOKEN_LIFE_S
    db.execute("DELETE FROM tokens WHERE expires_at < ?", (now - TOKEN_LIFE_S,))
    db.execute(
        "INSERT INTO tokens (hash, job, fence, expires_at) VALUES (?, ?, ?, ?)",
        (hash_token(token), job.id, job.fence, expires_at),
    )
    return Granted(job, token, expires_at, row["repository"])


def _abandoned(spec: JobSpec) -> Failure:
    writes = isinstance(spec, DeploySpec | WipeSpec)
    return Failure(
        summary="no agent finished the job",
        because=(f"{CLAIMS_MAX} agents claimed it one after the other and fell silent",),
        disk=(DiskState.PARTIAL if writes else DiskState.UNCHANGED).value,
        hint="look at the machine's console, then make the job again",
        status=ExitStatus.FAILED if writes else ExitStatus.REFUSED,
    )


def hash_token(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def find_token(db: sqlite3.Connection, token: str) -> JobToken | None:
    """Return what `token` was made for. Looked up by its hash, so timing tells nothing."""
    row = db.execute(
        "SELECT t.job, t.fence, t.expires_at, j.fence AS newest, j.state, j.repository, j.spec"
        " FROM tokens t JOIN jobs j ON j.id = t.job WHERE t.hash = ?",
        (hash_token(token),),
    ).fetchone()
    if row is None:
        return None
    return JobToken(
        job=row["job"],
        fence=row["fence"],
        expires_at=row["expires_at"],
        newest_fence=row["newest"],
        state=JobState(row["state"]),
        repository=row["repository"],
        is_capture=isinstance(decode_spec(row["spec"]), CaptureSpec),
    )


def cancel_job(db: sqlite3.Connection, job: str, at: str) -> Job:
    """End a job that has not ended; its agent hears of it at its next word."""
    found = find_job(db, job)
    if found.state.ended:
        raise conflict("ended", f"{job} has {found.state.value} already")
    _end(db, job, JobState.CANCELLED, at)
    return find_job(db, job)


def succeed_job(db: sqlite3.Connection, job: str, digest: str | None, at: str) -> None:
    db.execute(
        "UPDATE jobs SET template_digest = coalesce(?, template_digest) WHERE id = ?",
        (digest, job),
    )
    _end(db, job, JobState.SUCCEEDED, at)


def fail_job(db: sqlite3.Connection, job: str, failure: Failure, at: str) -> None:
    db.execute("UPDATE jobs SET failure = ? WHERE id = ?", (encode(failure), job))
    _end(db, job, JobState.FAILED, at)


def _end(db: sqlite3.Connection, job: str, state: JobState, at: str) -> None:
    db.execute(
        "UPDATE jobs SET state = ?, ended_at = ?, spec = ? WHERE id = ?",
        (state.value, at, encode(find_job(db, job).spec), job),
    )


def find_job(db: sqlite3.Connection, job: str) -> Job:
    """Return a job. Raises ProblemError."""
    for found in _jobs(db.execute("SELECT * FROM jobs WHERE id = ?", (job,))):
        return found
    raise not_found(f"unknown job {job}")


def find_active(db: sqlite3.Connection, machine: str) -> Job | None:
    rows = db.execute(
        "SELECT * FROM jobs WHERE machine = ? AND state IN ('queued', 'running')", (machine,)
    )
    return next(_jobs(rows), None)


def find_jobs(
    db: sqlite3.Connection, machine: str | None = None, limit: int = 1000
) -> tuple[Job, ...]:
    """Return the newest jobs, the newest first."""
    rows = db.execute(
        "SELECT * FROM jobs WHERE machine = coalesce(?, machine) ORDER BY ordinal DESC LIMIT ?",
        (machine, limit),
    )
    return tuple(_jobs(rows))


def busy_repositories(db: sqlite3.Connection) -> tuple[str, ...]:
    """Return the repositories that an agent may be at work on."""
    rows = db.execute("SELECT DISTINCT repository FROM jobs WHERE state IN ('queued', 'running')")
    return tuple(row["repository"] for row in rows)


def _jobs(rows: sqlite3.Cursor) -> Iterator[Job]:
    for row in rows:
        failure = row["failure"]
        yield Job(
            id=row["id"],
            machine=row["machine"],
            spec=without_secrets(decode_spec(row["spec"])),
            state=JobState(row["state"]),
            fence=row["fence"],
            template_digest=row["template_digest"],
            created_at=row["created_at"],
            started_at=row["started_at"],
            ended_at=row["ended_at"],
            step=row["step"],
            failure=msgspec.json.decode(failure, type=Failure) if failure else None,
        )
