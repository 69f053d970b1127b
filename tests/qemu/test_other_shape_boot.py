"""A system captured from one disk, put on a mirror of two, really boots: also from either alone."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.harness import source
from tests.harness.disks import copy_disk, make_disk
from tests.harness.guest import run_in_guest
from tests.harness.machine import Disk, Firmware, Hardware, Machine
from tests.harness.rootfs import storage_root
from tests.shapes import LEGS, ROOT_TAR
from tests.shapes.layouts import LEG_BYTES

pytestmark = pytest.mark.qemu

INSIDE = "tests/shapes/in_guest.py"
BOOT_S = 400


@pytest.fixture(scope="module")
def legs(run_folder: Path, image: Path) -> tuple[Path, ...]:
    """The two disks, as the guest left them."""
    folder = run_folder / "mirror"
    folder.mkdir()
    tree = folder / "root.tar"
    shutil.copyfile(storage_root(), tree)
    paths = tuple(make_disk(folder / f"{serial}.raw", LEG_BYTES) for serial in LEGS)
    disks = [Disk(path, serial) for path, serial in zip(paths, LEGS, strict=True)]
    found = run_in_guest(
        [INSIDE], folder, image, 1500, [Disk(tree, ROOT_TAR, read_only=True), *disks]
    )
    failed = [one for one in found if one.outcome != "passed"]
    assert not failed, "\n\n".join(f"{one.name}\n{one.text}" for one in failed)
    assert any(one.name.startswith(INSIDE) for one in found)
    return paths


@pytest.mark.parametrize(
    ("firmware", "there"),
    [("bios", (0, 1)), ("bios", (1,)), ("bios", (0,)), ("uefi", (1,))],
    ids=["bios", "bios-second-leg-alone", "bios-first-leg-alone", "uefi-second-leg-alone"],
)
def test_it_boots(
    firmware: Firmware, there: Sequence[int], legs: tuple[Path, ...], image: Path, tmp_path: Path
) -> None:
    copies = [copy_disk(legs[number], tmp_path / f"{number}.raw") for number in there]
    hardware = Hardware(
        "mirrored",
        firmware,
        disks=tuple(
            Disk(path, LEGS[number], boot=place)
            for place, (number, path) in enumerate(zip(there, copies, strict=True), start=1)
        ),
    )
    with Machine(hardware, tmp_path, image / "vmlinuz") as machine:
        console = machine.console
        console.expect(r"login: ", BOOT_S)
        console.send_line("root")
        console.expect(r"Password: ", 60)
        console.send_line(source.PASSWORD)
        console.expect(r"# ", 60)
        console.send_line("echo root=$(findmnt -no SOURCE /) members=$(ls /sys/block/md*/slaves)=")
        found = console.expect(r"root=(/dev/\S+) members=([^=]*)=", 60)
        assert found.group(1).startswith("/dev/md")
        assert len(found.group(2).split()) == len(there)
        console.send_line("echo failed=$(systemctl --failed --plain --no-legend | cut -d' ' -f1)=")
        # the ESP of the disk that is away may be asked for, and must not hold up the system
        units = console.expect(r"failed=([^=$]*)=", 60).group(1).split()
        assert not [unit for unit in units if not unit.startswith(("boot-efi", "systemd-fsck"))]
        console.send_line("poweroff")
        machine.wait_off(120)
