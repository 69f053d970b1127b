"""The power fails after the commit and before the report: the job is not done a second time."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.commit import COMMITTED, FAILED, DiskRecord, write_record
from agent.flows.deploy import NO_JOB, deploy, find_finished
from agent.flows.workplace import Workplace
from agent.model.event import Happening
from agent.model.inventory import Drive
from agent.planning.deploy import plan_deploy
from agent.store.registry import RegistryClient
from agent.trust.keyring import Keyring
from tests.unit.fake_run import FakeRun
from tests.unit.make_plan import (
    JOB,
    make_drive,
    make_inventory,
    make_spec,
    make_template,
)


@pytest.fixture
def drive(tmp_path: Path) -> Drive:
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(8 << 30)
    return make_drive(path=str(disk))


def leave_record(drive: Drive, state: str, job: str = JOB) -> None:
    plan = plan_deploy(make_inventory(drive), make_template(), make_spec(), {"disk0": drive}, job)
    write_record(plan, DiskRecord(job=job, plan=plan.digest, state=state))


def test_a_finished_job_is_recognised_on_its_disk(drive: Drive) -> None:
    other = msgspec.structs.replace(drive, path="/dev/null")
    assert find_finished((other, drive), JOB) is None
    leave_record(drive, COMMITTED)
    assert find_finished((other, drive), JOB) == drive


def first_mib(drive: Drive) -> bytes:
    with Path(drive.path).open("rb") as file:
        return file.read(1 << 20)


@pytest.mark.parametrize(
    ("state", "left_by", "asked"),
    [(FAILED, JOB, JOB), (COMMITTED, "j-ffffffffffff", JOB), (COMMITTED, NO_JOB, NO_JOB)],
)
def test_nothing_else_counts_as_done(drive: Drive, state: str, left_by: str, asked: str) -> None:
    leave_record(drive, state, left_by)
    assert find_finished((drive,), asked) is None


def test_a_finished_job_writes_nothing_and_succeeds(drive: Drive) -> None:
    leave_record(drive, COMMITTED)
    before = first_mib(drive)
    told: list[Happening] = []
    nowhere: Any = RegistryClient("http://127.0.0.1:1", "demo")
    place = Workplace(FakeRun(), make_inventory(drive), told.append, nowhere, Keyring())
    result = deploy(place, make_spec(), "sha256:" + "0" * 64, JOB)
    assert result["found_complete"] is True
    assert first_mib(drive) == before
    assert len(told) == 1
