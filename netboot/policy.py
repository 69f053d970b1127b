"""Which machine boots what. Pure: the newest jobs of a machine in, a decision out.

| the machine | boots |
|---|---|
| has a job that waits or runs | the agent |
| never had one | the agent, which waits for a job |
| was deployed, or captured (however that ended: a source is never written) | its disk |
| was being deployed when that failed or was cancelled | the agent: its disk does not boot |

A job that changed nothing (an inspection, a deployment refused before the first write, anything
cancelled before an agent had it) counts as if it had never been.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import assert_never

from agent.errors import DiskState
from agent.model.job import CaptureSpec, DeploySpec, InspectSpec, Job, JobState, WipeSpec


class Boot(StrEnum):
    AGENT = "agent"
    DISK = "disk"


def decide_boot(jobs: Iterable[Job]) -> Boot:
    """Return what a machine boots whose jobs these are, the newest first."""
    for job in jobs:
        if not job.state.ended:
            return Boot.AGENT
        if decision := _after(job):
            return decision
    return Boot.AGENT


def _after(job: Job) -> Boot | None:
    """Return what an ended job leaves to boot; None if it left everything as it was."""
    if job.state is JobState.CANCELLED and job.fence == 0:
        return None
    match job.spec:
        case InspectSpec():
            return None
        case CaptureSpec():
            return Boot.DISK
        case DeploySpec():
            if job.state is JobState.SUCCEEDED:
                return Boot.DISK
            return None if _refused(job) else Boot.AGENT
        case WipeSpec():
            return None if _refused(job) else Boot.AGENT
        case _ as never:
            assert_never(never)


def _refused(job: Job) -> bool:
    return job.failure is not None and job.failure.disk == DiskState.UNCHANGED.value
