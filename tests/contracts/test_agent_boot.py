"""The netbooted agent against the real server: it claims, works, reports, or says what is wrong."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.client import ServerClient
from agent.console import Console, Screen
from agent.errors import ClaimRefused, ServerError, UsageError
from agent.flows.boot import NetbootedAgent, macs_of
from agent.flows.start import read_bootargs, tell_trouble
from agent.model.inventory import Drive, Inventory, Nic
from agent.model.job import Finish
from agent.system.command import Run
from agent.trust.claims import TrustedClaim
from agent.trust.keyring import Keyring
from tests.contracts.api_server import AGENT, MACHINE, SECOND, Api, make_inventory


@dataclass
class Terminal:
    """A console whose words a test can read."""

    ends: tuple[int, int] = field(default_factory=os.pipe)

    def __post_init__(self) -> None:
        os.set_blocking(self.ends[0], False)
        self.console = Console([Screen(self.ends[1])], [])

    @property
    def text(self) -> str:
        self.console.drain()
        return os.read(self.ends[0], 1 << 20).decode()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    os.close(terminal.ends[1])


def inventory(**changes: object) -> Inventory:
    nic = Nic(name="eth0", mac=MACHINE.replace("-", ":"), driver="virtio_net", link=True, boot=True)
    return make_inventory(nics=(nic,), **changes)


def agent_at(api: Api, terminal: Terminal, agent: str = AGENT) -> NetbootedAgent:
    slept: list[float] = []
    server = ServerClient(api.url)
    return NetbootedAgent(
        Run(), terminal.console, server, Keyring(), None, agent, sleep=slept.append
    )


def claim(agent: NetbootedAgent) -> TrustedClaim:
    found = agent.server.claim(MACHINE, agent.agent, 0, ())
    assert found is not None
    return found


def test_an_inspection_from_hello_to_done(api: Api, terminal: Terminal) -> None:
    agent = agent_at(api, terminal)
    assert agent.hello(inventory()) == MACHINE
    job = api.make_job()
    assert agent.do(claim(agent), inventory()) is Finish.STAY
    assert api.job(job)["state"] == "succeeded"
    assert terminal.text.endswith("done\n")


def test_a_disk_that_is_not_there_is_told_here_and_at_the_server(
    api: Api, terminal: Terminal
) -> None:
    agent = agent_at(api, terminal)
    agent.hello(inventory())
    job = api.make_job(kind="capture", name="web", disk={"serial": "NONE"})
    drive = Drive(
        path="/dev/vda",
        size_bytes=2**30,
        sector_bytes=512,
        physical_sector_bytes=512,
        serial="REAL",
    )
    place = inventory(disks=(drive,))
    assert agent.do(claim(agent), place) is Finish.STAY
    failure = api.job(job)["failure"]
    assert failure["status"] == 3
    assert failure["disk"] == "unchanged"
    assert "none of 1 disks is the one meant (serial=NONE)" in failure["summary"]
    assert failure["hint"] == "name the disk: metalcast.disk.serial=REAL"
    shown = terminal.text
    assert "none of 1 disks is the one meant" in shown
    assert "metalcast.disk.serial=REAL" in shown


def test_a_second_agent_with_the_same_identity_gets_nothing(api: Api, terminal: Terminal) -> None:
    first, second = agent_at(api, terminal), agent_at(api, terminal, SECOND)
    first.hello(inventory())
    second.hello(inventory())
    api.make_job()
    claim(first)
    with pytest.raises(ClaimRefused, match="another agent works on") as error:
        second.server.claim(MACHINE, SECOND, 0, ())
    assert error.value.hint == "is a second machine using the same MAC?"


def test_a_cancelled_job_stops_the_agent(api: Api, terminal: Terminal) -> None:
    agent = agent_at(api, terminal)
    agent.hello(inventory())
    job = api.make_job(kind="capture", name="web")
    taken = agent.server.claim(MACHINE, AGENT, 0, ())
    assert taken is not None
    api.post(f"/api/v1/jobs/{job}/cancel")
    assert agent.do(taken, inventory()) is Finish.STAY
    assert api.job(job)["state"] == "cancelled"


def test_a_server_that_stays_away_ends_in_a_clear_error(terminal: Terminal) -> None:
    agent = NetbootedAgent(
        Run(),
        terminal.console,
        ServerClient("http://127.0.0.1:1"),
        Keyring(),
        None,
        AGENT,
        sleep=lambda _: None,
    )
    with pytest.raises(ServerError, match="no answer from http://127.0.0.1:1"):
        agent.hello(inventory())
    assert "trying again in 30 s" in terminal.text


def test_the_card_that_booted_names_the_machine() -> None:
    other = Nic(name="eth1", mac="52:54:00:00:00:99", driver=None, link=False)
    found = inventory()
    both = make_inventory(nics=(other, *found.nics))
    assert macs_of(both) == (MACHINE, "52-54-00-00-00-99")


def test_an_agent_that_cannot_work_tells_the_server(
    api: Api, terminal: Terminal, tmp_path: Path
) -> None:
    cmdline = tmp_path / "cmdline"
    cmdline.write_text(f"quiet metalcast.server={api.url} metalcast.bogus=1 BOOTIF=01-{MACHINE}")
    with pytest.raises(UsageError, match=r"unknown kernel argument metalcast\.bogus") as refused:
        read_bootargs(cmdline)
    tell_trouble(cmdline, terminal.console, refused.value)
    assert "The server was told." in terminal.text
    (machine,) = api.get("/api/v1/machines").json()
    assert "metalcast.bogus" in machine["trouble"]
    agent_at(api, terminal).hello(replace(inventory(), nics=inventory_nics(machine["id"])))
    (machine,) = api.get("/api/v1/machines").json()
    assert machine["trouble"] is None


def inventory_nics(machine: str) -> tuple[Nic, ...]:
    mac = machine.replace("-", ":")
    return (Nic(name="eth0", mac=mac, driver=None, link=True, boot=True),)
