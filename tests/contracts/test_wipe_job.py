"""A wipe job from the operator's words to its certificate at the server; keys on the same way."""

import json
from pathlib import Path

import pytest

from agent.flows import wipe as flow
from agent.model.inventory import Drive
from agent.model.job import CaptureSpec, Finish
from agent.model.keys import DiskKey
from agent.units import MiB
from tests.contracts.api_server import AGENT, MACHINE, Api
from tests.contracts.test_agent_boot import Terminal, agent_at, inventory, terminal

__all__ = ["terminal"]

SECRET = "correct horse battery"


def test_a_wipe_from_claim_to_certificate(
    api: Api, terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is a file here; tests/guest/test_wipe.py has real ones."""
    disk = tmp_path / "disk"
    disk.write_bytes(b"what nobody may read " * MiB)
    size = disk.stat().st_size
    drive = Drive(
        path=str(disk), size_bytes=size, sector_bytes=512, physical_sector_bytes=512, serial="S1"
    )
    monkeypatch.setattr(flow, "probe_drives", lambda _: (drive,))
    monkeypatch.setattr("agent.flows.wipe.block.settle", lambda _: None)
    monkeypatch.setattr(flow, "find_signatures", lambda *_: ())
    place = inventory(disks=(drive,))
    agent = agent_at(api, terminal)
    agent.hello(place)
    job = api.make_job(kind="wipe", disks=[{"serial": "S1"}], verify="full")
    claim = agent.server.claim(MACHINE, AGENT, 0, ())
    assert claim is not None
    assert agent.do(claim, place) is Finish.POWEROFF
    assert disk.read_bytes().count(0) == size
    assert api.job(job)["state"] == "succeeded"
    events = api.get(f"/api/v1/jobs/{job}/events").json()
    happenings = [event["happening"] for event in events]
    result = next(one["result"] for one in happenings if one["kind"] == "succeeded")
    certificate = result["certificate"]
    assert certificate["job"] == job
    (line,) = certificate["disks"]
    assert (line["serial"], line["method"], line["size_bytes"]) == ("S1", "zero", size)
    assert line["verified"]["read_bytes"] == size
    page = next(one["text"] for one in happenings if one["kind"] == "plan")
    assert page.startswith("Wipe 1 disk (auto)")
    shown = terminal.text
    said = shown.partition("certificate: ")[2].partition("\n")[0]
    assert json.loads(said) == certificate


def test_a_disk_that_changed_hands_since_the_plan_is_not_wiped(
    api: Api, terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"kept" * 4096)
    drive = Drive(
        path=str(disk), size_bytes=16384, sector_bytes=512, physical_sector_bytes=512, serial="S1"
    )
    other = Drive(
        path=str(disk), size_bytes=16384, sector_bytes=512, physical_sector_bytes=512, serial="S2"
    )
    monkeypatch.setattr(flow, "probe_drives", lambda _: (other,))
    place = inventory(disks=(drive,))
    agent = agent_at(api, terminal)
    agent.hello(place)
    job = api.make_job(kind="wipe", all_fixed=True)
    claim = agent.server.claim(MACHINE, AGENT, 0, ())
    assert claim is not None
    assert agent.do(claim, place) is Finish.STAY
    failure = api.job(job)["failure"]
    assert (failure["disk"], failure["status"]) == ("unchanged", 3)
    assert "another disk" in failure["because"][0]
    assert disk.read_bytes() == b"kept" * 4096


def test_a_wipe_that_names_no_disk_is_not_taken(api: Api) -> None:
    for spec in ({"kind": "wipe"}, {"kind": "wipe", "disks": [{}]}):
        answer = api.post("/api/v1/jobs", {"machine": MACHINE, "spec": spec})
        assert answer.status_code == 422
        assert "disks" in answer.text


def test_a_key_is_in_the_claim_and_in_no_other_answer(api: Api, terminal: Terminal) -> None:
    agent = agent_at(api, terminal)
    agent.hello(inventory())
    spec = {"kind": "capture", "name": "web", "keys": [{"passphrase": SECRET}]}
    made = api.post("/api/v1/jobs", {"machine": MACHINE, "spec": spec})
    assert made.status_code == 201
    job = made.json()["id"]
    claim = agent.server.claim(MACHINE, AGENT, 0, ())
    assert claim is not None
    taken = claim.claim.job.spec
    assert isinstance(taken, CaptureSpec)
    assert taken.keys == (DiskKey(passphrase=SECRET),)
    assert SECRET not in f"{claim!r}"
    agent.do(claim, inventory())
    answers = [made, *map(api.get, ("/api/v1/jobs", f"/api/v1/jobs/{job}", "/api/v1/machines"))]
    answers.append(api.get(f"/api/v1/jobs/{job}/events"))
    for answer in answers:
        assert answer.status_code < 300
        assert SECRET not in answer.text
    assert '"given":"passphrase"' in answers[2].text
    assert SECRET not in terminal.text


def test_a_key_that_cannot_be_read_is_not_quoted(api: Api) -> None:
    for key in ({"passphrase": SECRET, "key_file_base64": "AAAA"}, {"key_file_base64": SECRET}):
        spec = {"kind": "capture", "name": "web", "keys": [key]}
        answer = api.post("/api/v1/jobs", {"machine": MACHINE, "spec": spec})
        assert answer.status_code == 422
        assert SECRET not in answer.text
