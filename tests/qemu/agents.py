"""Machines that start the agent at once, past firmware and iPXE: cheap enough for bad input."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.harness.flow import machine_id
from tests.harness.machine import Disk, Hardware, Kernel, Machine, Nic
from tests.harness.server import Server

BOOT_S = 240
JOB_S = 400


def agent_machine(
    name: str,
    folder: Path,
    image: Path,
    mac: str,
    arguments: str,
    disks: Iterable[Disk] = (),
) -> Machine:
    """Return a running machine whose kernel gets `arguments` besides what iPXE would give it."""
    words = f"console=ttyS0,115200 BOOTIF=01-{machine_id(mac)} {arguments}"
    hardware = Hardware(
        name,
        memory_mib=768,
        disks=tuple(disks),
        nics=(Nic(mac),),
        kernel=Kernel(image / "vmlinuz", image / "initrd.img", words),
    )
    return Machine(hardware, folder, image / "vmlinuz")


def deploy_job(server: Server, mac: str, template: str = "demo", **spec: Any) -> str:
    """Make a deploy job and return its id."""
    path = server.data / f"spec-{time.monotonic_ns()}.json"
    path.write_text(json.dumps({"kind": "deploy", "template": template, **spec}))
    job = server.ask(
        *("job", "create", "deploy", "--machine", machine_id(mac)),
        *("--template", template, "--spec", str(path)),
    )
    return str(job["id"])


def ended(server: Server, job: str, timeout_s: float = JOB_S) -> dict[str, Any]:
    """Wait until the job has ended and return it."""
    server.watch(job, timeout_s=timeout_s)
    return dict(server.ask("job", "show", job))
