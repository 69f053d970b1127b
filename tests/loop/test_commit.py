"""A deployment on a file: complete at the end, and at no moment before bootable."""

import dataclasses
import hashlib
from pathlib import Path

import msgspec
import pytest

from agent.apply import Done, apply, carry_out
from agent.commit import read_record
from agent.devices import Devices
from agent.errors import ClaimRefused, DiskError, DiskState, StepFailed, reasons
from agent.model.event import Happening, StepStarted
from agent.model.inventory import Drive
from agent.model.job import Verify
from agent.model.nodes import BIOS_BOOT_TYPE, ESP_TYPE, PENDING_TYPE
from agent.model.steps import CheckFilesystems, VerifyVolume
from agent.report import silent
from agent.system.command import Run
from agent.tools import sfdisk
from agent.tools.boot_sector import PENDING_STUB, read_boot_code
from tests.harness.disks import make_dirty_disk
from tests.loop.oracle import boots
from tests.loop.small import BOOT_CODE, KEY, TARGET_BYTES, sh, small
from tests.unit.make_plan import JOB

pytestmark = pytest.mark.root


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return make_dirty_disk(tmp_path / "target.img", TARGET_BYTES)


def test_a_deployment_is_whole(tmp_path: Path, disk: Path) -> None:
    with small(tmp_path, disk) as it:
        plan = it.plan
        done = apply(plan, it.host)
        assert done.state is DiskState.COMPLETE
        table = sfdisk.read_table(Run(), disk)
        assert sfdisk.differences(plan.table, table) == ()
        assert read_boot_code(disk) == BOOT_CODE
        esp = plan.table.partition(2)
        it.source.verify("esp", disk, esp.offset_bytes, Verify.FULL, (), silent)
        root = it.loops.node(disk, 3)
        assert "clean" in sh("dumpe2fs", "-h", root)
        sh("e2fsck", "-fn", root)
        blocks = next(
            int(line.split()[-1])
            for line in sh("dumpe2fs", "-h", root).splitlines()
            if line.startswith("Block count:")
        )
        assert blocks * 4096 == plan.table.partition(3).size_bytes > 64 * 2**20
        assert sh("debugfs", "-R", "cat /etc/hostname", root) == "web1\n"
        assert "web1.example web1" in sh("debugfs", "-R", "cat /etc/hosts", root)
        assert sh("debugfs", "-R", "cat /root/.ssh/authorized_keys", root) == KEY + "\n"
        assert "OPENSSH" in sh("debugfs", "-R", "cat /etc/ssh/ssh_host_ed25519_key", root)
        assert sh("blkid", "-o", "value", "-s", "TYPE", it.loops.node(disk, 4)).strip() == "swap"
        assert "old-server" not in str(done)
        record = read_record(disk)
        assert record is not None
        assert (record.state, record.job) == ("committed", JOB)


def test_a_failure_leaves_a_disk_that_says_so(tmp_path: Path, disk: Path) -> None:
    with small(tmp_path, disk) as it:
        it.source.broken = "root"
        with pytest.raises(StepFailed, match="could not restore /") as caught:
            apply(it.plan, it.host)
        assert caught.value.state is DiskState.PARTIAL
        record = read_record(disk)
        assert record is not None
        assert record.state == "failed"
        assert "cannot fetch root" in record.error
        assert read_boot_code(disk) == PENDING_STUB
        table = sfdisk.read_table(Run(), disk)
        assert table is not None
        assert {part.type for part in table.partitions} == {BIOS_BOOT_TYPE, PENDING_TYPE}
        assert ESP_TYPE not in {part.type for part in table.partitions}


def digest(disk: Path) -> str:
    return hashlib.sha256(disk.read_bytes()).hexdigest()


def test_another_disk_than_planned_is_not_touched(tmp_path: Path, disk: Path) -> None:
    before = digest(disk)
    with small(tmp_path, disk) as it:

        def look(path: str) -> Drive:
            return msgspec.structs.replace(it.host.look(path), serial="ANOTHER")

        with pytest.raises(StepFailed) as caught:
            apply(it.plan, dataclasses.replace(it.host, look=look))
    assert caught.value.state is DiskState.UNCHANGED
    assert "its serial was SN-1, is ANOTHER" in " ".join(reasons(caught.value))
    assert digest(disk) == before


def test_a_lost_claim_stops_before_the_first_write(tmp_path: Path, disk: Path) -> None:
    before = digest(disk)

    def lost() -> None:
        raise ClaimRefused("the job was taken from this agent")

    with small(tmp_path, disk) as it, pytest.raises(StepFailed) as caught:
        apply(it.plan, dataclasses.replace(it.host, confirm_claim=lost))
    assert caught.value.state is DiskState.UNCHANGED
    assert digest(disk) == before


def test_a_claim_lost_on_the_way_is_noticed_before_the_commit(tmp_path: Path, disk: Path) -> None:
    asked = []

    def lost_later() -> None:
        asked.append(1)
        if len(asked) > 1:
            raise ClaimRefused("the job was taken from this agent")

    with small(tmp_path, disk) as it, pytest.raises(StepFailed, match="commit"):
        apply(it.plan, dataclasses.replace(it.host, confirm_claim=lost_later))
    assert boots(disk) == set()


def test_a_firmware_without_variables_is_a_warning(tmp_path: Path, disk: Path) -> None:
    with small(tmp_path, disk, firmware="uefi") as it:
        done = apply(it.plan, it.host)
    assert "fallback loader" in done.warnings[0]
    assert boots(disk) == {"bios", "uefi"}


def test_without_entry_and_fallback_nothing_would_boot(tmp_path: Path, disk: Path) -> None:
    with small(tmp_path, disk, firmware="uefi") as it:
        esp = tmp_path / "esp.img"
        sh("mdel", "-i", esp, "::/EFI/BOOT/BOOTX64.EFI")
        it.source.volumes = {**it.source.volumes, "esp": esp.read_bytes()}
        with pytest.raises(StepFailed) as caught:
            apply(it.plan, it.host)
    assert "no fallback loader" in " ".join(reasons(caught.value))
    assert boots(disk) == set()


def test_a_plan_without_its_checks_is_not_committed(tmp_path: Path, disk: Path) -> None:
    """Each step that proves something is needed: leave one undone and the commit refuses."""
    with small(tmp_path, disk) as it:
        plan = it.plan
        host = it.host
        devices = Devices(run=host.run, layout=plan.layout, paths={"disk0": disk})
        for kind in (VerifyVolume, CheckFilesystems):
            step = next(step for step in plan.steps if isinstance(step, kind))
            done = Done(verified={"bios-boot", "esp", "root"}, filesystems_checked=True)
            if isinstance(step, VerifyVolume):
                done.verified.discard(step.volume)
            else:
                done.filesystems_checked = False
            with pytest.raises(DiskError, match="not everything was verified"):
                carry_out(plan.steps[-1], plan, host, devices, done, silent)


def test_bytes_that_differ_stop_everything(tmp_path: Path, disk: Path) -> None:
    with small(tmp_path, disk) as it:
        plan = it.plan

        def report(happening: Happening) -> None:
            if isinstance(happening, StepStarted) and "read back" in happening.summary:
                with disk.open("r+b") as file:  # bit rot
                    file.seek(plan.table.partition(3).offset_bytes + 1024)
                    file.write(b"\xff")

        with pytest.raises(StepFailed, match="read back a sample of /"):
            apply(plan, it.host, report)
    assert boots(disk) == set()
