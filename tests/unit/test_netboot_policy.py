"""Which machine boots what."""

from typing import Any

import pytest

from agent.errors import DiskState
from agent.model.event import Failure
from agent.model.job import CaptureSpec, DeploySpec, InspectSpec, Job, JobSpec, JobState
from netboot.policy import Boot, decide_boot

DEPLOY = DeploySpec(template="demo")
CAPTURE = CaptureSpec(name="demo")
INSPECT = InspectSpec()
QUEUED, RUNNING = JobState.QUEUED, JobState.RUNNING
SUCCEEDED, FAILED, CANCELLED = JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED


def make_job(spec: JobSpec, state: JobState, **changes: Any) -> Job:
    values: dict[str, Any] = {
        "id": "j-000000000000",
        "machine": "52-54-00-12-34-56",
        "spec": spec,
        "state": state,
        "fence": 1,
        "template_digest": None,
        "created_at": "2026-11-23T12:00:00Z",
    }
    return Job(**(values | changes))


def failure(disk: DiskState) -> Failure:
    return Failure(summary="no", because=(), disk=disk.value, hint=None, status=4)


DEPLOYED = make_job(DEPLOY, SUCCEEDED)
CAPTURED = make_job(CAPTURE, SUCCEEDED)
HALF_DONE = make_job(DEPLOY, FAILED, failure=failure(DiskState.PARTIAL))
REFUSED = make_job(DEPLOY, FAILED, failure=failure(DiskState.UNCHANGED))
INSPECTED = make_job(INSPECT, SUCCEEDED)


@pytest.mark.parametrize(
    ("newest_first", "boots"),
    [
        ([], Boot.AGENT),
        ([make_job(DEPLOY, QUEUED, fence=0)], Boot.AGENT),
        ([make_job(DEPLOY, RUNNING)], Boot.AGENT),
        ([make_job(INSPECT, QUEUED, fence=0), DEPLOYED], Boot.AGENT),
        ([DEPLOYED], Boot.DISK),
        ([DEPLOYED, HALF_DONE], Boot.DISK),
        ([CAPTURED], Boot.DISK),
        ([make_job(CAPTURE, FAILED, failure=failure(DiskState.UNCHANGED))], Boot.DISK),
        ([make_job(CAPTURE, CANCELLED)], Boot.DISK),
        ([HALF_DONE], Boot.AGENT),
        ([HALF_DONE, DEPLOYED], Boot.AGENT),
        ([make_job(DEPLOY, FAILED), DEPLOYED], Boot.AGENT),
        ([make_job(DEPLOY, CANCELLED), DEPLOYED], Boot.AGENT),
        ([make_job(DEPLOY, CANCELLED, fence=0), DEPLOYED], Boot.DISK),
        ([make_job(DEPLOY, CANCELLED, fence=0)], Boot.AGENT),
        ([REFUSED, DEPLOYED], Boot.DISK),
        ([REFUSED, HALF_DONE], Boot.AGENT),
        ([REFUSED], Boot.AGENT),
        ([INSPECTED], Boot.AGENT),
        ([INSPECTED, CAPTURED], Boot.DISK),
        ([INSPECTED, REFUSED, INSPECTED, DEPLOYED], Boot.DISK),
    ],
)
def test_decide_boot(newest_first: list[Job], boots: Boot) -> None:
    assert decide_boot(newest_first) is boots


@pytest.mark.parametrize("spec", [DEPLOY, CAPTURE, INSPECT])
@pytest.mark.parametrize("state", [QUEUED, RUNNING])
def test_a_job_that_has_not_ended_always_boots_the_agent(spec: JobSpec, state: JobState) -> None:
    assert decide_boot([make_job(spec, state), DEPLOYED]) is Boot.AGENT


def test_a_deployment_is_never_repeated_by_itself() -> None:
    """A machine whose boot order has the network first would otherwise be reinstalled for ever."""
    assert decide_boot([DEPLOYED]) is Boot.DISK
