"""A wipe on the server's side: what its machine boots next, what its end means."""

import pytest

from agent.errors import DiskState, ExitStatus
from agent.model.event import Failure
from agent.model.job import DeploySpec, Job, JobSpec, JobState, WipeSpec
from netboot.cli.jobs import describe
from netboot.cli.watch import job_status
from netboot.jobs import NO_REPOSITORY, repository_of
from netboot.policy import Boot, decide_boot

WIPE = WipeSpec(all_fixed=True)
DEPLOYED = DeploySpec(template="debian-13")


def job(spec: JobSpec, state: JobState, fence: int = 1, disk: DiskState | None = None) -> Job:
    failure = None
    if disk:
        status = ExitStatus.REFUSED
        failure = Failure(summary="no", because=(), disk=disk.value, hint=None, status=status)
    return Job(
        id="j-0123456789ab",
        machine="52-54-00-12-34-56",
        spec=spec,
        state=state,
        fence=fence,
        template_digest=None,
        created_at="2026-01-01T00:00:00Z",
        failure=failure,
    )


@pytest.mark.parametrize(
    ("wipe", "boots"),
    [
        (job(WIPE, JobState.SUCCEEDED), Boot.AGENT),
        (job(WIPE, JobState.QUEUED, 0), Boot.AGENT),
        (job(WIPE, JobState.CANCELLED), Boot.AGENT),
        (job(WIPE, JobState.FAILED, disk=DiskState.PARTIAL), Boot.AGENT),
        (job(WIPE, JobState.FAILED, disk=DiskState.UNCHANGED), Boot.DISK),
        (job(WIPE, JobState.CANCELLED, 0), Boot.DISK),
    ],
)
def test_wiped_disks_are_not_booted_and_untouched_ones_are(wipe: Job, boots: Boot) -> None:
    assert decide_boot([wipe, job(DEPLOYED, JobState.SUCCEEDED)]) is boots


def test_a_wipe_has_no_repository_and_may_have_written() -> None:
    assert repository_of(WIPE) == NO_REPOSITORY
    assert job_status(job(WIPE, JobState.CANCELLED)) == ExitStatus.FAILED
    assert job_status(job(WIPE, JobState.CANCELLED, 0)) == ExitStatus.REFUSED
    assert describe(job(WIPE, JobState.QUEUED)) == "wipe"
