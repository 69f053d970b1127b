"""The flow from one working server to two: what the demo shows and the tests demand."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agent.units import GiB, MiB, format_bytes
from tests.harness import source
from tests.harness.disks import copy_disk, disk_digest, find_bytes, make_dirty_disk
from tests.harness.machine import Disk, Firmware, Hardware, Machine, Nic, free_port
from tests.harness.proofs import (
    KERNEL_VIEW,
    Proof,
    blob_with,
    kernel_view_faults,
    person_on,
    root_sizes,
)
from tests.harness.server import Server
from tests.harness.ssh import Ssh, make_key
from tests.harness.treedigest import differences, tree_of

SOURCE_MAC = "52:54:00:12:34:01"
TARGET_MAC = "52:54:00:12:34:02"
SOURCE_UUID = "5f1c9a52-0c63-4a0e-9a5a-8f8e21d50001"
TARGET_UUID = "5f1c9a52-0c63-4a0e-9a5a-8f8e21d50002"
TARGET_SERIAL = "TARGET-0001"
TARGET_BYTES = 5 * GiB
TARGET_HOSTNAME = "web1"
TARGET_ADDRESS = "10.0.2.50"  # not what DHCP would give: only the job's network has it
# Four times what each takes on two cores with everything emulated.
BOOT_S, CAPTURE_S, DEPLOY_S, OFF_S = 320, 600, 900, 120

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class LivedIn:
    """A source server that has lived: its disk, clean and switched off, and its secret."""

    disk: Path
    canary: bytes


@dataclass
class Flow:
    """One run. Each method is a stage; they are called in order and add to `proofs`."""

    firmware: Firmware
    folder: Path
    image: Path
    made: Path
    """The folder of `source_disk`."""
    tell: Tell = print
    proofs: list[Proof] = field(default_factory=list)
    stages: list[tuple[str, float]] = field(default_factory=list)
    target: Machine | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.server = Server(self.folder, self.image)
        self.key, self.public_key = make_key(self.folder)
        self.ssh = Ssh(free_port(), self.key)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.tell(f"── {name}")
        began = time.monotonic()
        yield
        self.stages.append((name, time.monotonic() - began))

    def prove(self, name: str, holds: bool, seen: str) -> None:
        self.proofs.append(Proof(name, holds, seen))
        self.tell(f"   {'proven' if holds else 'NOT PROVEN'}: {name}: {seen}")

    def start_server(self) -> None:
        with self.stage("start the server"):
            self.server.start()
            self.tell(f"   {self.server.url}, data in {self.server.data}")

    def live_in(self) -> LivedIn:
        """Boot the source server from its disk, let it live, switch it off."""
        with self.stage(f"boot the source server from its disk ({self.firmware})"):
            return live_in(self.firmware, self.made, self.folder, self.tell)

    def capture(self, lived: LivedIn, name: str = "demo") -> None:
        """Boot the source server from the network and capture its disk as template `name`."""
        with self.stage("capture the source server over the network"):
            place = find_bytes(lived.disk, lived.canary)
            self.prove("canary-set", place is not None, f"at byte {place} of the source disk")
            before = disk_digest(lived.disk)
            job = self.server.ask(
                *("job", "create", "capture", "--machine", machine_id(SOURCE_MAC)),
                *("--name", name, "--disk-serial", source.SERIAL),
            )["id"]
            hardware = Hardware(
                "source-capture",
                self.firmware,
                uuid=SOURCE_UUID,
                disks=(Disk(lived.disk, source.SERIAL, boot=2),),
                nics=(Nic(SOURCE_MAC, self.server.bootfile, boot=1),),
            )
            with self._machine(hardware) as machine:
                status = self.server.watch(job, self._indented, CAPTURE_S)
                self._demand(status == 0, f"the capture job ended with status {status}", machine)
                machine.wait_off(OFF_S)
            after = disk_digest(lived.disk)
            self.prove("source-untouched", before == after, f"SHA-256 {before[:16]} → {after[:16]}")
        with self.stage("look into the store"):
            listed = self.server.run("template", "ls")
            self.prove("template-listed", name in listed, listed.strip().splitlines()[-1])
            blobs = list(self.server.blobs())
            # The same search must find a file that lives, or it proves nothing.
            living = blob_with(blobs, b"one file, three names\n")
            secret = blob_with(blobs, lived.canary)
            total = format_bytes(sum(blob.stat().st_size for blob in blobs))
            self.prove(
                "canary-absent",
                living is not None and secret is None,
                f"{len(blobs)} blobs, {total}: a living file "
                f"{'found' if living else 'NOT found'}, the deleted one "
                f"{'FOUND in ' + secret.name if secret else 'not found'}",
            )

    def deploy(self, lived: LivedIn, name: str = "demo") -> None:
        """Boot a target with a bigger, dirty disk from the network; stop at its own reset."""
        with self.stage("deploy to a target server with a bigger, dirty disk"):
            disk = make_dirty_disk(self.folder / "target.raw", TARGET_BYTES)
            nic = Nic(
                TARGET_MAC,
                self.server.bootfile,
                forward=((self.ssh.port, TARGET_ADDRESS, 22),),
                boot=1,
            )
            hardware = Hardware(
                "target",
                self.firmware,
                uuid=TARGET_UUID,
                disks=(Disk(disk, TARGET_SERIAL, boot=2),),
                nics=(nic,),
                pause_at_reset=True,
            )
            self.target = machine = self._machine(hardware)
            wait_for_machine(self.server, machine, TARGET_MAC)
            spec = self.folder / "deploy.json"
            spec.write_text(json.dumps(self._deploy_spec(name), indent=2))
            job = self.server.ask(
                *("job", "create", "deploy", "--machine", machine_id(TARGET_MAC)),
                *("--template", name, "--spec", str(spec)),
            )["id"]
            status = self.server.watch(job, self._indented, DEPLOY_S)
            self._demand(status == 0, f"the deploy job ended with status {status}", machine)
            machine.wait_reset(OFF_S)
            self.prove("own-reboot", True, "the guest asked for the reset")
        with self.stage("compare the trees before the target's first boot"):
            ours, theirs = tree_of(lived.disk), tree_of(disk)
            faults = differences(ours, theirs)
            for fault in faults[:20]:
                self.tell(f"   differs: {fault[:300]}")
            self.prove("tree-equal", not faults, f"{len(ours)} paths, {len(faults)} differ")
            sizes = root_sizes(disk)
            grown = sizes[1] > sizes[0] - 256 * MiB and 0 <= sizes[1] - sizes[2] < MiB
            text = "disk {}, partition {}, filesystem {}".format(*map(format_bytes, sizes))
            self.prove("root-grown", grown, text)

    def _deploy_spec(self, name: str) -> dict[str, object]:
        lan = {
            "match": {"macaddress": TARGET_MAC},
            "set-name": "lan0",
            "addresses": [f"{TARGET_ADDRESS}/24"],
            "routes": [{"to": "default", "via": "10.0.2.2"}],
            "nameservers": {"addresses": ["10.0.2.3"]},
        }
        return {
            "kind": "deploy",
            "template": name,
            "disk": {"serial": TARGET_SERIAL},
            "network": {"version": 2, "ethernets": {"lan0": lan}},
            "identity": {"hostname": TARGET_HOSTNAME, "authorized_keys": [self.public_key]},
            "consent": ["linux_raid_member"],
        }

    def first_boot(self, lived: LivedIn) -> None:
        """Let the target's reset happen, log in and look."""
        machine = self.target
        if machine is None:
            raise AssertionError("nothing was deployed")
        with self.stage(f"the target boots by itself ({self.firmware}, network first)"):
            said_before = len(machine.console.text)
            machine.console.skip()
            machine.go_on()
            seen = machine.console.expect(r"(\S+) login: ", BOOT_S).group(1)
            self.ssh.wait(OFF_S)
            who = self.ssh.run("id -un; findmnt -no SOURCE,FSTYPE /").split()
            self.prove("login", who[0] == "root", " ".join(who))
            answered = "boots from its disk" in machine.console.text[said_before:]
            self.prove(
                "from-disk",
                who[1].startswith("/dev/vd") and answered,
                f"{seen} runs on {who[1]}; the server said "
                f"{'to boot from disk' if answered else 'nothing'}",
            )
        with self.stage("look at the target from inside"):
            self._look_inside(lived)

    def _look_inside(self, lived: LivedIn) -> None:
        before = person_on(lived.disk)
        name = self.ssh.run("hostname; cat /etc/hostname").split()
        self.prove(
            "hostname", name == [TARGET_HOSTNAME] * 2, f"{before.hostname} → {' '.join(name)}"
        )
        own_id = self.ssh.run("cat /etc/machine-id").strip()
        new = len(own_id) == 32 and own_id != before.machine_id
        self.prove("machine-id", new, f"{before.machine_id} → {own_id}")
        keys = set(self.ssh.run("cut -d' ' -f2 /etc/ssh/ssh_host_*_key.pub").split())
        own = bool(keys) and bool(before.host_keys) and not keys & before.host_keys
        self.prove("host-keys", own, f"{len(keys)} keys, {len(keys & before.host_keys)} shared")
        links = json.loads(self.ssh.run("ip -json address show"))
        found = {
            (link["ifname"], link["address"], f"{a['local']}/{a['prefixlen']}")
            for link in links
            for a in link["addr_info"]
            if a["family"] == "inet" and link["ifname"] != "lo"
        }
        wanted = {("lan0", TARGET_MAC, f"{TARGET_ADDRESS}/24")}
        route = self.ssh.run("ip route show default").strip()
        self.prove("network", found == wanted and "via 10.0.2.2" in route, f"{found}, {route}")
        faults = kernel_view_faults(self.ssh.run(KERNEL_VIEW))
        self.prove("kernel-view", not faults, f"missing: {faults}" if faults else "all as set")
        failed = self.ssh.run("systemctl --failed --plain --no-legend").split("\n")[0]
        self.prove("healthy", not failed.strip(), failed.strip() or "no failed unit")

    def stop(self) -> None:
        """End all that runs."""
        if self.target:
            self.target.stop()
        self.server.stop()

    def clean(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _machine(self, hardware: Hardware) -> Machine:
        return Machine(hardware, self.folder, self.image / "vmlinuz")

    def _indented(self, line: str) -> None:
        self.tell(f"   {line}")

    def _demand(self, holds: bool, fault: str, machine: Machine) -> None:
        if not holds:
            log = "\n".join(self.server.log.splitlines()[-20:])
            raise AssertionError(f"{fault}\n{machine.console.tail(60)}\nserver:\n{log}")


def live_in(firmware: Firmware, made: Path, folder: Path, tell: Tell = lambda _: None) -> LivedIn:
    """Return a source server that has booted once, lived, and was switched off cleanly."""
    disk = copy_disk(made / "disk.raw", folder / "source.raw")
    hardware = Hardware(
        "source",
        firmware,
        uuid=SOURCE_UUID,
        disks=(Disk(disk, source.SERIAL, boot=1),),
        nics=(Nic(SOURCE_MAC, boot=2),),
    )
    with Machine(hardware, folder, made / "vmlinuz") as machine:
        console = machine.console
        console.expect(r"login: ", BOOT_S)
        tell("   it is up: logging in on its serial console")
        console.send_line("root")
        console.expect(r"Password: ", 60)
        console.send_line(source.PASSWORD)
        console.expect(r"# ", 60)
        console.send_line("live-in")
        seed = console.expect(r"live-in done ([0-9a-f]{32})", 240).group(1)
        tell("   it has lived: host keys, xattrs, ACLs, links, holes, and a deleted file")
        console.send_line("poweroff")
        machine.wait_off(OFF_S)
    canary = hashlib.sha256(f"canary {seed}".encode()).hexdigest()
    return LivedIn(disk, canary.encode())


def machine_id(mac: str) -> str:
    return mac.replace(":", "-")


def wait_for_machine(server: Server, machine: Machine, mac: str, timeout_s: float = 320) -> None:
    """Wait until the server knows the machine, which is when its agent has said hello."""
    until = time.monotonic() + timeout_s
    while not any(
        known["id"] == machine_id(mac) and known["inventory_at"]
        for known in server.ask("machine", "ls")
    ):
        if time.monotonic() > until or not machine.running:
            raise AssertionError(f"{mac} did not appear at the server\n{machine.console.tail()}")
        time.sleep(1)
