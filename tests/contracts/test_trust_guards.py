"""The keys of an image are those that its flows ask for; limits hold where signatures are made."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agent.bootargs import parse_bootargs
from agent.client import ServerClient
from agent.flows.boot import NetbootedAgent
from agent.flows.rescue import Rescue
from agent.model.job import CaptureSpec, Finish
from agent.system.command import Run
from agent.trust.claims import TrustedClaim
from agent.trust.keyring import Keyring, read_key
from agent.trust.minisign import TrustError
from agent.trust.templates import SIGNATURES_MAX, signature_tag
from netboot.signing import make_key
from tests.contracts.api_server import AGENT, MACHINE
from tests.contracts.test_agent_boot import Terminal, inventory
from tests.contracts.trust_shop import Shop

STRANGER = Keyring((), (make_key().public,))
SPEC = CaptureSpec(name="web")


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    os.close(terminal.ends[1])


@pytest.fixture
def agent(
    shop: Shop, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Keyring], NetbootedAgent]:
    monkeypatch.setattr("agent.flows.boot.probe_inventory", lambda *_, **__: inventory())

    def make(keyring: Keyring) -> NetbootedAgent:
        server = ServerClient(shop.api.url)
        return NetbootedAgent(Run(), terminal.console, server, keyring, None, AGENT)

    return make


def ours(shop: Shop) -> Keyring:
    return Keyring((), (read_key(shop.api.context.settings.data / "server.pub"),))


def test_an_agent_at_work_asks_for_the_keys_of_its_image(
    shop: Shop, agent: Callable[[Keyring], NetbootedAgent]
) -> None:
    shop.api.make_job(kind="inspect", finish="reboot")
    with pytest.raises(TrustError, match="trusted are"):
        agent(STRANGER).work()
    assert agent(ours(shop)).work() is Finish.REBOOT


class Typed:
    """A person who answers each question with a pass."""

    def __init__(self, code: str) -> None:
        self.code = code

    def ask(self, text: str, parse: Callable[[str], Any], **_: Any) -> Any:
        return parse(self.code)


@pytest.fixture
def rescued(
    terminal: Terminal, agent: Callable[[Keyring], NetbootedAgent]
) -> Callable[[Keyring, str], TrustedClaim]:
    """What a technician gets who has a medium with these keys and types this pass."""
    agent(Keyring()).hello(inventory())

    def claim(keyring: Keyring, code: str) -> TrustedClaim:
        questions: Any = Typed(code)
        rescue = Rescue(Run(), terminal.console, parse_bootargs(""), questions, keyring)
        return rescue._claim(questions, agent(keyring), MACHINE, SPEC)

    return claim


def test_a_technician_takes_a_waiting_job_from_a_server_that_the_medium_knows(
    shop: Shop, rescued: Callable[[Keyring, str], TrustedClaim]
) -> None:
    job = shop.api.make_job(kind="capture", name="web")
    with pytest.raises(TrustError, match="trusted are"):
        rescued(STRANGER, "")
    assert rescued(ours(shop), "").claim.job.id == job


def test_a_technicians_pass_is_good_at_a_server_that_the_medium_knows(
    shop: Shop, rescued: Callable[[Keyring, str], TrustedClaim]
) -> None:
    codes = [shop.api.post("/api/v1/passes", {"name": "web"}).json()["code"] for _ in range(2)]
    with pytest.raises(TrustError, match="trusted are"):
        rescued(STRANGER, codes[0])
    shop.api.post(f"/api/v1/jobs/{shop.api.get('/api/v1/jobs').json()[0]['id']}/cancel")
    assert rescued(ours(shop), codes[1]).claim.job.spec == SPEC


def test_a_manifest_that_another_tool_deletes_takes_its_signatures_along(shop: Shop) -> None:
    shop.sign(shop.key("mine"))
    tag = signature_tag(shop.digest)
    assert shop.client.find_manifest(tag) is not None
    answer = shop.api.call("DELETE", f"/v2/demo/manifests/{shop.digest}")
    assert answer.status_code == 202, answer.text
    assert shop.client.find_manifest(tag) is None


def test_nobody_can_sign_more_than_agents_read(shop: Shop) -> None:
    keys = [shop.key(f"key{number}") for number in range(SIGNATURES_MAX + 1)]
    for number, key in enumerate(keys[:-1], start=1):
        assert shop.sign(key)["signatures"] == number
    status, _, err = shop.ask("template", "sign", "demo", "--key", str(keys[-1]))
    assert status == 3
    assert "demo has 16 signatures: no more may be" in err
    assert shop.sign(keys[0])["signatures"] == SIGNATURES_MAX
