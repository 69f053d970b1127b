"""Whole deployments over the network onto any disks and layout, and what then boots from them."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.harness import source
from tests.harness.disks import copy_disk, disk_digest, make_dirty_disk, make_disk
from tests.harness.flow import BOOT_S, machine_id
from tests.harness.machine import Disk, Firmware, Hardware, Machine, Nic
from tests.harness.server import Server

# Four times what each takes on two cores with everything emulated: files on another layout are
# copied one by one, and the system makes its own initramfs.
CAPTURE_S, DEPLOY_S = 900, 2400
ANSWER_S, OFF_S = 240, 240

# One digest of what no layout may change: every file with its owner, mode, times, xattrs, ACLs.
# tar would give the xattrs in the order in which they were set, which is nobody's business. xfs
# shows an ACL a second time, under a name of its own.
TREE = """set -o pipefail; cd /; places="home opt root srv usr"
(tar --create --sort=name --numeric-owner --one-file-system --format=posix \\
    --pax-option=delete=atime,delete=ctime --exclude=sparse $places &&
find $places -xdev -print0 | LC_ALL=C sort --zero-terminated |
    xargs --null getfattr --no-dereference --dump --match=- --encoding=hex |
    grep --text --invert-match '^trusted.SGI_ACL_'
) | b2sum | cut -c-32
"""
TREE_S = 600


@dataclass(frozen=True, slots=True)
class Blank:
    """A disk that a machine is to have; a dirty one has a past, see `make_dirty_disk`."""

    serial: str
    size_bytes: int
    sector_bytes: int = 512
    dirty: bool = False


@dataclass(frozen=True, slots=True)
class Booted:
    """A system that has come up from its own disks, and a shell on its serial console."""

    machine: Machine

    def run(self, words: str, timeout_s: float = ANSWER_S) -> str:
        """Run some shell and return what it printed. It must end with status 0."""
        console = self.machine.console
        console.skip()
        console.send_line(f"echo '<<'; ({words.strip()}); echo \">>$?\"")
        found = console.expect(r"(?s)<<\n(.*?)>>(\d+)\n", timeout_s)
        if found.group(2) != "0":
            raise AssertionError(f"{words}: status {found.group(2)}\n{found.group(1)}")
        return found.group(1).strip()

    def expect_healthy(self) -> None:
        """Demand that the system has all that it wants to start, and that nothing failed."""
        state = self.run("systemctl is-system-running --wait || true", BOOT_S)
        failed = self.run("systemctl --failed --plain --no-legend")
        target = self.run("systemctl is-active multi-user.target || true")
        assert (state, failed, target) == ("running", "", "active")

    def tree(self) -> str:
        """Return the digest TREE."""
        return self.run(TREE, TREE_S)


@dataclass(frozen=True, slots=True)
class Lived:
    """A source server's disk, clean and switched off, and the digest of its tree."""

    disk: Disk
    tree: str


class Rack:
    """A server, and machines that are captured, deployed and booted around it.

    Every machine is a new one to the server, and every disk has a file of its own below `folder`.
    """

    def __init__(self, folder: Path, image: Path, tell: Callable[[str], None] = print) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.server = Server(folder, image)
        self._kernel = image / "vmlinuz"
        self._tell = tell
        self._machines = 0

    def start(self) -> None:
        self.server.start()

    def stop(self) -> None:
        self.server.stop()

    def live_in(self) -> Lived:
        """Boot a server that has every storage tool from its one disk, let it live, switch it off.

        The disk has GPT, boot code for both firmwares, swap, and ext4: see tests/harness/source.py.
        """
        folder = self._new_folder("source")
        made = source.storage_disk() / "disk.raw"
        disk = Disk(copy_disk(made, folder / "source.raw"), source.SERIAL)
        with self.boot([disk], in_place=True) as system:
            system.run("live-in", TREE_S)
            tree = system.tree()
        return Lived(disk, tree)

    def copies(self, disks: Sequence[Disk]) -> tuple[Disk, ...]:
        folder = self._new_folder("copy")
        return tuple(
            replace(disk, path=copy_disk(disk.path, folder / disk.path.name)) for disk in disks
        )

    def remove(self, disks: Sequence[Disk]) -> None:
        """Remove the files of disks that nobody needs any more."""
        for disk in disks:
            shutil.rmtree(disk.path.parent, ignore_errors=True)

    def capture(
        self, name: str, disks: Sequence[Disk], firmware: Firmware = "bios", *options: str | Path
    ) -> None:
        """Boot a machine with `disks` from the network and make template `name` of them.

        `options` are more words for `job create capture`. Demands that no byte of the disks has
        changed.
        """
        before = [disk_digest(disk.path) for disk in disks]
        mac = self._new_mac()
        words = [f"--disk=disk{n}:serial={disk.serial}" for n, disk in enumerate(disks)]
        create = ("job", "create", "capture", "--machine", machine_id(mac), "--name", name)
        job = self.server.ask(*create, *words, *options)["id"]
        with self._from_network(f"capture-{name}", mac, disks, firmware) as machine:
            self._follow(job, machine, CAPTURE_S)
            machine.wait_off(OFF_S)
        after = [disk_digest(disk.path) for disk in disks]
        assert before == after, f"the capture of {name} changed a disk"
        self._tell(f"captured {name}: {len(disks)} disks, not a byte of them changed")

    def deploy(
        self,
        name: str,
        wanted: Sequence[Blank],
        layout: str | dict[str, Any] = "same",
        firmware: Firmware = "bios",
        **spec: Any,
    ) -> tuple[Disk, ...]:
        """Boot a machine with new disks from the network, deploy template `name`; return the disks.

        The disks have the roles `disk0`, `disk1`, … in their order. `spec` is more of a DeploySpec,
        `disks` too. The machine ends where the agent itself resets it.
        """
        folder = self._new_folder(f"target-{name}")
        disks = tuple(self._make(one, folder) for one in wanted)
        roles = {f"disk{n}": {"serial": disk.serial} for n, disk in enumerate(disks)}
        whole = {"kind": "deploy", "template": name, "layout": layout, "disks": roles, **spec}
        mac = self._new_mac()
        path = self._new_folder("spec") / "deploy.json"
        path.write_text(json.dumps(whole, indent=2))
        create = ("job", "create", "deploy", "--machine", machine_id(mac))
        job = self.server.ask(*create, "--spec", str(path))["id"]
        with self._from_network(f"deploy-{name}", mac, disks, firmware, pause=True) as machine:
            self._follow(job, machine, DEPLOY_S)
            machine.wait_reset(OFF_S)
        shown = layout if isinstance(layout, str) else "a storage configuration"
        self._tell(f"deployed {name} as {shown} on {len(disks)} disks, {firmware}")
        # a new array is zeroed by a command that leaves no holes: a few would fill our own disk
        sparse = self.copies(disks)
        self.remove(disks)
        return sparse

    @contextmanager
    def boot(
        self,
        disks: Sequence[Disk],
        firmware: Firmware = "bios",
        answers: Sequence[tuple[str, str]] = (),
        *,
        in_place: bool = False,
    ) -> Iterator[Booted]:
        """Boot from copies of `disks` and nothing else, log in, switch off at the end.

        `answers` are a pattern that the console shows before the login, and what to type then.
        In place: from the disks themselves. The firmware knows nothing of earlier boots.
        """
        used = tuple(disks) if in_place else self.copies(disks)
        placed = tuple(replace(disk, boot=place) for place, disk in enumerate(used, start=1))
        hardware = Hardware(self._new_name("boot"), firmware, disks=placed)
        with Machine(hardware, self.folder, self._kernel) as machine:
            for prompt, answer in answers:
                machine.console.expect(prompt, BOOT_S)
                machine.console.send_line(answer)
            _log_in(machine)
            yield Booted(machine)
            machine.console.send_line("poweroff")
            machine.wait_off(OFF_S)
        if not in_place:
            self.remove(used)

    def _make(self, wanted: Blank, folder: Path) -> Disk:
        make = make_dirty_disk if wanted.dirty else make_disk
        path = make(folder / f"{wanted.serial}.raw", wanted.size_bytes)
        return Disk(path, wanted.serial, sector_bytes=wanted.sector_bytes)

    def _from_network(
        self, name: str, mac: str, disks: Sequence[Disk], firmware: Firmware, *, pause: bool = False
    ) -> Machine:
        placed = tuple(replace(disk, boot=place) for place, disk in enumerate(disks, start=2))
        hardware = Hardware(
            self._new_name(name),
            firmware,
            memory_mib=1536,
            uuid=f"5f1c9a52-0c63-4a0e-9a5a-{mac.replace(':', '')}",
            disks=placed,
            nics=(Nic(mac, self.server.bootfile, boot=1),),
            pause_at_reset=pause,
        )
        return Machine(hardware, self.folder, self._kernel)

    def _follow(self, job: str, machine: Machine, timeout_s: float) -> None:
        status = self.server.watch(job, lambda line: self._tell(f"   {line}"), timeout_s)
        if status:
            failure = self.server.run("job", "show", job)
            raise AssertionError(f"{failure}\n{machine.console.tail(60)}")

    def _new_name(self, what: str) -> str:
        self._machines += 1
        return f"{self._machines:03}-{what}"

    def _new_mac(self) -> str:
        self._machines += 1
        high, low = divmod(self._machines, 256)
        return f"52:54:00:12:{0x50 + high:02x}:{low:02x}"

    def _new_folder(self, what: str) -> Path:
        folder = self.folder / self._new_name(what)
        folder.mkdir()
        return folder


def _log_in(machine: Machine) -> None:
    """Log in on the serial console, to a shell that says only what is asked for."""
    console = machine.console
    console.expect(r"login: ", BOOT_S)
    console.send_line("root")
    console.expect(r"Password: ", ANSWER_S)
    console.send_line(source.PASSWORD)
    console.expect(r"# ", ANSWER_S)
    # no history file: what we look at would change with the looking
    console.send_line("unset HISTFILE; dmesg --console-off; stty -echo; PS1= PS2=; echo ready-$?")
    console.expect(r"ready-0", ANSWER_S)
