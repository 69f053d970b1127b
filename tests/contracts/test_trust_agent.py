"""What an agent takes from a server, and what it refuses, with keys and without."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from agent.client import ServerClient
from agent.errors import ExitStatus
from agent.flows.boot import NetbootedAgent
from agent.flows.deploy import trust_template
from agent.flows.workplace import Workplace
from agent.model.inventory import Drive
from agent.model.job import CaptureSpec, Finish
from agent.system.command import Run
from agent.trust.keyring import Keyring, read_key
from agent.trust.minisign import TrustError
from netboot.signing import make_key
from tests.contracts.api_server import (
    AGENT,
    MACHINE,
    NONCE,
    make_inventory,
)
from tests.contracts.test_agent_boot import Terminal, inventory
from tests.contracts.trust_shop import Shop


def place_of(shop: Shop, keyring: Keyring) -> Workplace:
    return Workplace(Run(), make_inventory(), lambda _: None, shop.client, keyring)


def test_a_deployment_by_tag_or_digest_needs_the_signature(shop: Shop) -> None:
    shop.sign(key := shop.key("mine"))
    mine = Keyring((read_key(key.with_suffix(".pub")),))
    for reference in ("latest", shop.digest):
        assert trust_template(place_of(shop, mine), "demo:latest", reference).signed
    other = Keyring((make_key().public,))
    with pytest.raises(TrustError, match="not trusted"):
        trust_template(place_of(shop, other), "demo", shop.digest)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    os.close(terminal.ends[1])


AgentAt = Callable[[Keyring], NetbootedAgent]


@pytest.fixture
def agent_at(shop: Shop, terminal: Terminal) -> AgentAt:
    def make(keyring: Keyring) -> NetbootedAgent:
        server = ServerClient(shop.api.url)
        return NetbootedAgent(Run(), terminal.console, server, keyring, None, AGENT)

    return make


def server_key(shop: Shop) -> Keyring:
    return Keyring((), (read_key(shop.api.context.settings.data / "server.pub"),))


def test_an_agent_takes_jobs_of_the_server_whose_key_it_has(
    shop: Shop, agent_at: AgentAt, terminal: Terminal
) -> None:
    ring = server_key(shop)
    agent = agent_at(ring)
    agent.hello(inventory())
    shop.api.make_job()
    trusted = agent.server.claim(MACHINE, AGENT, 0, ring.server)
    assert trusted is not None
    assert agent.do(trusted, inventory()) is Finish.STAY
    assert f"signed by {ring.server[0].name}" in terminal.text


def test_an_agent_of_another_server_takes_none(shop: Shop, agent_at: AgentAt) -> None:
    ring = Keyring((), (make_key().public,))
    agent = agent_at(ring)
    agent.hello(inventory())
    shop.api.make_job()
    with pytest.raises(TrustError, match="trusted are"):
        agent.server.claim(MACHINE, AGENT, 0, ring.server)


def test_a_pass_is_answered_by_a_signed_job(shop: Shop, agent_at: AgentAt) -> None:
    ring = server_key(shop)
    agent = agent_at(ring)
    agent.hello(inventory())
    codes = [shop.api.post("/api/v1/passes", {"name": "web"}).json()["code"] for _ in range(2)]
    spec = CaptureSpec(name="web")
    with pytest.raises(TrustError, match="trusted are"):
        agent.server.redeem(codes[0], MACHINE, AGENT, spec, (make_key().public,))
    job = shop.api.get("/api/v1/jobs").json()[0]["id"]
    shop.api.post(f"/api/v1/jobs/{job}/cancel")
    trusted = agent.server.redeem(codes[1], MACHINE, AGENT, spec, ring.server)
    assert trusted.claim.job.spec == spec


def test_a_pass_whose_job_was_changed_on_the_way_is_given_up(shop: Shop) -> None:
    """The request is not signed; the answer says what became of it."""
    shop.api.hello()
    code = shop.api.post("/api/v1/passes", {"name": "web"}).json()["code"]

    class Changing(ServerClient):
        def _call(self, method: str, path: str, body: bytes | None = None) -> requests.Response:
            assert body is not None
            return super()._call(method, path, body.replace(b'"level":3', b'"level":9'))

    with pytest.raises(TrustError, match="another job than the pass"):
        Changing(shop.api.url).redeem(
            code, MACHINE, AGENT, CaptureSpec(name="web", level=3), server_key(shop).server
        )


def test_an_answer_is_good_for_one_request(shop: Shop) -> None:
    """A proxy that gives an old answer again gives nothing."""
    shop.api.hello()
    shop.api.make_job()
    old = shop.api.claim()

    class Replaying(ServerClient):
        def _call(self, *_: Any, **__: Any) -> requests.Response:
            return old

    client = Replaying(shop.api.url)
    for keys in (server_key(shop).server, ()):
        with pytest.raises(TrustError, match="not to this request"):
            client.claim(MACHINE, AGENT, 0, keys)
    assert json.loads(old.json()["document"])["nonce"] == NONCE


def test_a_wrong_clock_is_said_and_does_no_harm(
    shop: Shop, agent_at: AgentAt, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = server_key(shop)
    agent = agent_at(ring)
    agent.hello(inventory())
    shop.api.make_job()
    trusted = agent.server.claim(MACHINE, AGENT, 0, ring.server)
    assert trusted is not None
    now = time.time()
    monkeypatch.setattr("agent.flows.boot.time.time", lambda: now - 400 * 86400)
    agent.do(trusted, inventory())
    assert "clock is 400 days behind the server's" in terminal.text


def test_an_unsigned_template_ends_the_job_with_the_disk_unchanged(
    shop: Shop, agent_at: AgentAt, terminal: Terminal, tmp_path: Path
) -> None:
    key = make_key().public
    agent = agent_at(replace_templates(server_key(shop), key))
    agent.hello(inventory())
    disk = tmp_path / "disk"
    disk.write_bytes(b"old" * 1000)
    drive = Drive(
        path=str(disk), size_bytes=3000, sector_bytes=512, physical_sector_bytes=512, serial="S"
    )
    job = shop.api.make_job(kind="deploy", template="demo")
    trusted = agent.server.claim(MACHINE, AGENT, 0, agent.keyring.server)
    assert trusted is not None
    agent.do(trusted, inventory(disks=(drive,)))
    failure = shop.api.job(job)["failure"]
    assert "the template demo is not signed" in failure["summary"]
    assert key.name in failure["summary"]
    assert (failure["disk"], failure["status"]) == ("unchanged", ExitStatus.REFUSED)
    assert failure["hint"].startswith("metalcast template sign demo@sha256:")
    assert disk.read_bytes() == b"old" * 1000


def replace_templates(ring: Keyring, *keys: Any) -> Keyring:
    return Keyring(keys, ring.server)


def test_what_an_image_trusts_is_shown(shop: Shop, agent_at: AgentAt) -> None:
    agent_at(Keyring()).hello(inventory())
    status, out, _ = shop.ask("machine", "show", MACHINE)
    assert (status, out.count("UNSIGNED ones are taken")) == (0, 2)
    ring = replace_templates(server_key(shop), make_key().public)
    agent_at(ring).hello(inventory())
    agent_at(Keyring()).hello(inventory(), trouble="cannot read its keys")
    out = shop.ask("machine", "show", MACHINE)[1]
    for key in (*ring.templates, *ring.server):
        assert f"must be signed by {key.name}" in out
    keys = shop.api.get(f"/api/v1/machines/{MACHINE}").json()["keys"]
    assert keys == {"templates": [ring.templates[0].name], "server": [ring.server[0].name]}
