"""Watching a job: long polls and server-sent events. And passes: one capture, once."""

import json
import threading
import time
from typing import Any

import pytest

from agent.model.job import CaptureSpec
from agent.model.wire import encode
from tests.contracts.api_server import AGENT, MACHINE, NONCE, OTHER, SUCCEEDED, Api, claim_of, log


def start(api: Api) -> tuple[str, Api]:
    job = api.make_job()
    return job, api.as_(claim_of(api.claim())["token"])


def test_a_long_poll_ends_with_the_news(api: Api) -> None:
    job, agent = start(api)
    agent.events(job, log("one"))
    threading.Timer(0.4, lambda: agent.events(job, log("two"), first=2)).start()
    begun = time.monotonic()
    events = api.get(f"/api/v1/jobs/{job}/events?after=1&wait=20").json()
    assert time.monotonic() - begun < 5
    assert [event["happening"]["message"] for event in events] == ["two"]


def test_a_long_poll_without_news_ends_in_time(api: Api) -> None:
    job, _ = start(api)
    begun = time.monotonic()
    assert api.get(f"/api/v1/jobs/{job}/events?wait=1").json() == []
    assert 0.8 < time.monotonic() - begun < 5


def test_a_poll_of_an_ended_job_does_not_wait(api: Api) -> None:
    job, agent = start(api)
    agent.events(job, SUCCEEDED)
    begun = time.monotonic()
    assert api.get(f"/api/v1/jobs/{job}/events?after=1&wait=20").json() == []
    assert time.monotonic() - begun < 5


def read_stream(api: Api, job: str, **headers: str) -> list[tuple[str, Any]]:
    answer = api.get(f"/api/v1/jobs/{job}/events/stream", headers=headers, stream=True)
    assert answer.headers["Content-Type"] == "text/event-stream"
    found = []
    kind = ""
    for line in answer.iter_lines(decode_unicode=True):
        name, _, value = line.partition(": ")
        kind = value if name == "event" else kind
        if name == "data":
            found.append((kind, json.loads(value)))
    return found


def test_a_stream_tells_everything_and_ends_with_the_job(api: Api) -> None:
    job, agent = start(api)
    agent.events(job, log("one"), log("two"))
    threading.Timer(0.4, lambda: agent.events(job, SUCCEEDED, first=3)).start()
    found = read_stream(api, job)
    assert [one["sequence"] for kind, one in found if kind == "event"] == [1, 2, 3]
    assert [one["state"] for kind, one in found if kind == "job"] == ["running", "succeeded"]


def test_how_long_each_stage_took_is_told_while_it_works_and_at_its_end(api: Api) -> None:
    job, agent = start(api)
    seconds = {"fetch": 1.5, "verify": 0.2, "decode": 4.0, "write": 3.1, "sync": 0.4}
    progress = {"what": "restore root", "done_bytes": 1, "total_bytes": 2, "rate": 1}
    told = {"bottleneck": "decode", "stage_seconds": seconds}
    agent.events(job, {"kind": "progress", "progress": progress | told})
    found = api.job(job)["progress"]
    assert (found["bottleneck"], found["stage_seconds"]) == ("decode", seconds)
    agent.events(job, {**SUCCEEDED, "result": told}, first=2)
    (event,) = api.get(f"/api/v1/jobs/{job}/events").json()
    assert event["happening"]["result"] == told


def test_a_stream_goes_on_where_it_was_cut(api: Api) -> None:
    job, agent = start(api)
    agent.events(job, log("one"), log("two"), SUCCEEDED)
    found = read_stream(api, job, **{"Last-Event-ID": "2"})
    assert [one["sequence"] for kind, one in found if kind == "event"] == [3]


def test_more_events_than_a_page(api: Api) -> None:
    job, agent = start(api)
    for first in range(1, 1502, 300):
        agent.events(job, *[log(str(n)) for n in range(300)], first=first)
    assert len(api.get(f"/api/v1/jobs/{job}/events").json()) == 1000
    assert len(api.get(f"/api/v1/jobs/{job}/events?after=1000").json()) == 800
    agent.events(job, SUCCEEDED, first=1801)
    assert len([kind for kind, _ in read_stream(api, job) if kind == "event"]) == 1801


# passes


def redeem(api: Api, code: str, machine: str = MACHINE, name: str = "demo") -> Any:
    body = {
        "code": code,
        "machine": machine,
        "agent": AGENT,
        "nonce": NONCE,
        "spec": json.loads(encode(CaptureSpec(name=name))) | {"kind": "capture"},
    }
    return api.as_(None).post("/api/v1/passes/redeem", body)


def make_pass(api: Api) -> str:
    answer = api.post("/api/v1/passes", {"name": "demo", "minutes": 10})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["code"])


def test_a_pass_is_good_for_one_capture(api: Api) -> None:
    code = make_pass(api)
    answer = redeem(api, code)
    assert answer.status_code == 200, answer.text
    claim = claim_of(answer)
    assert claim["repository"] == "demo"
    assert api.as_(claim["token"]).events(claim["job"]["id"], log("begun")).status_code == 200
    assert redeem(api, code, OTHER).status_code == 403


def test_a_pass_is_for_its_name_and_not_spent_by_a_mistake(api: Api) -> None:
    code = make_pass(api)
    assert redeem(api, code, name="other").status_code == 403
    job = api.make_job()
    assert redeem(api, code).status_code == 409
    api.post(f"/api/v1/jobs/{job}/cancel")
    assert redeem(api, code).status_code == 200


@pytest.mark.parametrize("code", ["aaaa-aaaa-aaaa-aaaa", "", "x" * 5000, "aaaa-aaaa-aaaa-aaaa\n"])
def test_what_is_no_pass_makes_no_job(api: Api, code: str) -> None:
    make_pass(api)
    assert redeem(api, code).status_code in (403, 422)
    assert api.get("/api/v1/jobs").json() == []


def test_passes_cannot_be_guessed_fast(api: Api) -> None:
    answers = [redeem(api, "aaaa-aaaa-aaaa-aaaa").status_code for _ in range(15)]
    assert answers[-1] == 429
