"""An image with keys: what nobody vouches for is refused before the first write, in words."""

from pathlib import Path

import pytest

from agent.errors import ExitStatus
from agent.model.layout import Swap
from agent.model.nodes import Partition
from agent.model.template import TemplateConfig
from agent.store.registry import RegistryClient
from agent.store.target import RegistryTarget
from agent.stream.capture import capture_template
from agent.stream.chunks import VolumeSource
from agent.units import Extent, GiB, KiB
from netboot.signing import make_key, open_server_key, write_key_pair
from tests.harness.disks import disk_digest, make_dirty_disk
from tests.harness.flow import machine_id
from tests.harness.image import build_image
from tests.harness.machine import Disk
from tests.harness.server import Server
from tests.qemu.agents import BOOT_S, JOB_S, agent_machine, deploy_job, ended
from tests.unit.make_plan import make_template

pytestmark = pytest.mark.qemu

MAC = "52:54:00:12:34:41"
CONSENT = ["linux_raid_member"]


def push_template(server: Server, folder: Path) -> str:
    """Push a template that can be planned; what is on its volumes does not matter here."""
    config: TemplateConfig = make_template()
    disk = folder / "source.raw"
    with disk.open("wb") as file:
        file.truncate(config.layout.disks[0].size_bytes)
    sources = []
    for volume in config.layout.volumes:
        node = config.layout.node(volume.on)
        offset = node.offset_bytes if isinstance(node, Partition) else 0
        if not isinstance(volume.content, Swap):
            used = (Extent(0, min(volume.size_bytes, 64 * KiB)),)
            sources.append(VolumeSource(volume, disk, offset, used, serial="SOURCE"))
    client = RegistryClient(server.url, "demo", server.token_file.read_text().strip())
    digest = capture_template(RegistryTarget(client), config, sources, tag="latest").digest
    client.close()
    return digest


def test_only_a_template_that_is_signed_gets_as_far_as_a_plan(tmp_path: Path) -> None:
    data = tmp_path / "server"
    data.mkdir(mode=0o700)
    server_key = open_server_key(data).public.name
    key = make_key()
    public = write_key_pair(key, tmp_path / "mine.key", None)
    image = build_image(
        tmp_path / "image",
        *("--template-key", str(public)),
        *("--server-key", str(data / "server.pub")),
    )
    server = Server(tmp_path, image, data)
    server.start()
    try:
        digest = push_template(server, tmp_path)
        disk = make_dirty_disk(tmp_path / "target.raw", 5 * GiB, seed=5)
        before = disk_digest(disk)
        where = f"metalcast.server={server.guest_url}"
        with agent_machine(
            "trust", tmp_path, image, MAC, where, (Disk(disk, "TARGET"),)
        ) as machine:
            console = machine.console
            console.expect(f"Templates must be signed by {key.public.name}", BOOT_S)
            console.expect(f"Jobs must be signed by {server_key}", 30)

            job = deploy_job(server, MAC, disk={"serial": "TARGET"}, consent=CONSENT)
            console.expect(rf"Job {job}: deploy \(signed by {server_key}\)", BOOT_S)
            failure = ended(server, job)["failure"]
            assert "the template demo is not signed" in failure["summary"]
            assert key.public.name in failure["summary"]
            assert (failure["disk"], failure["status"]) == ("unchanged", ExitStatus.REFUSED)
            console.expect("error: the template demo is not signed", 30)
            console.expect("disk +unchanged", 30)
            console.expect(f"try +metalcast template sign demo@{digest}", 30)
            assert disk_digest(disk) == before

            server.run("template", "sign", "demo", "--key", tmp_path / "mine.key")
            job = deploy_job(server, MAC, disk={"serial": "TARGET"}, consent=CONSENT)
            console.expect(f"Signature +signed by {key.public.name}", JOB_S)
            shown = server.ask("machine", "show", machine_id(MAC))["machine"]
            assert shown["keys"] == {"templates": [key.public.name], "server": [server_key]}
    finally:
        server.stop()
