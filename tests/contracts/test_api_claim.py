"""Hello, claim, fence: of two agents with one identity, one may write."""

import contextlib
import threading
import time
from dataclasses import replace

import pytest
import requests

from agent.model.event import Event
from agent.model.wire import decode, encode
from netboot.context import Context
from netboot.events import keep_events
from netboot.problems import ProblemError
from netboot.watch import Watch
from tests.contracts.api_server import (
    AGENT,
    MACHINE,
    NONCE,
    OTHER,
    SECOND,
    SUCCEEDED,
    Api,
    claim_of,
    event,
    failed,
    log,
    make_hello,
)


class Clock:
    """A lease clock that a test moves."""

    def __init__(self, context: Context) -> None:
        self.seconds = 1000.0
        watch = Watch(monotonic=lambda: self.seconds)
        context.watch.__dict__.update(watch.__dict__)

    def pass_lease(self) -> None:
        self.seconds += 61


def claimed(api: Api, agent: str = AGENT) -> Api:
    """Claim the machine's job; return the API as its agent."""
    answer = api.claim(agent=agent)
    assert answer.status_code == 200, answer.text
    return api.as_(claim_of(answer)["token"])


def word(answer: requests.Response) -> str:
    assert answer.headers["Content-Type"] == "application/problem+json"
    return str(answer.json()["type"]).rpartition(":")[2]


def test_hello_registers_a_machine(api: Api) -> None:
    api.hello()
    machine = api.get(f"/api/v1/machines/{MACHINE}").json()
    assert machine["firmware"] == "uefi"
    assert api.get(f"/api/v1/machines/{MACHINE}/inventory").json()["cpus"] == 2


def test_without_a_job_there_is_nothing_to_claim(api: Api) -> None:
    api.hello()
    assert api.claim().status_code == 204


def test_an_unknown_machine_cannot_claim(api: Api) -> None:
    answer = api.claim()
    assert answer.status_code == 404
    assert word(answer) == "not-found"


def test_a_job_can_be_made_before_its_machine_boots(api: Api) -> None:
    job = api.make_job()
    api.hello()
    claim = claim_of(api.claim())
    assert claim["job"]["id"] == job
    assert claim["job"]["state"] == "running"
    assert claim["job"]["fence"] == 1
    assert claim["lease_s"] == 60


def test_a_waiting_agent_gets_its_job_at_once(api: Api) -> None:
    api.hello()
    answers: list[requests.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(api.claim(wait=20)))
    waiting.start()
    time.sleep(0.3)
    begun = time.monotonic()
    api.make_job()
    waiting.join(10)
    assert answers[0].status_code == 200
    assert time.monotonic() - begun < 3


def test_an_agent_that_hung_up_takes_no_job(api: Api) -> None:
    api.hello()
    url = f"{api.url}/api/v1/machines/{MACHINE}/claim?wait=20"
    with contextlib.suppress(requests.Timeout):
        requests.post(url, json={"agent": SECOND, "nonce": NONCE}, timeout=0.5)
    job = api.make_job()
    time.sleep(0.3)
    assert api.job(job)["state"] == "queued"


def test_a_second_agent_is_refused_while_the_first_lives(api: Api) -> None:
    api.make_job()
    claimed(api)
    answer = api.claim(agent=SECOND)
    assert answer.status_code == 409
    assert word(answer) == "leased"
    assert 1 <= int(answer.headers["Retry-After"]) <= 60


def test_the_same_agent_may_ask_again(api: Api) -> None:
    job = api.make_job()
    first = claimed(api)
    second = claimed(api)
    assert first.token != second.token
    assert api.job(job)["fence"] == 1
    assert second.events(job, log("here")).status_code == 200


def test_a_new_agent_fences_off_the_silent_one(api: Api) -> None:
    clock = Clock(api.context)
    job = api.make_job()
    old = claimed(api)
    clock.pass_lease()
    assert api.job(job)["state"] == "running"
    new = claimed(api, SECOND)
    assert api.job(job)["fence"] == 2
    answer = old.events(job, log("I am back"))
    assert answer.status_code == 409
    assert word(answer) == "fenced"
    assert old.get(f"/api/v1/jobs/{job}").status_code == 401
    assert new.events(job, log("mine")).status_code == 200
    messages = [e["happening"].get("message") for e in api.get(f"/api/v1/jobs/{job}/events").json()]
    assert messages == ["mine"]
    answer = api.claim(agent=AGENT)  # and the old one cannot claim it back
    assert (answer.status_code, word(answer)) == (409, "leased")


def test_any_event_renews_the_lease(api: Api) -> None:
    clock = Clock(api.context)
    job = api.make_job()
    agent = claimed(api)
    progress = {"what": "root", "done_bytes": 1, "total_bytes": 2}
    for number in range(1, 5):
        clock.seconds += 40
        said = {"kind": "progress", "progress": progress}
        assert agent.events(job, said, first=number).status_code == 200
    assert api.claim(agent=SECOND).status_code == 409


def test_after_three_silent_agents_the_job_fails(api: Api) -> None:
    clock = Clock(api.context)
    job = api.make_job()
    for number in range(3):
        assert api.claim(agent=f"{number}" * 32).status_code == 200
        clock.pass_lease()
    assert api.claim(agent=SECOND).status_code == 204
    found = api.job(job)
    assert found["state"] == "failed"
    assert found["failure"]["summary"] == "no agent finished the job"


def test_an_event_sent_twice_is_kept_once(api: Api) -> None:
    job = api.make_job()
    agent = claimed(api)
    step = {"kind": "step", "index": 1, "count": 7, "summary": "erase the table"}
    for _ in range(3):
        answer = agent.events(job, log("one"), step)
        assert answer.json() == {"sequence": 2, "lease_s": 60}
    assert len(api.get(f"/api/v1/jobs/{job}/events").json()) == 2
    assert api.job(job)["step"] == "1/7 erase the table"


def test_progress_overwrites_and_goes_backwards_never(api: Api) -> None:
    job = api.make_job()
    agent = claimed(api)
    for number, done in ((2, 20), (1, 10)):
        progress = {"what": "root", "done_bytes": done, "total_bytes": 100}
        agent.events(job, {"kind": "progress", "progress": progress}, first=number)
    assert api.job(job)["progress"]["done_bytes"] == 20
    assert api.job(job)["heard_at"] is not None
    assert api.get(f"/api/v1/jobs/{job}/events").json() == []


def test_a_step_begins_without_the_progress_of_the_one_before(api: Api) -> None:
    job = api.make_job()
    agent = claimed(api)
    moved = {"kind": "progress", "progress": {"what": "root", "done_bytes": 1, "total_bytes": 2}}
    step = {"kind": "step", "index": 2, "count": 7, "summary": "grow root"}
    agent.events(job, moved, step)
    assert api.job(job).get("progress") is None
    agent.events(job, moved, first=3)
    assert api.job(job)["progress"]["done_bytes"] == 1


def test_the_last_report_may_be_repeated_but_nothing_follows_it(api: Api) -> None:
    job = api.make_job()
    agent = claimed(api)
    assert agent.events(job, SUCCEEDED).status_code == 200
    assert agent.events(job, SUCCEEDED).status_code == 200
    answer = agent.events(job, failed(), first=2)
    assert (answer.status_code, word(answer)) == (409, "ended")
    assert api.job(job)["state"] == "succeeded"


def test_a_failure_is_kept_whole(api: Api) -> None:
    job = api.make_job()
    claimed(api).events(job, log("going"), failed())
    found = api.job(job)
    assert found["state"] == "failed"
    assert found["failure"]["because"] == ["chunk 9f2c41d07a55 is damaged"]


def test_cancelling_stops_the_agent(api: Api) -> None:
    job = api.make_job()
    agent = claimed(api)
    assert api.post(f"/api/v1/jobs/{job}/cancel").status_code == 200
    answer = agent.events(job, log("still at it"))
    assert (answer.status_code, word(answer)) == (409, "cancelled")
    assert api.post(f"/api/v1/jobs/{job}/cancel").status_code == 409
    assert api.claim().status_code == 204


def test_one_machine_has_one_job_at_a_time(api: Api) -> None:
    first = api.make_job()
    answer = api.post("/api/v1/jobs", {"machine": MACHINE, "spec": {"kind": "inspect"}})
    assert answer.status_code == 409
    assert first in answer.json()["detail"]
    api.make_job(OTHER)


def test_a_deployment_of_an_unknown_template_is_refused_when_it_is_made(api: Api) -> None:
    body = {"machine": MACHINE, "spec": {"kind": "deploy", "template": "demo"}}
    answer = api.post("/api/v1/jobs", body)
    assert answer.status_code == 422
    assert answer.json()["detail"] == "unknown template demo; known: none"
    assert api.get("/api/v1/jobs").json() == []


def test_a_capture_succeeds_only_with_its_template_in_the_store(api: Api) -> None:
    job = api.make_job(kind="capture", name="demo")
    agent = claimed(api)
    lost = {"kind": "succeeded", "result": {"digest": f"sha256:{'0' * 64}"}}
    for said in (lost, SUCCEEDED, {"kind": "succeeded", "result": {"digest": 7}}):
        assert agent.events(job, said).status_code == 422
    assert api.job(job)["state"] == "running"


def test_hello_does_not_change_the_uuid_of_a_known_machine(api: Api) -> None:
    first, second = "1" * 8, "2" * 8
    tail = "-0000-0000-0000-000000000000"
    for uuid in (first + tail, second + tail):
        api.as_(None).post("/api/v1/agents/hello", make_hello(uuid=uuid))
    assert api.get(f"/api/v1/machines/{MACHINE}").json()["uuid"] == first + tail


def test_hello_is_bounded(api: Api) -> None:
    nobody = api.as_(None)
    assert nobody.post("/api/v1/agents/hello", b"x" * 2_000_000).status_code == 413
    answer = nobody.post("/api/v1/agents/hello", {"agent": AGENT, "who": "me"})
    assert answer.status_code == 422
    assert word(answer) == "unprocessable"
    assert nobody.post("/api/v1/agents/hello", make_hello(macs=())).status_code == 422
    headers = {"Content-Type": "text/plain"}
    assert nobody.post("/api/v1/agents/hello", make_hello(), headers=headers).status_code == 415


def test_one_address_cannot_ask_without_end(api: Api) -> None:
    limit = api.context.hello_limit
    limit.__dict__["_burst"] = 3
    answers = [api.as_(None).post("/api/v1/agents/hello", make_hello()) for _ in range(6)]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["Retry-After"]) >= 1
    assert replace(api).claim().status_code in (204, 404)


def test_the_server_says_so_when_an_agent_is_refused_or_fails(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "metalcast")
    job = api.make_job()
    agent = claimed(api)
    api.claim(agent=SECOND)
    agent.events(job, failed())
    assert f"409 leased: POST '/api/v1/machines/{MACHINE}/claim'" in caplog.text
    assert f"{job} of {MACHINE} failed 'could not restore root'" in caplog.text
    assert (agent.token or "?") not in caplog.text
    assert (api.token or "?") not in caplog.text


def test_the_fence_holds_also_inside_the_transaction(api: Api) -> None:
    """A claim may come between the check of the token and the keeping of the events."""
    clock = Clock(api.context)
    job = api.make_job()
    claimed(api)
    clock.pass_lease()
    claimed(api, SECOND)
    late = decode(encode([event(1, **log("late"))]), list[Event], "events")
    with pytest.raises(ProblemError, match="another agent") as caught:
        api.context.state.ask(lambda db: keep_events(db, job, 1, late, "2026-11-23T12:00:00Z"))
    assert caught.value.word == "fenced"
    assert api.get(f"/api/v1/jobs/{job}/events").json() == []
