"""Cut the power at any write or step: the disk boots only when all of it is there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import agent.apply as apply_module
from agent import commit as commit_module
from agent.apply import apply
from agent.errors import DiskError, StepFailed
from agent.model.event import Happening, StepStarted
from agent.model.job import Verify
from agent.model.plan import Plan
from agent.model.steps import Commit
from agent.report import silent
from agent.system.command import Run
from agent.tools import boot_sector, filesystems, sfdisk, wipefs
from tests.harness.disks import make_dirty_disk
from tests.loop.oracle import boots
from tests.loop.small import BOOT_CODE, TARGET_BYTES, FakeSource, small

pytestmark = pytest.mark.root

WRITERS = (
    (boot_sector, "write_at"),
    (sfdisk, "write_table"),
    (wipefs, "erase_runs"),
    (apply_module, "make_swap"),
    (filesystems, "grow"),
)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return make_dirty_disk(tmp_path / "target.img", TARGET_BYTES)


def is_complete(disk: Path, plan: Plan, source: FakeSource) -> bool:
    """Whether nothing is missing but, at most, the boot code of a BIOS."""
    if sfdisk.differences(plan.table, sfdisk.read_table(Run(), disk)):
        return False
    esp = plan.table.partition(2)
    try:
        source.verify("esp", disk, esp.offset_bytes, Verify.FULL, (), silent)
    except DiskError:
        return False
    return True


def each_write(monkeypatch: pytest.MonkeyPatch, after: Callable[[str], None]) -> None:
    """Call `after` behind every call that writes."""
    for module, name in WRITERS:
        plain = getattr(module, name)

        def wrapped(*args: Any, _plain: Any = plain, _name: str = name, **more: Any) -> Any:
            result = _plain(*args, **more)
            after(_name)
            return result

        monkeypatch.setattr(module, name, wrapped)


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_no_moment_boots_before_all_is_there(
    tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, firmware: str
) -> None:
    with small(tmp_path, disk, firmware=firmware) as it:
        apply(it.plan, it.host)
    assert boots(disk) == {"bios", "uefi"}, "a disk that boots nothing proves nothing"
    moments: list[tuple[str, set[str]]] = []
    with small(tmp_path, disk, firmware=firmware) as it:
        plan = it.plan

        def look(what: str) -> None:
            modes = boots(disk)
            moments.append((what, modes))
            if "bios" in modes:
                assert boot_sector.read_boot_code(disk) == BOOT_CODE
            if modes:
                assert is_complete(disk, plan, it.source), what

        def report(happening: Happening) -> None:
            # the first report comes before the first write: the old disk may still boot
            if isinstance(happening, StepStarted) and happening.index > 1:
                look(happening.summary)

        each_write(monkeypatch, look)
        apply(plan, it.host, report)
        look("the end")
    assert moments[-1][1] == {"bios", "uefi"}
    assert [modes for _, modes in moments].count({"bios", "uefi"}) <= 3
    assert len(moments) > 15


def commit_of(plan: Plan) -> Commit:
    return next(step for step in plan.steps if isinstance(step, Commit))


@pytest.mark.parametrize("broken", range(1, 5))
def test_a_commit_that_fails_is_taken_back(
    tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    """The nth write of the commit fails, as a bad sector would: nothing boots afterwards."""
    with small(tmp_path, disk) as it:
        plan = it.plan
        count = 0
        committing = False
        real_commit = commit_module.write_commit

        def start(*args: Any) -> None:
            nonlocal committing
            committing = True
            real_commit(*args)

        def fail(what: str) -> None:
            nonlocal count
            if committing:
                count += 1
                if count == broken:
                    raise DiskError("Input/output error")

        monkeypatch.setattr(apply_module, "write_commit", start)
        each_write(monkeypatch, fail)
        with pytest.raises(StepFailed, match="commit"):
            apply(plan, it.host)
        assert boots(disk) == set()
        record = commit_module.read_record(disk)
        assert record is not None
        assert record.state == "failed"


def test_the_oracle_sees_what_boots(tmp_path: Path, disk: Path) -> None:
    with small(tmp_path, disk) as it:
        apply(it.plan, it.host)
        assert boots(disk) == {"bios", "uefi"}
        boot_sector.write_boot_code(disk, boot_sector.PENDING_STUB)
        assert boots(disk) == {"uefi"}
        head = commit_of(it.plan).disks[0].heads[0]
        boot_sector.write_at(disk, head.offset_bytes, bytes(512))
        assert boots(disk) == set()
