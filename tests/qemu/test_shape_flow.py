"""One server becomes others of several disks, over the network, and each boots from what it got.

Also without any one of its disks, where the layout says that it can. What reads back what was
written is left out but for one: the systems themselves show that it is right.
"""

from collections.abc import Callable, Iterator, Sequence

import pytest

from agent.units import GiB
from tests.harness.machine import Disk, Firmware
from tests.harness.proofs import KERNEL_VIEW, kernel_view_faults
from tests.harness.rack import Blank, Booted, Lived, Rack

pytestmark = [pytest.mark.qemu, pytest.mark.alone, pytest.mark.full]

LEGS = (Blank("LEG-0", 5 * GiB), Blank("LEG-1", 6 * GiB, dirty=True))
GROWN = (Blank("GROWN-0", 8 * GiB), Blank("GROWN-1", 9 * GiB))
CHECK_S = 900
# Lets md read every array whole and prints how many sectors of its members disagree.
_CHECK = """sync
for md in /sys/block/md*/md; do
    echo check > $md/sync_action
    while [ "$(cat $md/sync_action)" != idle ]; do sleep 1; done
    cat $md/mismatch_cnt
done"""


@pytest.fixture(scope="module")
def mirror(rack: Rack, storage_template: Callable[[Firmware], str]) -> Iterator[Sequence[Disk]]:
    """The disks of a server of one disk that became a mirror of two, not booted yet."""
    disks = rack.deploy(
        storage_template("bios"), LEGS, "raid1", "bios", consent=["linux_raid_member"]
    )
    yield disks
    rack.remove(disks)


@pytest.fixture(scope="module")
def mirror_template(rack: Rack, mirror: Sequence[Disk]) -> str:
    """The template of that mirror after it ran for a while: captured from both disks."""
    lived = rack.copies(mirror)
    with rack.boot(lived, in_place=True) as system:
        system.run("head -c 20M /dev/urandom > /var/lib/grown-later")
    rack.capture("mirror", lived)
    rack.remove(lived)
    return "mirror"


@pytest.fixture(scope="module")
def uefi_mirror(
    rack: Rack, storage_template: Callable[[Firmware], str]
) -> Iterator[Sequence[Disk]]:
    """The disks of a UEFI machine: a mirror of the system captured on a BIOS machine."""
    wanted = [Blank("UEFI-0", 4 * GiB), Blank("UEFI-1", 4 * GiB)]
    disks = rack.deploy(storage_template("bios"), wanted, "raid1", "uefi", verify="none")
    yield disks
    rack.remove(disks)


def expect_array(system: Booted, level: str, devices: int, there: int) -> None:
    """Demand that root is on an array of `devices`, of which `there` are in it and in step."""
    lines = system.run("mdadm --detail --export $(findmnt -no SOURCE /)").splitlines()
    facts = dict(line.split("=", 1) for line in lines)
    roles = [value for name, value in facts.items() if name.endswith("_ROLE")]
    assert (facts["MD_LEVEL"], facts["MD_DEVICES"]) == (level, str(devices)), facts
    assert len([role for role in roles if role.isdigit()]) == there, facts
    assert system.run("cat /sys/block/md*/md/degraded | sort -u") == str(devices - there)


def expect_files(system: Booted, lived: Lived) -> None:
    """Demand the files that the source server had, also in the eyes of the kernel."""
    assert system.tree() == lived.tree
    assert not kernel_view_faults(system.run(KERNEL_VIEW))


def expect_in_step(system: Booted) -> None:
    """Demand that the members of each array hold the same, or the right parity."""
    assert set(system.run(_CHECK, CHECK_S).split()) == {"0"}


def root_bytes(system: Booted) -> int:
    return int(system.run("findmnt -bno SIZE /"))


@pytest.mark.parametrize("there", [(0, 1), (0,), (1,)], ids=["both", "first", "second"])
def test_one_disk_becomes_a_mirror(
    there: Sequence[int], rack: Rack, mirror: Sequence[Disk], storage_server: Lived
) -> None:
    with rack.boot([mirror[number] for number in there]) as system:
        system.expect_healthy()
        expect_array(system, "raid1", 2, len(there))
        if len(there) == 2:
            expect_files(system, storage_server)
            expect_in_step(system)
        assert root_bytes(system) > 4.5 * GiB


def test_a_mirror_goes_onto_bigger_disks(
    rack: Rack, mirror_template: str, storage_server: Lived
) -> None:
    disks = rack.deploy(mirror_template, GROWN, verify="none")
    with rack.boot(disks) as system:
        system.expect_healthy()
        expect_array(system, "raid1", 2, 2)
        expect_files(system, storage_server)
        expect_in_step(system)
        assert root_bytes(system) > 7.5 * GiB
    with rack.boot(disks[1:]) as system:
        system.expect_healthy()
        expect_array(system, "raid1", 2, 1)
    rack.remove(disks)


def test_a_mirror_becomes_one_smaller_disk(
    rack: Rack, mirror_template: str, storage_server: Lived
) -> None:
    disks = rack.deploy(mirror_template, [Blank("SMALL-0", 3 * GiB)], "single", verify="none")
    with rack.boot(disks) as system:
        system.expect_healthy()
        assert system.run("findmnt -no SOURCE /").startswith("/dev/vda")
        assert system.run("ls /sys/block").find("md") < 0
        expect_files(system, storage_server)
    rack.remove(disks)


@pytest.mark.parametrize(("level", "number"), [("raid10", 4), ("raid5", 3)])
def test_one_disk_becomes_an_array(
    level: str,
    number: int,
    rack: Rack,
    storage_template: Callable[[Firmware], str],
    storage_server: Lived,
) -> None:
    wanted = [Blank(f"ARRAY-{n}", (4 + n) * GiB) for n in range(number)]
    disks = rack.deploy(storage_template("bios"), wanted, level, verify="none")
    with rack.boot(disks) as system:
        system.expect_healthy()
        expect_array(system, level, number, number)
        expect_files(system, storage_server)
        expect_in_step(system)
    with rack.boot(disks[1:]) as system:  # without the disk that it booted from
        system.expect_healthy()
        expect_array(system, level, number, number - 1)
    rack.remove(disks)


@pytest.mark.parametrize("there", [(0, 1), (0,), (1,)], ids=["both", "first", "second"])
def test_a_bios_server_becomes_a_uefi_mirror(
    there: Sequence[int], rack: Rack, uefi_mirror: Sequence[Disk], storage_server: Lived
) -> None:
    with rack.boot([uefi_mirror[number] for number in there], "uefi") as system:
        # the ESP of a disk that is away must not hold up the system
        system.expect_healthy()
        expect_array(system, "raid1", 2, len(there))
        assert system.run("ls -d /sys/firmware/efi") == "/sys/firmware/efi"
        if len(there) == 2:
            assert "vfat" in system.run("findmnt -no FSTYPE /boot/efi")
            expect_files(system, storage_server)


def test_and_a_bios_server_again(
    rack: Rack, uefi_mirror: Sequence[Disk], storage_server: Lived
) -> None:
    rack.capture("uefi-only", uefi_mirror, "uefi")
    disks = rack.deploy("uefi-only", [Blank("BIOS-0", 3 * GiB)], "single", verify="none")
    with rack.boot(disks, "bios") as system:
        system.expect_healthy()
        assert not system.run("ls /sys/firmware/ | grep -x efi || true")
        expect_files(system, storage_server)
    rack.remove(disks)
