"""What the agent sees on real disks: arrays, volumes, sectors, who uses what."""

from pathlib import Path

from agent.model.inventory import Drive
from agent.planning.refusals import valuables
from agent.probe import probe_inventory
from agent.system.command import Run
from tests.guest import SCRATCH_BYTES
from tests.guest.conftest import sh


def drive(path: Path) -> Drive:
    """Return what the inventory says of the disk at `path`."""
    found = [one for one in probe_inventory(Run()).disks if one.path == str(path)]
    assert len(found) == 1, f"{path} is not in the inventory"
    return found[0]


def whats(path: Path) -> set[str]:
    return {found.what for found in drive(path).contents}


def test_a_blank_disk(scratch: list[Path]) -> None:
    seen = drive(scratch[0])
    assert (seen.serial, seen.size_bytes, seen.sector_bytes) == ("SCRATCH-0", SCRATCH_BYTES, 512)
    assert seen.contents == ()
    assert seen.users == ()


def test_sectors_of_4096(scratch_4k: Path) -> None:
    seen = drive(scratch_4k)
    assert (seen.sector_bytes, seen.physical_sector_bytes) == (4096, 4096)
    assert seen.size_bytes == SCRATCH_BYTES


def test_an_array_and_its_members(scratch: list[Path]) -> None:
    words = ["--create", "/dev/md/test", "--run", "--level=1", "--raid-devices=2"]
    sh("mdadm", *words, "--metadata=1.2", "--bitmap=none", *scratch[:2])
    inventory = probe_inventory(Run())
    array = [one for one in inventory.md_arrays if one.level == "raid1"]
    assert len(array) == 1
    assert {Path("/dev") / Path(name).name for name in array[0].members} == set(scratch[:2])
    assert drive(scratch[0]).users, "a member of a running array is in use"
    assert "linux_raid_member" in whats(scratch[0])
    assert not drive(scratch[2]).users


def test_a_stopped_array_is_still_valuable(scratch: list[Path]) -> None:
    words = ["--create", "/dev/md/test", "--run", "--level=1", "--raid-devices=2"]
    sh("mdadm", *words, "--metadata=1.0", "--bitmap=none", *scratch[:2])
    sh("mdadm", "--stop", "/dev/md/test")
    sh("udevadm", "settle")
    assert [found.what for found in valuables(drive(scratch[0]))] == ["linux_raid_member"]


def test_a_volume_group_is_valuable_and_in_use(scratch: list[Path]) -> None:
    sh("vgcreate", "--yes", "vg0", scratch[0])
    assert [found.what for found in valuables(drive(scratch[0]))] == ["LVM2_member"]
    assert not drive(scratch[0]).users
    sh("lvcreate", "--yes", "--size=64M", "--name=data", "vg0")
    sh("udevadm", "settle")
    assert drive(scratch[0]).users, "an active logical volume is on it"


def test_a_mounted_filesystem_is_in_use(scratch: list[Path], tmp_path: Path) -> None:
    sh("sfdisk", "--quiet", scratch[0], stdin="label: gpt\nstart=2048, type=L\n")
    sh("udevadm", "settle")
    part = Path(f"{scratch[0]}1")
    sh("mkfs.ext4", "-q", part)
    sh("udevadm", "settle")
    assert not drive(scratch[0]).users
    sh("mount", part, tmp_path)
    assert any(str(tmp_path) in user for user in drive(scratch[0]).users)
