"""Disks wiped by the job's own flow, on real buses; what they hold is looked at past the flow."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from agent.errors import ClaimRefused, DiskError, PlanRefused, StepFailed
from agent.flows.wipe import wipe
from agent.flows.workplace import Workplace
from agent.model.event import Happening, Logged, PlanMade, Progressed, StepStarted
from agent.model.inventory import Drive, Transport
from agent.model.job import DiskHints, Verify, WipeSpec
from agent.model.wipe import Certificate, Way, WipeMethod
from agent.model.wire import convert
from agent.planning.wipe import wiped_drives
from agent.probe import probe_inventory
from agent.store.source import BlobSource
from agent.system.command import Run
from agent.tools import erase_disk
from agent.tools.ata_security import ata_facts
from agent.tools.nvme_admin import nvme_facts
from agent.trust.keyring import Keyring
from agent.units import KiB, MiB
from tests.guest import SCRATCH_BYTES
from tests.guest.conftest import sh

SECRET = b"what nobody may read "
PLACES = (17 * KiB, 70 * MiB + 512 * 7, 100 * MiB, -32 * KiB)
"""Where the secret is written; from the end if below zero."""
JOB = "j-0123456789ab"
VIRTIO, SATA, NVME = "SCRATCH-0", "SCRATCH-SATA", "SCRATCH-NVME"


def device_of(serial: str) -> Path:
    found = [path for path in Path("/dev/disk/by-id").iterdir() if path.name.endswith(serial)]
    return found[0].resolve()


@pytest.fixture(params=[VIRTIO, SATA, NVME])
def serial(request: pytest.FixtureRequest) -> Iterator[str]:
    """A disk with a table and a filesystem, and with known bytes at its ends and in between."""
    disk = device_of(request.param)
    soil(disk)
    yield request.param
    sh("wipefs", "--all", "--force", disk)
    sh("udevadm", "settle")


def bytes_of(disk: Path) -> int:
    return int(sh("blockdev", "--getsize64", disk))


def soil(disk: Path) -> None:
    sh("sfdisk", "--quiet", disk, stdin="label: gpt\nsize=64MiB, type=L\n")
    sh("udevadm", "settle")
    with disk.open("r+b") as file:
        for place in PLACES:
            file.seek(place, os.SEEK_END if place < 0 else os.SEEK_SET)
            file.write(SECRET * 700)
        file.flush()
        os.fsync(file.fileno())


def secrets_on(disk: Path) -> int:
    sh("blockdev", "--flushbufs", disk)
    data = disk.read_bytes()
    assert len(data) == bytes_of(disk)
    return data.count(SECRET)


def run_wipe(spec: WipeSpec, **changes: Any) -> tuple[dict[str, Any], list[Happening]]:
    told: list[Happening] = []
    inventory = probe_inventory(Run())
    place = Workplace(Run(), inventory, told.append, cast(BlobSource, None), Keyring(), **changes)
    return wipe(place, spec, JOB), told


def spec(serial: str, method: WipeMethod = WipeMethod.AUTO, **changes: Any) -> WipeSpec:
    return WipeSpec(disks=(DiskHints(serial=serial),), method=method, **changes)


def test_zeros_are_written_and_certified(serial: str) -> None:
    disk = device_of(serial)
    assert secrets_on(disk) > 2000
    result, told = run_wipe(spec(serial, WipeMethod.ZERO, verify=Verify.FULL))
    assert disk.read_bytes().count(0) == bytes_of(disk)
    certificate = convert(result["certificate"], Certificate, "certificate")
    (line,) = certificate.disks
    assert (line.serial, line.path, line.size_bytes) == (serial, str(disk), bytes_of(disk))
    assert (line.method, certificate.job) == (Way.ZERO, JOB)
    assert line.verified is not None
    assert (line.verified.read_bytes, line.verified.zeros) == (line.size_bytes, True)
    assert line.started_at < line.ended_at
    kinds = [type(one) for one in told]
    assert kinds.index(PlanMade) < kinds.index(StepStarted) < kinds.index(Progressed)
    page = next(one.text for one in told if isinstance(one, PlanMade))
    assert str(disk) in page
    assert "gpt" in page
    lines = [one.message for one in told if isinstance(one, Logged)]
    said = [line.removeprefix("certificate: ") for line in lines if line.startswith("certificate")]
    assert json.loads(said[0]) == json.loads(json.dumps(result["certificate"]))


def test_auto_takes_what_the_drive_can(serial: str) -> None:
    disk = device_of(serial)
    result, _ = run_wipe(spec(serial))
    assert secrets_on(disk) == 0
    way = result["certificate"]["disks"][0]["method"]
    expected = {VIRTIO: Way.ZERO, NVME: Way.FORMAT_USER_DATA}.get(serial)
    if expected is None:
        zeros = ata_facts(disk).zeros_after_trim
        expected = Way.DISCARD if zeros else Way.ZERO
    assert way == expected.value
    assert result["certificate"]["disks"][0]["verified"]["pieces"] >= 512


def test_a_discard_that_is_ignored_is_found_out(serial: str) -> None:
    """QEMU takes these disks' discards and does nothing; its NVMe claims zeros nevertheless."""
    disk = device_of(serial)
    before = secrets_on(disk)
    with pytest.raises(StepFailed) as caught:
        run_wipe(spec(serial, WipeMethod.DISCARD))
    assert "is what was there before" in str(caught.value.__cause__)
    assert secrets_on(disk) == before


def test_a_discard_that_is_done(tmp_path: Path) -> None:
    file = tmp_path / "disk"
    file.write_bytes(SECRET * 1_000_000)
    os.truncate(file, 20 * MiB)
    disk = Path(sh("losetup", "--find", "--show", file).strip())
    try:
        places = erase_disk.sample_places(20 * MiB)
        before = erase_disk.fingerprints(disk, places)
        done: list[int] = []
        erase_disk.erase(disk, Way.DISCARD, done.append)
        verified = erase_disk.check_gone(disk, places, before, lambda _: None)
        assert sum(done) == verified.read_bytes == 20 * MiB
        assert SECRET not in disk.read_bytes()
    finally:
        sh("losetup", "--detach", disk)


def test_what_a_drive_cannot_is_refused_before_the_first_write(serial: str) -> None:
    disk = device_of(serial)
    before = secrets_on(disk)
    with pytest.raises(PlanRefused, match="cannot be wiped by sanitize"):
        run_wipe(spec(serial, WipeMethod.SANITIZE))
    if serial != NVME:
        with pytest.raises(PlanRefused, match="cannot be wiped by secure-erase"):
            run_wipe(spec(serial, WipeMethod.SECURE_ERASE))
    assert secrets_on(disk) == before


def test_valuable_things_want_consent() -> None:
    disk = device_of(VIRTIO)
    sh("wipefs", "--all", "--force", disk)
    sh("pvcreate", "--yes", "--force", "--force", disk)
    sh("udevadm", "settle")
    with pytest.raises(PlanRefused, match="consent LVM2_member"):
        run_wipe(spec(VIRTIO))
    assert "LVM2_member" in sh("wipefs", disk)
    result, told = run_wipe(spec(VIRTIO, consent=("LVM2_member",)))
    assert sh("wipefs", disk) == ""
    assert result["wiped_bytes"] == SCRATCH_BYTES
    assert any("With consent: LVM2_member" in one.text for one in told if isinstance(one, PlanMade))


def test_a_disk_in_use_is_refused(tmp_path: Path) -> None:
    disk = device_of(VIRTIO)
    sh("wipefs", "--all", "--force", disk)
    sh("mkfs.ext4", "-q", "-F", disk)
    sh("mount", disk, tmp_path)
    try:
        with pytest.raises(PlanRefused, match="is in use"):
            run_wipe(spec(VIRTIO))
    finally:
        sh("umount", tmp_path)
    assert "ext4" in sh("wipefs", disk)
    sh("wipefs", "--all", "--force", disk)


def test_a_lost_job_writes_nothing() -> None:
    disk = device_of(VIRTIO)
    soil(disk)
    before = secrets_on(disk)

    def lost() -> None:
        raise ClaimRefused("another agent has it")

    with pytest.raises(ClaimRefused):
        run_wipe(spec(VIRTIO), confirm_claim=lost)
    assert secrets_on(disk) == before
    sh("wipefs", "--all", "--force", disk)


def test_a_disk_that_cannot_be_written_is_a_failed_step() -> None:
    disk = device_of(VIRTIO)
    drive = _drive(VIRTIO)
    sh("blockdev", "--setro", disk)
    try:
        assert _drive(VIRTIO).read_only
        with pytest.raises(DiskError):
            erase_disk.erase(Path(drive.path), Way.ZERO, lambda _: None)
        with pytest.raises(PlanRefused, match="read-only"):
            run_wipe(spec(VIRTIO))
    finally:
        sh("blockdev", "--setrw", disk)


def test_a_byte_that_is_left_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An erase that does nothing is found out, whether zeros are expected or not."""
    disk = device_of(NVME)
    soil(disk)
    with disk.open("r+b") as file:
        file.write(os.urandom(64 * MiB))
        os.fsync(file.fileno())
    monkeypatch.setattr(erase_disk, "erase", lambda *_: None)
    for method in (WipeMethod.ZERO, WipeMethod.SECURE_ERASE):
        with pytest.raises(StepFailed) as caught:
            run_wipe(spec(NVME, method))
        assert "is not wiped" in str(caught.value.__cause__)
        assert caught.value.state.value.startswith("partly")
    sh("wipefs", "--all", "--force", disk)


def test_all_fixed_disks_are_meant_only_when_that_is_said() -> None:
    drives = probe_inventory(Run()).disks
    found = wiped_drives(WipeSpec(all_fixed=True), drives)
    assert {VIRTIO, SATA, NVME} <= {drive.serial for drive in found}
    assert wiped_drives(spec(NVME), drives) == (_drive(NVME),)


def test_facts_of_the_drives() -> None:
    nvme = nvme_facts(device_of(NVME))
    assert nvme.namespaces == (1,)
    assert Way.FORMAT_USER_DATA in nvme.formats
    assert nvme.sanitize == ()  # QEMU 7.2 has none
    ata = ata_facts(device_of(SATA))
    assert not ata.supported  # nor an ATA security feature
    assert _drive(SATA).transport is Transport.SATA


def _drive(serial: str) -> Drive:
    return next(drive for drive in probe_inventory(Run()).disks if drive.serial == serial)
