"""A technician with a CD or a USB stick, no netboot server around: questions, then a receipt."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.iso import write_iso
from tests.harness import source
from tests.harness.disks import copy_disk, disk_digest
from tests.harness.image import boot_image
from tests.harness.machine import Disk, Firmware, Hardware, Kernel, Machine, Nic
from tests.harness.server import Server

pytestmark = pytest.mark.qemu

MAC = "52:54:00:12:34:0a"
BOOT_S, ANSWER_S, CAPTURE_S = 320, 120, 600


@pytest.fixture(scope="module")
def image() -> Path:
    return boot_image()


@pytest.fixture(scope="module")
def medium(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ISO, written from the folder that build-image filled."""
    path = tmp_path_factory.mktemp("medium") / "metalcast.iso"
    write_iso(image, path, ())
    return path


@pytest.fixture
def server(image: Path, tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, image)
    server.start()
    yield server
    server.stop()


def technicians_machine(
    firmware: Firmware, bus: str, medium: Path, folder: Path, probe: Path
) -> tuple[Machine, Path]:
    """Return a running machine with the source server's disk and the medium, and that disk."""
    disk = copy_disk(source.source_disk() / "disk.raw", folder / "source.raw")
    disks: tuple[Disk, ...] = (Disk(disk, source.SERIAL),)
    if bus == "usb":
        disks += (Disk(medium, "STICK-0001", bus="usb", boot=1, read_only=True),)
    hardware = Hardware(
        f"rescue-{firmware}-{bus}",
        firmware,
        memory_mib=768,
        disks=disks,
        nics=(Nic(MAC),),
        cdrom=medium if bus == "cd" else None,
    )
    return Machine(hardware, folder, probe), disk


@pytest.mark.parametrize(("firmware", "bus"), [("bios", "usb"), ("uefi", "cd"), ("uefi", "usb")])
def test_the_medium_boots_to_its_first_question(
    firmware: Firmware, bus: str, image: Path, medium: Path, tmp_path: Path
) -> None:
    machine, _ = technicians_machine(firmware, bus, medium, tmp_path, image / "vmlinuz")
    with machine:
        machine.console.expect("Metalcast 0", BOOT_S)
        machine.console.expect("No template keys in this image", ANSWER_S)
        machine.console.expect("No server keys in this image", ANSWER_S)
        page = machine.console.expect(r"Machine(.*\n)+?1\. Which disk\? \[(\d)\]", ANSWER_S)
        offered = page.group(2)  # never the stick that we came from
        assert re.search(rf"^ +{offered} +\S+ .*serial {source.SERIAL}", page.group(), re.MULTILINE)
        assert firmware.upper() in page.group()
        assert source.SERIAL in page.group()


def test_a_technician_captures_a_server(
    server: Server, image: Path, medium: Path, tmp_path: Path
) -> None:
    code = server.ask("pass", "create", "--name", "rescued")["code"]
    machine, disk = technicians_machine("bios", "cd", medium, tmp_path, image / "vmlinuz")
    before = disk_digest(disk)
    with machine:
        say, expect = machine.console.send_line, machine.console.expect
        expect(r"1\. Which disk\? \[1\] ", BOOT_S)
        say("7")
        expect("please type a number from 1 to 1", ANSWER_S)
        say("")
        expect(r"Used .* of 2\.0 GiB", ANSWER_S)
        expect(r"2\. Name of the template\? \[debian-13\] ", ANSWER_S)
        say("Not A Name")
        expect("please type lower-case letters", ANSWER_S)
        say("rescued")
        expect(r"3\. Where to\? The store's URL ", ANSWER_S)
        say("http://10.0.2.2:1")
        expect("no answer from http://10.0.2.2:1", ANSWER_S)
        say(server.guest_url)
        expect(r"4\. Pass\? ", ANSWER_S)
        say("aaaa-aaaa-aaaa-aaaa")
        expect("this pass is unknown", ANSWER_S)
        say(code.upper())
        expect(r"5\. Capture /dev/\S+ as rescued\?.*\[yes\] ", ANSWER_S)
        say("")
        expect(r"capture  \d+ %", CAPTURE_S)
        receipt = expect(r"RECEIPT(.*\n)+?.*again +(.*)\n", CAPTURE_S)
    assert disk_digest(disk) == before
    template = server.ask("template", "ls")[0]
    assert template["name"] == "rescued"
    assert template["digest"] in receipt.group()
    assert f"metalcast.disk.serial={source.SERIAL}" in receipt.group(2)
    assert code not in server.log


def test_the_equivalent_arguments_need_no_question(
    server: Server, image: Path, tmp_path: Path
) -> None:
    """With a job at the server and every answer on the kernel line, nobody has to be there."""
    disk = copy_disk(source.source_disk() / "disk.raw", tmp_path / "source.raw")
    server.run("job", "create", "capture", "--machine", MAC.replace(":", "-"), "--name", "again")
    words = (
        f"console=ttyS0,115200 metalcast.mode=capture metalcast.server={server.guest_url} "
        f"metalcast.name=again metalcast.disk.serial={source.SERIAL} metalcast.yes=yes "
        "metalcast.finish=poweroff"
    )
    hardware = Hardware(
        "unattended",
        memory_mib=768,
        disks=(Disk(disk, source.SERIAL),),
        nics=(Nic(MAC),),
        kernel=Kernel(image / "vmlinuz", image / "initrd.img", words),
    )
    with Machine(hardware, tmp_path, image / "vmlinuz") as machine:
        machine.console.expect("RECEIPT", BOOT_S + CAPTURE_S)
        machine.wait_off(120)
    assert [t["name"] for t in server.ask("template", "ls")] == ["again"]


def test_the_medium_is_written_by_the_command(image: Path, tmp_path: Path) -> None:
    """`metalcast build-image --iso` is how a user gets it."""
    path = tmp_path / "metalcast.iso"
    words = [sys.executable, "-m", "netboot", "build-image", "--output", str(image)]
    words += ["--compression", "fast", "--iso", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes()[510:512] == b"\x55\xaa"
