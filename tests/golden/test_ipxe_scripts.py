"""The boot scripts, letter by letter. `METALCAST_GOLDEN=write` writes them anew: read the diff."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from netboot import ipxe

FOLDER = Path(__file__).parent / "ipxe"
MACHINE = "52-54-00-12-34-56"
SERVER = "http://10.0.2.2:8470"
SCRIPTS: dict[str, Callable[[], str]] = {
    "boot.ipxe": ipxe.render_boot,
    "agent-waiting.ipxe": lambda: ipxe.render_agent(MACHINE, SERVER),
    "agent-job.ipxe": lambda: ipxe.render_agent(MACHINE, SERVER, "j-0123456789ab"),
    "agent-arguments.ipxe": lambda: ipxe.render_agent(
        MACHINE, "https://boot.example/metalcast", None, ("console=ttyS1,9600", "quiet")
    ),
    "disk.ipxe": lambda: ipxe.render_disk(MACHINE, "its last job is done"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_script(name: str) -> None:
    script = SCRIPTS[name]()
    path = FOLDER / name
    if os.environ.get("METALCAST_GOLDEN") == "write":
        path.write_text(script)
    assert script == path.read_text()


def test_every_golden_script_is_compared() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_ipxe_can_read_it(name: str) -> None:
    lines = SCRIPTS[name]().splitlines()
    assert lines[0] == "#!ipxe"
    assert all(len(line) < 1024 for line in lines), "iPXE's lines are short"
    labels = {line[1:] for line in lines if line.startswith(":")}
    for line in lines:
        if " goto " in f" {line}":
            assert line.split("goto ")[1].split()[0] in labels
