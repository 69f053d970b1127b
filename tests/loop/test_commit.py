"""A deployment on a file: complete at the end, and at no moment before bootable."""

from pathlib import Path

import pytest

from agent.apply import apply
from agent.commit import read_record
from agent.errors import DiskState, StepFailed
from agent.model.job import Verify
from agent.model.layout import ESP_TYPE, PENDING_TYPE
from agent.report import silent
from agent.system.command import Run
from agent.tools import sfdisk
from agent.tools.boot_sector import PENDING_STUB, read_boot_code
from tests.harness.disks import make_dirty_disk
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
        assert {part.type for part in table.partitions} == {PENDING_TYPE}
        assert ESP_TYPE not in {part.type for part in table.partitions}
