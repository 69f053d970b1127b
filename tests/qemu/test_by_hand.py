"""A person at a shell of the boot image: inspect, plan, deploy, by their words and exit status.

One disk is written from Debian's docker-registry, behind a password and TLS, and one from a plain
nginx over an exported folder: no server of ours.
"""

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.units import GiB
from tests.contracts.peers import (
    PASSWORD,
    USER,
    Certificate,
    docker_registry,
    htpasswd_auth,
    make_certificate,
    nginx,
)
from tests.harness.disks import disk_digest, make_dirty_disk, make_disk
from tests.harness.flow import LivedIn
from tests.harness.machine import Disk, Firmware
from tests.harness.proofs import person_on
from tests.harness.server import Server
from tests.harness.treedigest import differences, tree_of
from tests.qemu.agents import BOOT_S, JOB_S, agent_machine
from tests.qemu.conftest import Flown

pytestmark = pytest.mark.qemu

MAC = "52:54:00:12:34:41"
STEP_S = 120


def test_inspect_plan_and_deploy_by_hand(
    flown: Callable[[Firmware], Flown], lived: LivedIn, image: Path, tmp_path: Path
) -> None:
    server = flown("bios").flow.server
    disk = make_dirty_disk(tmp_path / "target.raw", 3 * GiB, seed=6)
    second = make_disk(tmp_path / "second.raw", 3 * GiB)
    before = disk_digest(disk)
    store = f"--server {server.guest_url} --token-file /tmp/token --disk-serial BYHAND"
    disks = (Disk(disk, "BYHAND"), Disk(second, "SECOND"))
    with agent_machine("byhand", tmp_path, image, MAC, "metalcast.mode=shell", disks) as machine:
        say, expect = machine.console.send_line, machine.console.expect

        def run(words: str, status: int, timeout_s: float = STEP_S) -> str:
            machine.console.skip()
            say(f"python3 -m agent {words}; echo ended-with-$?")
            return expect(rf"(?s).*ended-with-{status}\n", timeout_s).group()

        expect("# ", BOOT_S)
        say("stty -echo")
        run("network", 0)
        say(f"echo '{server.token_file.read_text().strip()}' > /tmp/token")
        assert "BYHAND" in run("inspect", 0)
        assert '"serial": "BYHAND"' in run("inspect --json", 0)
        refused = run(f"plan {store} --template demo", 3)
        assert "only with the consent" in refused
        assert "unknown" in run(f"plan {store} --template nope", 3).lower()
        asked = f"{store} --template demo --consent linux_raid_member"
        page = run(f"plan {asked}", 0)
        assert "commit: final table" in page
        assert '"digest": "sha256:' in run(f"plan {asked} --json", 0)
        machine.console.skip()
        say(f"python3 -m agent deploy {asked}; echo ended-with-$?")
        expect(r"Write this to the disk\? ", STEP_S)
        say("no")
        expect("you said no", STEP_S)
        expect("ended-with-3", STEP_S)
        assert disk_digest(disk) == before
        certificate, auth = make_certificate(tmp_path), htpasswd_auth(tmp_path)
        with docker_registry(tmp_path / "docker", auth=auth, certificate=certificate) as url:
            move_template(server, f"{url}/v2/prod/demo", certificate, tmp_path)
            write = "open('/tmp/ca.pem','wb').write(base64.b64decode('{}'))"
            pem = base64.b64encode(certificate.cert.read_bytes()).decode()
            say(f'python3 -c "import base64; {write.format(pem)}"')
            say(f"echo '{PASSWORD}' > /tmp/password; rm /tmp/token")
            source = f"--source {as_guest(url)}/v2/prod/demo --template demo --disk-serial BYHAND"
            opens = f"--user {USER} --password-file /tmp/password --ca /tmp/ca.pem"
            consent = "--consent linux_raid_member"
            assert "no trust in its certificate" in run(f"plan {source} {consent}", 3)
            done = run(f"deploy {source} {opens} {consent} --hostname byhand --yes", 0, JOB_S)
        assert "it boots" in done
        folder = tmp_path / "www" / "exports" / "demo"
        server.run("template", "export", "demo", f"{folder}:latest", timeout_s=JOB_S)
        with nginx(tmp_path / "www", tmp_path / "nginx") as url:
            source = f"--source {as_guest(url)}/exports/demo --template demo --disk-serial SECOND"
            assert "consent duplicate-uuid" in run(f"plan {source}", 3)
            opens = "--consent duplicate-uuid --hostname second --yes"
            assert "it boots" in run(f"deploy {source} {opens}", 0, JOB_S)
        assert "GET /exports/demo/blobs/sha256/" in (tmp_path / "nginx" / "access").read_text()
    assert person_on(disk).hostname == "byhand"
    assert person_on(second).hostname == "second"
    assert differences(tree_of(lived.disk), tree_of(second)) == []


def as_guest(url: str) -> str:
    """Return a URL of this host as a guest reaches it."""
    return url.replace("127.0.0.1", "10.0.2.2")


def move_template(server: Server, place: str, certificate: Certificate, folder: Path) -> None:
    """Copy the template from the server to a registry that wants a password."""
    password = folder / "password"
    password.write_text(PASSWORD)
    server.ask(
        *("template", "copy", "demo", f"{place}:latest", "--to-user", USER),
        *("--to-password-file", str(password), "--to-ca", str(certificate.cert)),
    )
