"""Which way a disk is wiped, and when it is not."""

import pytest

from agent.errors import PlanRefused
from agent.model.inventory import Found, Transport
from agent.model.job import DiskHints, Verify, WipeSpec
from agent.model.wipe import Abilities, Way, WipeMethod
from agent.planning.wipe import plan_wipe, render_wipe, wiped_drives
from tests.unit.make_plan import make_drive

NAMED = (DiskHints(serial="SN-1"),)
NVME = Abilities(
    ways=(Way.SANITIZE_CRYPTO, Way.SANITIZE_BLOCK, Way.FORMAT_USER_DATA, Way.DISCARD, Way.ZERO),
    zeros_after_discard=True,
)
PLAIN = Abilities(ways=(Way.DISCARD, Way.ZERO), obstacles=("the firmware has frozen it",))


@pytest.mark.parametrize(
    ("method", "can", "way", "zeros"),
    [
        (WipeMethod.AUTO, NVME, Way.SANITIZE_CRYPTO, False),
        (WipeMethod.SANITIZE, NVME, Way.SANITIZE_CRYPTO, False),
        (WipeMethod.SECURE_ERASE, NVME, Way.FORMAT_USER_DATA, False),
        (WipeMethod.DISCARD, NVME, Way.DISCARD, True),
        (WipeMethod.ZERO, NVME, Way.ZERO, True),
        (WipeMethod.AUTO, PLAIN, Way.ZERO, True),
        (WipeMethod.DISCARD, PLAIN, Way.DISCARD, False),
        (WipeMethod.AUTO, Abilities(ways=(Way.DISCARD, Way.ZERO), zeros_after_discard=True),
         Way.DISCARD, True),
        (WipeMethod.AUTO, Abilities(), Way.ZERO, True),
    ],
)  # fmt: skip
def test_the_strongest_that_is_meant(
    method: WipeMethod, can: Abilities, way: Way, zeros: bool
) -> None:
    drive = make_drive()
    plan = plan_wipe(WipeSpec(disks=NAMED, method=method), (drive,), {drive.path: can})
    assert (plan.disks[0].way, plan.disks[0].zeros) == (way, zeros)


def test_what_the_drive_cannot_is_refused_with_its_reason() -> None:
    drive = make_drive()
    for method in (WipeMethod.SANITIZE, WipeMethod.SECURE_ERASE):
        with pytest.raises(PlanRefused, match=f"{method.value}: the firmware has frozen it"):
            plan_wipe(WipeSpec(disks=NAMED, method=method), (drive,), {drive.path: PLAIN})


def test_every_objection_at_once() -> None:
    drive = make_drive(
        users=("/dev/vda1 is mounted on /",),
        contents=(Found(path="/dev/vda2", what="crypto_LUKS", usage="crypto", label="data"),),
    )
    spec = WipeSpec(disks=NAMED, method=WipeMethod.SANITIZE)
    with pytest.raises(PlanRefused) as caught:
        plan_wipe(spec, (drive,), {drive.path: PLAIN})
    said = "\n".join(caught.value.objections)
    assert len(caught.value.objections) == 3
    for part in ("in use by /dev/vda1", "'data'", "consent crypto_LUKS", "cannot be wiped"):
        assert part in said


def test_the_page_says_what_is_lost_and_how() -> None:
    drive = make_drive(
        contents=(
            Found(path="/dev/vda", what="gpt", usage="table"),
            Found(path="/dev/vda2", what="crypto_LUKS", usage="crypto", label="da\x1bta"),
        )
    )
    spec = WipeSpec(disks=NAMED, consent=("crypto_LUKS",), verify=Verify.FULL)
    page = render_wipe(plan_wipe(spec, (drive,), {drive.path: PLAIN}))
    assert page == (
        "Wipe 1 disk (auto)\n"
        "\n"
        "/dev/vda  QEMU HARDDISK  8.0 GiB\n"
        "  known by  SN-1\n"
        "  destroyed:\n"
        "    /dev/vda: gpt\n"
        "    /dev/vda2: crypto_LUKS 'da\\x1bta'\n"
        "  how       zeros over every block that the drive shows; spare blocks are out of reach\n"
        "  note      the firmware has frozen it\n"
        "  then      all of it is read back: it must be zeros\n"
        "\n"
        "With consent: crypto_LUKS on /dev/vda2\n"
    )


def test_a_full_verification_is_not_promised_where_it_cannot_be() -> None:
    drive = make_drive()
    spec = WipeSpec(disks=NAMED, verify=Verify.FULL)
    page = render_wipe(plan_wipe(spec, (drive,), {drive.path: NVME}))
    assert "a sample is read back, not all" in page
    assert "both ends and a sample are read back: nothing of it may be as before" in page


def test_the_digest_is_of_what_will_be_done() -> None:
    drive = make_drive()
    one, other = (
        plan_wipe(WipeSpec(disks=NAMED, method=method), (drive,), {drive.path: NVME})
        for method in (WipeMethod.ZERO, WipeMethod.AUTO)
    )
    assert one.digest != other.digest
    assert one.digest.startswith("sha256:")


def test_disks_are_named_one_by_one_or_all_fixed_ones() -> None:
    first = make_drive()
    second = make_drive(path="/dev/vdb", serial="SN-2")
    stick = make_drive(path="/dev/sda", serial="SN-3", transport=Transport.USB)
    virtual = make_drive(path="/dev/sdb", serial="SN-4", virtual_media=True)
    drives = (first, second, stick, virtual)
    assert wiped_drives(WipeSpec(all_fixed=True), drives) == (first, second)
    named = WipeSpec(disks=(DiskHints(serial="SN-2"), DiskHints(serial="SN-3")))
    assert wiped_drives(named, drives) == (second, stick)
    with pytest.raises(PlanRefused, match="no fixed disk"):
        wiped_drives(WipeSpec(all_fixed=True), (stick, virtual))


def test_no_disk_two_disks_and_one_disk_twice_are_refused() -> None:
    drives = (make_drive(), make_drive(path="/dev/vdb", serial="SN-2"))
    for hints in (DiskHints(serial="SN-9"), DiskHints(model="QEMU HARDDISK")):
        with pytest.raises(PlanRefused, match="disk"):
            wiped_drives(WipeSpec(disks=(hints,)), drives)
    twice = WipeSpec(disks=(DiskHints(serial="SN-1"), DiskHints(name="vda")))
    with pytest.raises(PlanRefused, match="meant twice"):
        wiped_drives(twice, drives)
