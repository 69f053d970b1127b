"""The image starts in little memory, and says on the console what is wrong."""

from pathlib import Path

import pytest

from tests.harness.image import boot_image
from tests.harness.machine import Hardware, Kernel, Machine

pytestmark = pytest.mark.qemu

BOOT_S = 240


def make_machine(name: str, memory_mib: int, words: str, folder: Path) -> Machine:
    image = boot_image()
    arguments = f"console=tty0 console=ttyS0,115200 loglevel=4 {words}"
    kernel = Kernel(image / "vmlinuz", image / "initrd.img", arguments)
    hardware = Hardware(name, memory_mib=memory_mib, kernel=kernel)
    return Machine(hardware, folder, image / "vmlinuz")


def test_384_mib_are_enough(tmp_path: Path) -> None:
    with make_machine("small", 384, "metalcast.mode=inspect", tmp_path) as machine:
        machine.console.expect("Metalcast 0", BOOT_S)
        machine.console.expect("the agent is done; the machine stays as it is", 60)


def test_an_argument_that_nobody_knows_is_named_and_a_shell_is_offered(tmp_path: Path) -> None:
    words = "metalcast.sever=x metalcast.on_error=shell"
    with make_machine("wrong", 512, words, tmp_path) as machine:
        machine.console.expect("metalcast.sever", BOOT_S)
        machine.console.expect("the agent ended with status 2", 60)
        machine.console.expect("metalcast:~#", 60)
        machine.console.send_line("lsmod | grep -c overlay")
        machine.console.expect(r"\n1\r?\n", 30)


def test_a_shell_when_it_is_asked_for(tmp_path: Path) -> None:
    with make_machine("shell", 512, "metalcast.mode=shell", tmp_path) as machine:
        machine.console.expect("metalcast:~#", BOOT_S)
        machine.console.send_line("mount | grep '^overlay on / '; echo status $?")
        machine.console.expect("status 0", 30)
