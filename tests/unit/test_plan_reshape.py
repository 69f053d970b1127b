"""The steps that copy a template's files to another layout."""

import pytest

from agent.model.job import DeploySpec, Verify
from agent.model.plan import Plan
from agent.model.steps import ConfigureSystem, CopyFiles, RenewBoot, VerifyFiles
from agent.model.storage import Shape
from agent.planning.deploy import plan_deploy
from agent.planning.review import render_plan
from agent.units import GiB
from tests.unit.make_plan import JOB, make_drive, make_inventory, make_os, make_template


def plan(verify: Verify) -> Plan:
    drive = make_drive(size_bytes=30 * GiB)
    spec = DeploySpec(template="demo", layout=Shape.SINGLE, verify=verify)
    template = make_template(os=make_os(tools=None))
    return plan_deploy(make_inventory(drive), template, spec, {"disk0": drive}, JOB)


@pytest.mark.parametrize(
    ("verify", "said"),
    [
        (Verify.SAMPLE, "read back a sample of the files of /"),
        (Verify.FULL, "read back all of the files of /"),
    ],
)
def test_copied_files_are_read_back_before_anything_changes_them(verify: Verify, said: str) -> None:
    made = plan(verify)
    kinds = [type(step) for step in made.steps]
    at = kinds.index(VerifyFiles)
    assert kinds.index(CopyFiles) + 1 == at
    assert at < kinds.index(ConfigureSystem) < kinds.index(RenewBoot)
    step = made.steps[at]
    assert isinstance(step, VerifyFiles)
    assert step.mode is verify
    assert f"{said}  (disk unchanged)" in render_plan(made)


def test_nothing_is_read_back_if_the_job_says_so() -> None:
    assert VerifyFiles not in [type(step) for step in plan(Verify.NONE).steps]
