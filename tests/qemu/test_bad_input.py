"""What must not work, and how it says so: at the machine's console and at the server."""

import http.server
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.errors import ExitStatus
from agent.units import GiB
from tests.harness import source
from tests.harness.disks import copy_disk, disk_digest, make_dirty_disk, make_disk
from tests.harness.flow import LivedIn, machine_id
from tests.harness.machine import Disk, Firmware, Hardware, Machine
from tests.harness.server import CommandFailed, Server
from tests.harness.treedigest import root_partition
from tests.qemu.agents import BOOT_S, JOB_S, agent_machine, deploy_job, ended
from tests.qemu.conftest import Flown

pytestmark = pytest.mark.qemu

MAC = "52:54:00:12:34:21"
CONSENT = ["linux_raid_member"]


@pytest.fixture(scope="module")
def stocked(flown: Callable[[Firmware], Flown]) -> Server:
    """A server whose store has the template `demo`."""
    result = flown("bios")
    if not any(proof.name == "template-listed" for proof in result.flow.proofs):
        raise AssertionError("there is no template to go on with") from result.stopped
    return result.flow.server


def test_a_disk_must_be_the_one_that_is_meant_and_fit(
    stocked: Server, image: Path, tmp_path: Path
) -> None:
    """Too small, several that match, none that matches, valuable: refused, with nothing written."""
    large = make_dirty_disk(tmp_path / "large.raw", 5 * GiB, seed=2)
    small = make_disk(tmp_path / "small.raw", GiB)
    before = disk_digest(large), disk_digest(small)
    cases: tuple[tuple[dict[str, str], str], ...] = (
        ({"serial": "SMALL"}, r"demo needs 2\.0 GiB .*, /dev/vdb has 1\.0 GiB"),
        ({}, r"2 disks match .* one is wanted.*--disk-serial LARGE.*--disk-serial SMALL"),
        ({"serial": "OTHER"}, r"none of 2 disks is the one meant \(serial=OTHER\)"),
        ({"serial": "LARGE"}, r"/dev/vda holds linux_raid_member.* only with the consent"),
    )
    disks = Disk(large, "LARGE"), Disk(small, "SMALL")
    where = f"metalcast.server={stocked.guest_url}"
    with agent_machine("choice", tmp_path, image, MAC, where, disks) as machine:
        for hints, message in cases:
            job = ended(stocked, deploy_job(stocked, MAC, disk=hints))
            assert job["state"] == "failed"
            assert re.search(message, job["failure"]["summary"]), job["failure"]
            assert job["failure"]["disk"] == "unchanged"
            assert job["failure"]["status"] == ExitStatus.REFUSED
            machine.console.expect(f"error: .*{message}", 30)
            machine.console.expect("disk +unchanged", 30)
    assert (disk_digest(large), disk_digest(small)) == before


def test_a_damaged_template_leaves_a_disk_that_does_not_boot(
    stocked: Server, image: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(stocked.data, data)
    server = Server(tmp_path, image, data)
    pack = max(server.blobs(), key=lambda blob: blob.stat().st_size)
    pack.chmod(0o644)
    with pack.open("r+b") as file:
        file.seek(pack.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    disk = make_dirty_disk(tmp_path / "target.raw", 3 * GiB, seed=3)
    server.start()
    try:
        where = f"metalcast.server={server.guest_url}"
        disks = (Disk(disk, "TARGET"),)
        with agent_machine("damaged", tmp_path, image, MAC, where, disks) as machine:
            job = ended(server, deploy_job(server, MAC, disk={"serial": "TARGET"}, consent=CONSENT))
            assert job["state"] == "failed"
            text = " ".join((job["failure"]["summary"], *job["failure"]["because"]))
            assert re.search("chunk .* does not have the digest", text), job["failure"]
            assert job["failure"]["status"] == ExitStatus.FAILED
            machine.console.expect("error: could not restore", 30)
            machine.console.expect("partly written, will not boot", 30)
    finally:
        server.stop()
    hardware = Hardware("half-done", disks=(Disk(disk, "TARGET", boot=1),))
    with Machine(hardware, tmp_path, image / "vmlinuz") as machine:
        machine.console.expect("This disk is half deployed by Metalcast", BOOT_S)
        machine.console.expect("No bootable device", BOOT_S)
        assert "GRUB" not in machine.console.text


@pytest.mark.parametrize("wrong", ["unknown", "misspelt value", "secret"])
def test_an_argument_that_is_not_ours_is_an_error(
    wrong: str, stocked: Server, image: Path, tmp_path: Path
) -> None:
    words, said = {
        "unknown": ("metalcast.tmplate=x", r"unknown kernel argument metalcast\.tmplate"),
        "misspelt value": ("metalcast.mode=deploi", r"metalcast\.mode"),
        "secret": ("metalcast.token=abc", r"metalcast\.token"),
    }[wrong]
    disk = make_dirty_disk(tmp_path / "disk.raw", GiB)
    before = disk_digest(disk)
    where = f"metalcast.server={stocked.guest_url} {words}"
    with agent_machine("argument", tmp_path, image, MAC, where, (Disk(disk, "X"),)) as machine:
        machine.console.expect(f"error: .*{said}", BOOT_S)
        machine.console.expect("disk +unchanged", 30)
        machine.console.expect("ended with status 2", 60)
    assert disk_digest(disk) == before


def test_an_unknown_template_makes_no_job(stocked: Server) -> None:
    with pytest.raises(CommandFailed, match="unknown template nope; known: demo"):
        deploy_job(stocked, MAC, template="nope")


class _OtherServer(http.server.BaseHTTPRequestHandler):
    """Some web server that is not ours."""

    def do_GET(self) -> None:
        body = b"<html><h1>It works!</h1></html>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def other_server() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _OtherServer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_another_web_server_is_recognised(other_server: int, image: Path, tmp_path: Path) -> None:
    disk = make_dirty_disk(tmp_path / "disk.raw", GiB)
    before = disk_digest(disk)
    where = f"metalcast.server=http://10.0.2.2:{other_server}"
    with agent_machine("wrong", tmp_path, image, MAC, where, (Disk(disk, "X"),)) as machine:
        machine.console.expect(rf"http://10\.0\.2\.2:{other_server}.*(not|no) ", BOOT_S)
        assert "Traceback" not in machine.console.text
    assert disk_digest(disk) == before


def test_without_a_server_the_agent_says_so_and_goes_on_when_it_comes(
    image: Path, tmp_path: Path
) -> None:
    disk = make_dirty_disk(tmp_path / "disk.raw", GiB)
    before = disk_digest(disk)
    server = Server(tmp_path, image)
    where = f"metalcast.server={server.guest_url}"
    with agent_machine("alone", tmp_path, image, MAC, where, (Disk(disk, "X"),)) as machine:
        machine.console.expect(rf"no answer from {re.escape(server.guest_url)}.*again", BOOT_S)
        server.start()
        try:
            machine.console.expect(f"This machine is {machine_id(MAC)}", 120)
        finally:
            server.stop()
    assert disk_digest(disk) == before


def test_a_dirty_source_is_refused_and_not_touched(
    stocked: Server, lived: LivedIn, image: Path, tmp_path: Path
) -> None:
    disk = copy_disk(lived.disk, tmp_path / "source.raw")
    place = f"{disk}?offset={root_partition(disk).offset}"
    subprocess.run(["/sbin/debugfs", "-w", "-R", "feature needs_recovery", place], check=True)
    before = disk_digest(disk)
    where = f"metalcast.server={stocked.guest_url}"
    disks = (Disk(disk, source.SERIAL),)
    with agent_machine("dirty", tmp_path, image, MAC, where, disks) as machine:
        words = ("job", "create", "capture", "--machine", machine_id(MAC), "--name", "dirty")
        job = ended(stocked, stocked.ask(*words)["id"])
        assert job["state"] == "failed"
        assert job["failure"]["status"] == ExitStatus.REFUSED
        machine.console.expect(r"error: .*(journal|recover|unclean|clean)", 30)
    assert disk_digest(disk) == before
    assert "dirty" not in stocked.run("template", "ls")


def test_of_two_agents_with_one_identity_one_writes(
    stocked: Server, image: Path, tmp_path: Path
) -> None:
    mac = "52:54:00:12:34:22"
    disks = [make_dirty_disk(tmp_path / f"{n}.raw", 3 * GiB, seed=4) for n in (0, 1)]
    before = [disk_digest(disk) for disk in disks]
    job = deploy_job(
        stocked, mac, disk={"serial": "TWIN"}, consent=CONSENT, finish="poweroff", verify="full"
    )
    where = f"metalcast.server={stocked.guest_url}"
    first, second = (
        agent_machine(f"twin{n}", tmp_path, image, mac, where, (Disk(disk, "TWIN"),))
        for n, disk in enumerate(disks)
    )
    with first, second:
        assert ended(stocked, job, 2 * JOB_S)["state"] == "succeeded"
        winners = [one for one in (first, second) if f"Job {job}" in one.console.text]
        assert len(winners) == 1, "both took the job"
        loser = second if winners == [first] else first
        loser.console.expect("waiting: ", 60)
    after = [disk_digest(disk) for disk in disks]
    unchanged = [old == new for old, new in zip(before, after, strict=True)]
    assert unchanged == [winners[0] is not first, winners[0] is not second]


def test_a_server_killed_in_the_middle_of_a_capture_loses_nothing(
    lived: LivedIn, image: Path, tmp_path: Path
) -> None:
    disk = copy_disk(lived.disk, tmp_path / "source.raw")
    before = disk_digest(disk)
    server = Server(tmp_path, image)
    server.start()
    try:
        words = ("job", "create", "capture", "--machine", machine_id(MAC), "--name", "survivor")
        job = server.ask(*words)["id"]
        where = f"metalcast.server={server.guest_url}"
        disks = (Disk(disk, source.SERIAL),)
        with agent_machine("survivor", tmp_path, image, MAC, where, disks) as machine:
            machine.console.expect(r"capture +[1-9]\d* (MiB|%)|capture +[\d.]+ MiB of", BOOT_S)
            server.kill()
            machine.console.expect(r"again|no answer|lost", 120)
            server.start()
            assert ended(server, job)["state"] == "succeeded"
            machine.wait_off(120)
        assert "survivor" in server.run("template", "ls")
        server.run("template", "show", "survivor")
    finally:
        server.stop()
    assert disk_digest(disk) == before
