"""Systems captured from one plain disk, put on other shapes by their own programs, really boot.

A mirror of two disks, also from either alone; xfs on LVM in LUKS.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.harness import source
from tests.harness.console import Console
from tests.harness.disks import copy_disk, make_disk
from tests.harness.guest import run_in_guest
from tests.harness.machine import Disk, Firmware, Hardware, Machine
from tests.harness.rootfs import storage_root
from tests.shapes import ALONE, LEGS, PASSPHRASE, ROOT_TAR
from tests.shapes.layouts import LEG_BYTES

pytestmark = [pytest.mark.qemu, pytest.mark.alone, pytest.mark.full]

INSIDE = ("tests/shapes/in_guest.py", "tests/shapes/in_guest_luks.py")
GUEST_S = 2400
BOOT_S = 400


@pytest.fixture(scope="module")
def disks(run_folder: Path, image: Path) -> dict[str, Path]:
    """The disks by serial, as a guest left them that put the captured tree on them."""
    folder = run_folder / "other-shape"
    folder.mkdir()
    tree = folder / "root.tar"
    shutil.copyfile(storage_root(), tree)
    made = {serial: make_disk(folder / f"{serial}.raw", LEG_BYTES) for serial in (*LEGS, ALONE)}
    more = [Disk(path, serial) for serial, path in made.items()]
    tar = Disk(tree, ROOT_TAR, read_only=True)
    found = run_in_guest(INSIDE, folder, image, GUEST_S, [tar, *more])
    failed = [one for one in found if one.outcome != "passed"]
    assert not failed, "\n\n".join(f"{one.name}\n{one.text}" for one in failed)
    for path in INSIDE:
        assert any(one.name.startswith(path) for one in found), f"nothing of {path} ran"
    return made


def machine_of(firmware: Firmware, disks: dict[str, Path], folder: Path, image: Path) -> Machine:
    """Return a running machine with copies of `disks`."""
    drives = tuple(
        Disk(copy_disk(path, folder / f"{serial}.raw"), serial, boot=place)
        for place, (serial, path) in enumerate(disks.items(), start=1)
    )
    hardware = Hardware("reshaped", firmware, memory_mib=1024, disks=drives)
    return Machine(hardware, folder, image / "vmlinuz")


def log_in(console: Console) -> None:
    console.expect(r"login: ", BOOT_S)
    console.send_line("root")
    console.expect(r"Password: ", 60)
    console.send_line(source.PASSWORD)
    console.expect(r"# ", 60)


def said(console: Console, words: str) -> str:
    """Run `words` in the shell on the console and return what they print, one line."""
    console.send_line(f'echo "<<$({words})>>"')
    # the shell's echo of the line has `$(` behind the signs
    return console.expect(r"<<([^$>][^>]*|)>>", 60).group(1).strip()


@pytest.mark.parametrize(
    ("firmware", "there"),
    [("bios", (0, 1)), ("bios", (0,)), ("bios", (1,)), ("uefi", (1,))],
    ids=["bios", "bios-first-leg-alone", "bios-second-leg-alone", "uefi-second-leg-alone"],
)
def test_a_mirror_boots(
    firmware: Firmware,
    there: Sequence[int],
    disks: dict[str, Path],
    image: Path,
    tmp_path: Path,
) -> None:
    legs = {LEGS[number]: disks[LEGS[number]] for number in there}
    with machine_of(firmware, legs, tmp_path, image) as machine:
        log_in(machine.console)
        assert said(machine.console, "findmnt -no SOURCE /").startswith("/dev/md")
        members = said(machine.console, "ls /sys/block/md*/slaves | tr '\\n' ' '")
        assert len(members.split()) == len(there)
        # the ESP of the disk that is away must not hold up the system
        assert said(machine.console, "systemctl is-active multi-user.target") == "active"
        machine.console.send_line("poweroff")
        machine.wait_off(120)


def test_an_encrypted_volume_boots(disks: dict[str, Path], image: Path, tmp_path: Path) -> None:
    with machine_of("bios", {ALONE: disks[ALONE]}, tmp_path, image) as machine:
        machine.console.expect(r"unlock disk", BOOT_S)
        machine.console.send_line(PASSPHRASE)
        log_in(machine.console)
        assert said(machine.console, "findmnt -no SOURCE,FSTYPE /") == (
            "/dev/mapper/vg--sys-root xfs"
        )
        assert said(machine.console, "swapon --noheadings --show=TYPE") == "partition"
        assert said(machine.console, "systemctl is-active multi-user.target") == "active"
        machine.console.send_line("poweroff")
        machine.wait_off(120)
