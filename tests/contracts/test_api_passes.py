"""A pass is good once, for one name, for a while, and for nothing else."""

from typing import Any

import pytest
import requests

from tests.contracts.api_server import AGENT, MACHINE, NONCE, OTHER, Api, claim_of


def make_pass(api: Api, name: str = "web", minutes: int = 10) -> str:
    answer = api.post("/api/v1/passes", {"name": name, "minutes": minutes})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["code"])


def redeem(api: Api, code: str, machine: str = MACHINE, name: str = "web") -> requests.Response:
    body: dict[str, Any] = {"code": code, "machine": machine, "agent": AGENT, "nonce": NONCE}
    body["spec"] = {"kind": "capture", "name": name}
    return api.as_(None).post("/api/v1/passes/redeem", body)


def test_a_pass_becomes_a_claimed_capture_job(api: Api) -> None:
    answer = redeem(api, make_pass(api))
    assert answer.status_code == 200, answer.text
    claim = claim_of(answer)
    assert (claim["job"]["state"], claim["repository"]) == ("running", "web")
    agent = api.as_(claim["token"])
    assert agent.post("/v2/web/blobs/uploads/").status_code == 202
    assert agent.post("/v2/other/blobs/uploads/").status_code == 403


def test_a_pass_is_spent_by_its_first_use(api: Api) -> None:
    code = make_pass(api)
    assert redeem(api, code).status_code == 200
    assert redeem(api, code, machine=OTHER).status_code == 403


def test_a_pass_for_another_name_is_refused_and_not_spent(api: Api) -> None:
    code = make_pass(api)
    refused = redeem(api, code, name="db")
    assert refused.status_code == 403
    assert "for the name web" in refused.json()["detail"]
    assert redeem(api, code).status_code == 200


def test_a_machine_with_a_job_keeps_it_and_the_pass_is_not_spent(api: Api) -> None:
    api.make_job(MACHINE)
    code = make_pass(api)
    assert redeem(api, code).status_code == 409
    assert redeem(api, code, machine=OTHER).status_code == 200


def test_an_expired_pass_is_refused(api: Api) -> None:
    code = make_pass(api)
    now = api.context.now()
    object.__setattr__(api.context, "now", lambda: now + 601)
    assert redeem(api, code).status_code == 403


@pytest.mark.parametrize("code", ["aaaa-aaaa-aaaa-aaaa", "", "aaaa", "AAAA-aaaa-aaaa-aaaa\n"])
def test_a_guess_is_refused(api: Api, code: str) -> None:
    assert redeem(api, code).status_code in (403, 422)


def test_guessing_is_slow(api: Api) -> None:
    codes = {redeem(api, "aaaa-aaaa-aaaa-aaaa").status_code for _ in range(30)}
    assert codes == {403, 429}


def test_only_the_operator_makes_passes(api: Api) -> None:
    asked = {"name": "web", "minutes": 10}
    assert api.as_(None).post("/api/v1/passes", asked).status_code == 401
    token = claim_of(redeem(api, make_pass(api)))["token"]
    assert api.as_(token).post("/api/v1/passes", asked).status_code == 403
