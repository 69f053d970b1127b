"""`kill -9` of a real `metalcast serve`, at random moments: no job and no event is lost."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from agent.model.job import JobState
from tests.contracts.api_server import AGENT, NONCE, claim_of, event, log, make_hello

ROUNDS = 8
BY_AGENT = {"agent": AGENT, "nonce": NONCE}


class Child:
    """One server process after the other, on one data directory."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.url = ""
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> list[str]:
        """Start the server; return what it printed until it was ready."""
        words = [sys.executable, "-m", "netboot", "serve", "--data", str(self.data)]
        self.process = subprocess.Popen(
            [*words, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        printed = []
        for line in self.process.stdout:
            printed.append(line.rstrip())
            if line.startswith("listening on "):
                self.url = line.split()[-1]
                break
        assert self.url, printed
        return printed

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    def headers(self) -> dict[str, str]:
        token = (self.data / "operator-token").read_text().strip()
        return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    child = Child(tmp_path / "data")
    yield child
    if child.process is not None and child.process.poll() is None:
        child.kill()


def test_the_token_is_shown_once(child: Child) -> None:
    first = child.start()
    token = (child.data / "operator-token").read_text().strip()
    assert f"operator token: {token}" in first
    assert child.stop() == 0
    assert token not in "\n".join(child.start())


def test_sigterm_ends_it_though_agents_wait(child: Child) -> None:
    child.start()
    requests.post(
        f"{child.url}/api/v1/agents/hello",
        data=make_hello(),
        headers={"Content-Type": "application/json"},
        timeout=10,
    )
    machine = "52-54-00-12-34-56"
    answers: list[int] = []

    def wait() -> None:
        url = f"{child.url}/api/v1/machines/{machine}/claim?wait=50"
        answers.append(requests.post(url, json=BY_AGENT, timeout=60).status_code)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.5)
    begun = time.monotonic()
    assert child.stop() == 0
    assert time.monotonic() - begun < 8
    waiting.join(10)
    assert answers == [204]


def test_two_servers_never_share_a_data_directory(child: Child) -> None:
    child.start()
    words = [sys.executable, "-m", "netboot", "serve", "--data", str(child.data)]
    second = subprocess.run(
        [*words, "--listen", "127.0.0.1:0"], capture_output=True, text=True, timeout=30, check=False
    )
    assert second.returncode == 3
    assert "another server is using" in second.stderr


def test_kill_9_loses_nothing_that_was_answered(child: Child) -> None:
    seed = int(os.environ.get("METALCAST_SEED", random.randrange(2**32)))
    print(f"METALCAST_SEED={seed}")
    chance = random.Random(seed)
    made: dict[str, str] = {}  # job → machine
    kept: dict[str, int] = {}  # job → events that the server answered for
    ended: set[str] = set()
    for number in range(ROUNDS):
        child.start()
        check(child, made, kept, ended)
        killer = threading.Timer(chance.uniform(0.02, 0.5), child.kill)
        killer.start()
        with contextlib.suppress(requests.RequestException):
            work(child, number, made, kept, ended)
        killer.join()
    child.start()
    check(child, made, kept, ended)
    assert made, "the killer was always too early"


def work(
    child: Child, number: int, made: dict[str, str], kept: dict[str, int], ended: set[str]
) -> None:
    """Make and do jobs until the server dies."""
    for count in range(1000):
        machine = f"52-54-00-00-{number:02x}-{count % 256:02x}"
        body = {"machine": machine, "spec": {"kind": "inspect"}}
        answer = requests.post(
            f"{child.url}/api/v1/jobs", json=body, headers=child.headers(), timeout=10
        )
        if answer.status_code != 201:
            continue
        job = answer.json()["id"]
        made[job] = machine
        url = f"{child.url}/api/v1/machines/{machine}/claim"
        claim = claim_of(requests.post(url, json=BY_AGENT, timeout=10))
        headers = {"Authorization": f"Bearer {claim['token']}"}
        url = f"{child.url}/api/v1/jobs/{job}/events"
        for first in range(1, 6, 2):
            said = [event(first, **log("one")), event(first + 1, **log("two"))]
            assert requests.post(url, json=said, headers=headers, timeout=10).ok
            kept[job] = first + 1
        last = [event(7, kind="succeeded", result={})]
        assert requests.post(url, json=last, headers=headers, timeout=10).ok
        kept[job] = 7
        ended.add(job)


def check(child: Child, made: dict[str, str], kept: dict[str, int], ended: set[str]) -> None:
    headers = child.headers()
    listed = requests.get(f"{child.url}/api/v1/jobs", headers=headers, timeout=10).json()
    found = {job["id"]: job for job in listed}
    assert len(made) < 1000
    for job, machine in made.items():
        assert found[job]["machine"] == machine
        assert (job not in ended) or found[job]["state"] == JobState.SUCCEEDED
    for job, count in list(kept.items())[-20:]:
        url = f"{child.url}/api/v1/jobs/{job}/events"
        events = requests.get(url, headers=headers, timeout=10).json()
        numbers = [one["number"] for one in events]
        assert numbers == sorted(set(numbers))
        assert len(numbers) >= count, f"{job}: {count} were answered for"
        assert [one["sequence"] for one in events] == list(range(1, len(events) + 1))
        # a batch is kept whole or not at all
        assert len(numbers) in (0, 2, 4, 6, 7)


def test_an_agent_goes_on_with_its_token_after_a_restart(child: Child) -> None:
    child.start()
    machine = "52-54-00-12-34-56"
    body = {"machine": machine, "spec": {"kind": "inspect"}}
    job = requests.post(
        f"{child.url}/api/v1/jobs", json=body, headers=child.headers(), timeout=10
    ).json()["id"]
    url = f"{child.url}/api/v1/machines/{machine}/claim"
    token = claim_of(requests.post(url, json=BY_AGENT, timeout=10))["token"]
    child.kill()
    child.start()
    headers = {"Authorization": f"Bearer {token}"}
    second = requests.post(
        f"{child.url}/api/v1/machines/{machine}/claim",
        json={"agent": "b" * 32, "nonce": NONCE},
        timeout=10,
    )
    assert second.status_code == 409, "a restart is no reason to give the job away"
    answer = requests.post(
        f"{child.url}/api/v1/jobs/{job}/events",
        json=[event(1, **log("still here"))],
        headers=headers,
        timeout=10,
    )
    assert answer.status_code == 200
