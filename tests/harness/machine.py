"""A machine in QEMU: firmware, memory, disks, network cards, a serial console and a monitor."""

import contextlib
import json
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from qemu.qmp import QMPError
from qemu.qmp.legacy import QEMUMonitorProtocol

from tests.harness.accel import accelerator
from tests.harness.console import Console

Firmware = Literal["bios", "uefi"]
_WWN = 0x5000C50000000000
Bus = Literal["virtio", "scsi", "multipath", "ahci", "nvme", "usb"]
_OVMF = Path("/usr/share/OVMF")


@dataclass(frozen=True, slots=True)
class Disk:
    """A raw file as a disk. `boot` is its place in the firmware's boot order, from 1."""

    path: Path
    serial: str
    bus: Bus = "virtio"
    sector_bytes: int = 512
    boot: int | None = None
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Nic:
    """A network card with QEMU's own little network behind it: 10.0.2.0/24, we are 10.0.2.2.

    `forward` is (our port, guest's address, guest's port). `bootfile` is what its DHCP names.
    """

    mac: str
    bootfile: str | None = None
    tftp: Path | None = None
    forward: tuple[tuple[int, str, int], ...] = ()
    boot: int | None = None


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel to start at once, past the firmware's own way of finding one."""

    image: Path
    initrd: Path | None
    arguments: str


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a machine is made of."""

    name: str
    firmware: Firmware = "bios"
    memory_mib: int = 1024
    uuid: str | None = None
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    kernel: Kernel | None = None
    cdrom: Path | None = None
    screen: bool = False
    """With a display: its picture is saved when the console stays silent."""
    pause_at_reset: bool = False
    """A reset asked for by the guest stops the machine until `go_on()`."""
    more: tuple[str, ...] = field(default=())


class Machine:
    """A running machine. `folder` gets its log, its firmware variables and its screen."""

    def __init__(
        self,
        hardware: Hardware,
        folder: Path,
        probe_kernel: Path,
        echo: Callable[[str], None] | None = None,
    ):
        self.hardware = hardware
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        console, far_console = socket.socketpair()
        monitor, far_monitor = socket.socketpair()
        words = ["qemu-system-x86_64", "-accel", accelerator(probe_kernel)]
        words += arguments(hardware, folder, far_console.fileno(), far_monitor.fileno())
        self._errors = (folder / f"{hardware.name}.qemu.log").open("ab")
        self.process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
            pass_fds=(far_console.fileno(), far_monitor.fileno()),
            start_new_session=True,  # Ctrl-C is for us; we end the machine in our own order
        )
        far_console.close()
        far_monitor.close()
        self.console = Console(console, folder / f"{hardware.name}.console.log", echo)
        self.console.on_silence = self._save_screen
        self._monitor = QEMUMonitorProtocol(monitor)
        try:
            self._monitor.connect()
        except (QMPError, OSError) as error:
            self.stop()
            said = (folder / f"{hardware.name}.qemu.log").read_text(errors="replace")
            raise RuntimeError(f"QEMU did not start: {said[-2000:]}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def ask(self, command: str, **arguments: Any) -> Any:
        """Give QEMU's monitor a command and return its answer. Underscores stand for hyphens."""
        return self._monitor.cmd(command, **{k.replace("_", "-"): v for k, v in arguments.items()})

    def wait_event(self, name: str, timeout_s: float) -> dict[str, Any]:
        """Return the next event `name` of the monitor, which may have come already."""
        while True:
            event = self._monitor.pull_event(timeout_s)
            if event is None:
                raise TimeoutError(f"{self.hardware.name}: no {name} event")
            if event["event"] == name:
                return dict(event)

    def wait_reset(self, timeout_s: float) -> None:
        """Wait until the guest itself resets the machine, which then stands still."""
        if not self.hardware.pause_at_reset:
            raise ValueError("this machine does not pause at a reset")
        try:
            event = self.wait_event("SHUTDOWN", timeout_s)
        except (TimeoutError, QMPError) as error:
            self._save_screen()
            raise AssertionError(
                f"{self.hardware.name}: no reset in {timeout_s:.0f} s\n{self.console.tail()}"
            ) from error
        reason = event["data"]["reason"]
        if reason != "guest-reset":
            raise AssertionError(f"{self.hardware.name}: {reason}\n{self.console.tail()}")

    def go_on(self) -> None:
        """Let the reset that stopped the machine happen; later ones are not stopped."""
        self.ask("set-action", reboot="reset", shutdown="poweroff")
        self.ask("system_reset")
        self.ask("cont")

    def wait_off(self, timeout_s: float) -> None:
        """Wait until the guest has switched the machine off."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            self._save_screen()
            raise AssertionError(
                f"{self.hardware.name}: still on after {timeout_s:.0f} s\n{self.console.tail()}"
            ) from error
        self.stop()

    def detach(self) -> None:
        """Let the machine run on without us."""
        self._errors.close()

    def stop(self) -> None:
        """End the machine at once, as if its power were cut. Its log stays."""
        if self.running:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        # The other end may have gone with the machine, in the middle of a word.
        with contextlib.suppress(QMPError, OSError, EOFError, AttributeError):
            self._monitor.close()
        self.console.close()
        self._errors.close()

    def _save_screen(self) -> None:
        if self.hardware.screen and self.running:
            picture = self._folder / f"{self.hardware.name}.png"
            self.ask("screendump", filename=str(picture), format="png")


def arguments(hardware: Hardware, folder: Path, console: int, monitor: int) -> list[str]:
    """Return the words after `qemu-system-x86_64 -accel X` for this hardware."""
    # Without graphics=off, SeaBIOS and iPXE say nothing on the serial line.
    graphics = "on" if hardware.screen else "off"
    words = [
        "-machine",
        f"q35,graphics={graphics}",
        "-cpu",
        "max",
        "-nodefaults",
        "-display",
        "none",
    ]
    words += ["-name", hardware.name, "-m", str(hardware.memory_mib), "-smp", "1"]
    words += ["-chardev", f"socket,id=console,fd={console}", "-serial", "chardev:console"]
    words += ["-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control"]
    words += ["-device", "virtio-rng-pci"]
    words += ["-action", "reboot=shutdown,shutdown=pause"] if hardware.pause_at_reset else []
    words += ["-device", "VGA"] if hardware.screen else []
    words += ["-uuid", hardware.uuid] if hardware.uuid else []
    if hardware.firmware == "uefi":
        variables = folder / f"{hardware.name}.vars.fd"
        if not variables.exists():
            shutil.copyfile(_OVMF / "OVMF_VARS_4M.fd", variables)
        words += _pflash(0, _OVMF / "OVMF_CODE_4M.fd", read_only=True)
        words += _pflash(1, variables, read_only=False)
        # Where iPXE hands over to the disk, OVMF would first try its own PXE, for minutes.
        for version in ("4", "6"):
            words += ["-fw_cfg", f"name=opt/org.tianocore/IPv{version}PXESupport,string=n"]
    for number, disk in enumerate(hardware.disks):
        words += _disk(number, disk)
    for number, nic in enumerate(hardware.nics):
        words += _nic(number, nic)
    if hardware.cdrom:
        node = _file_node("cd", hardware.cdrom, read_only=True)
        words += ["-blockdev", node, "-device", "ide-cd,bus=ide.5,drive=cd,bootindex=9"]
    if hardware.kernel:
        words += ["-kernel", str(hardware.kernel.image), "-append", hardware.kernel.arguments]
        words += ["-initrd", str(hardware.kernel.initrd)] if hardware.kernel.initrd else []
    return [*words, *hardware.more]


def _file_node(name: str, path: Path, read_only: bool) -> str:
    # JSON, because a comma in a path would end the value; raw, because QEMU must never guess.
    below = {"driver": "file", "filename": str(path), "discard": "unmap"}
    return json.dumps({"driver": "raw", "node-name": name, "read-only": read_only, "file": below})


def _pflash(unit: int, path: Path, read_only: bool) -> list[str]:
    switch = "on" if read_only else "off"
    return ["-drive", f"if=pflash,format=raw,unit={unit},readonly={switch},file={path}"]


def _disk(number: int, disk: Disk) -> list[str]:
    node = f"disk{number}"
    words = ["-blockdev", _file_node(node, disk.path, disk.read_only)]
    drive = f"drive={node},serial={disk.serial}"
    drive += f",bootindex={disk.boot}" if disk.boot else ""
    sectors = f",logical_block_size={disk.sector_bytes},physical_block_size={disk.sector_bytes}"
    match disk.bus:
        case "virtio":
            words += ["-device", f"virtio-blk-pci,{drive}{sectors}"]
        case "scsi":
            words += ["-device", f"virtio-scsi-pci,id=scsi{number}"]
            words += ["-device", f"scsi-hd,bus=scsi{number}.0,{drive}{sectors}"]
        case "multipath":  # one disk, two cables
            unit = f"drive={node},serial={disk.serial},wwn={_WWN + number:#x},share-rw=on{sectors}"
            words += ["-device", f"virtio-scsi-pci,id=scsi{number}"]
            for path in (0, 1):
                words += ["-device", f"scsi-hd,bus=scsi{number}.0,scsi-id={path},{unit}"]
        case "ahci":
            words += ["-device", f"ide-hd,bus=ide.{number},{drive}{sectors}"]
        case "nvme":
            words += ["-device", f"nvme,{drive}{sectors}"]
        case "usb":
            words += ["-device", f"qemu-xhci,id=usb{number}"]
            words += ["-device", f"usb-storage,bus=usb{number}.0,{drive}{sectors}"]
    return words


def _nic(number: int, nic: Nic) -> list[str]:
    # Without IPv6, iPXE does not wait 16 s for a router that will never answer.
    net = f"user,id=net{number},ipv6=off"
    net += f",tftp={nic.tftp}" if nic.tftp else ""
    net += f",bootfile={nic.bootfile}" if nic.bootfile else ""
    net += "".join(f",hostfwd=tcp:127.0.0.1:{ours}-{ip}:{port}" for ours, ip, port in nic.forward)
    card = f"virtio-net-pci,netdev=net{number},mac={nic.mac}"
    card += f",bootindex={nic.boot}" if nic.boot else ""
    return ["-netdev", net, "-device", card]


def free_port() -> int:
    """Return a TCP port of this host that is free now."""
    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        return int(link.getsockname()[1])
