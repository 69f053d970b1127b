"""`metalcast`, the command, against a real server: what it prints and how it exits."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.model.inventory import Board
from agent.model.wire import encode
from agent.units import GiB
from netboot.cli.words import main
from tests.contracts.api_server import (
    MACHINE,
    SUCCEEDED,
    Api,
    claim_of,
    failed,
    log,
    make_hello,
    make_inventory,
)
from tests.contracts.api_templates import push_template
from tests.unit import make_plan
from tests.unit.make_plan import make_drive

Call = Callable[..., tuple[int, str, str]]
KEY = "ssh-ed25519 " + "A" * 68 + " ada@example"


@pytest.fixture
def call(api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    token = tmp_path / "token"
    token.write_text(f"{api.token}\n")

    def run(*words: str) -> tuple[int, str, str]:
        try:
            status = main([*words, "--server", api.url, "--token-file", str(token)])
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def test_empty_lists_say_so(call: Call) -> None:
    for words, text in (
        (("machine", "ls"), "no machine has booted yet"),
        (("job", "ls"), "no jobs yet"),
        (("template", "ls"), "the store has no templates"),
    ):
        status, out, _ = call(*words)
        assert status == 0
        assert text in out
        assert json.loads(call(*words, "--json")[1]) == []


def test_templates_are_listed_shown_and_removed(api: Api, call: Call) -> None:
    digest = push_template(api, "web/demo")
    assert "web/demo:latest  Debian GNU/Linux 12 (bookworm)" in call("template", "ls")[1]
    status, out, _ = call("template", "show", "web/demo")
    assert status == 0
    assert digest in out
    assert "/boot/efi" in out
    assert json.loads(call("template", "show", "web/demo", "--json")[1])["summary"]["tag"]
    assert call("template", "rm", "web/demo") == (0, "removed web/demo\n", "")
    status, _, err = call("template", "show", "web/demo")
    assert status == 3
    assert "try      metalcast template ls" in err


def test_a_deployment_with_everything(api: Api, call: Call, tmp_path: Path) -> None:
    push_template(api)
    (tmp_path / "key").write_text(f"# mine\n{KEY}\n\n")
    (tmp_path / "net.yaml").write_text("network:\n  version: 2\n  ethernets: {}\n")
    status, out, err = call(
        *("job", "create", "deploy", "--machine", "52:54:00:12:34:56", "--template", "demo"),
        *("--hostname", "web1.example", "--authorized-key", str(tmp_path / "key")),
        *("--network", str(tmp_path / "net.yaml"), "--disk-serial", "S1", "--no-grow"),
        *("--consent", "LVM2_member", "--verify", "full", "--finish", "poweroff", "--json"),
        *("--layout", "lvm"),
    )
    assert status == 0, err
    job = json.loads(out)
    assert job["machine"] == MACHINE
    assert job["template_digest"].startswith("sha256:")
    assert job["spec"] == {
        "kind": "deploy",
        "template": "demo",
        "disks": None,
        "hardware_raid": None,
        "keys": [],
        "layout": "lvm",
        "disk": {**dict.fromkeys(job["spec"]["disk"]), "serial": "S1"},
        "network": {"version": 2, "ethernets": {}},
        "identity": {"hostname": "web1.example", "authorized_keys": [KEY]},
        "grow": None,
        "consent": ["LVM2_member"],
        "verify": "full",
        "finish": "poweroff",
    }


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_options_win_over_a_spec_file(api: Api, call: Call, tmp_path: Path, suffix: str) -> None:
    push_template(api)
    spec = {"template": "other", "grow": "/srv", "verify": "none", "disk": {"wwn": "0x5"}}
    (tmp_path / f"spec.{suffix}").write_text(json.dumps(spec))
    status, out, err = call(
        *("job", "create", "deploy", "--machine", MACHINE, "--template", "demo", "--json"),
        *("--spec", str(tmp_path / f"spec.{suffix}"), "--disk-model", "M"),
    )
    assert status == 0, err
    made = json.loads(out)["spec"]
    assert (made["template"], made["grow"], made["verify"]) == ("demo", "/srv", "none")
    assert (made["disk"]["wwn"], made["disk"]["model"]) == ("0x5", "M")


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (("job", "create", "deploy", "--machine", "x", "--template", "demo"), 2, "not a MAC"),
        (("job", "create", "deploy", "--machine", MACHINE), 2, "--template"),
        (("job", "create", "capture", "--machine", MACHINE), 2, "--name"),
        (("job", "create", "capture", "--machine", MACHINE, "--name", "../x"), 3, "name"),
        (("job", "create", "deploy", "--machine", MACHINE, "--template", "demo"), 3, "known: none"),
        (("job", "show", "j-000000000000"), 3, "unknown job"),
        (("job", "watch", "j-000000000000"), 3, "unknown job"),
        (("job", "cancel", "j-000000000000"), 3, "unknown job"),
        (("machine", "show", MACHINE), 3, "unknown machine"),
        (("machine", "rm", MACHINE), 3, "unknown machine"),
    ],
)
def test_refusals(call: Call, words: tuple[str, ...], status: int, text: str) -> None:
    found, out, err = call(*words)
    assert (found, out) == (status, "")
    assert text in err
    assert "Traceback" not in err


def test_without_a_server_it_says_where_it_looked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("x")
    words = ["job", "ls", "--server", "http://127.0.0.1:9", "--token-file", str(token)]
    assert main(words) == 3
    assert "no answer from http://127.0.0.1:9" in capsys.readouterr().err
    assert main([*words[:2], "--server", "nonsense", "--token-file", str(token)]) == 2
    assert main([*words[:4], "--token-file", str(tmp_path / "none")]) == 3


def test_a_wrong_token_is_refused(
    api: Api, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("wrong")
    assert main(["job", "ls", "--server", api.url, "--token-file", str(token)]) == 3
    assert "--token-file" in capsys.readouterr().err


def test_what_a_machine_says_cannot_rule_the_terminal(api: Api, call: Call) -> None:
    board = Board(vendor="\x1b[2J\x07evil\r\nroot#", product="\u202egnp")
    hello = make_hello(inventory=make_inventory(board=board))
    api.as_(None).post("/api/v1/agents/hello", hello)
    for words in (("machine", "ls"), ("machine", "show", MACHINE)):
        _, out, _ = call(*words)
        assert not set(out) & set("\x1b\x07\r\u202e")
    assert "evil" in out
    job = api.make_job()
    agent = api.as_(claim_of(api.claim())["token"])
    agent.events(job, {"kind": "plan", "text": "a\x1b[2J\nb", "digest": ""}, log("\x1b]0;x\x07"))
    agent.events(job, failed(), first=3)
    assert "\x1b" not in call("job", "watch", job)[1]


PLAN = {"kind": "plan", "text": "Deploy demo\n  1  erase\n  2  write", "digest": "d"}
STEP = {"kind": "step", "index": 2, "count": 3, "summary": "restore root"}
PROGRESS = {
    "what": "root",
    "done_bytes": 512 * 2**20,
    "total_bytes": 2**30,
    "rate": 100 * 2**20,
    "seconds_left": 65,
    "bottleneck": "decode",
    "stage_seconds": {"fetch": 1.5, "decode": 4.0},
}
RESULT = {"fetched_bytes": 2**20, "bottleneck": "decode", "stage_seconds": {"decode": 9.5}}


def test_watching_a_job_from_the_wait_to_the_end(api: Api, call: Call) -> None:
    job = api.make_job()

    def agent() -> None:
        time.sleep(0.5)
        mine = api.as_(claim_of(api.claim())["token"])
        mine.events(job, PLAN, STEP)
        mine.events(job, {"kind": "progress", "progress": PROGRESS}, first=3)
        time.sleep(0.3)
        mine.events(job, log("all is well"), {**SUCCEEDED, "result": RESULT}, first=4)

    working = threading.Thread(target=agent)
    working.start()
    status, out, _ = call("job", "watch", job)
    working.join()
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == f"{job} waits for its machine to boot from the network"
    assert "  1  erase" in lines
    assert "[2/3] restore root" in lines
    assert "  root  512.0 MiB of 1.0 GiB  50 %  100.0 MiB/s  1:05 left  (waits for decode)" in lines
    assert "1.0 MiB fetched; slowest: decode" in lines
    assert lines[-1] == f"{job} succeeded"


@pytest.mark.parametrize(("status", "disk"), [(3, "unchanged"), (4, "partly written"), (1, "x")])
def test_watching_ends_as_the_agent_did(api: Api, call: Call, status: int, disk: str) -> None:
    job = api.make_job()
    api.as_(claim_of(api.claim())["token"]).events(job, failed(status, disk))
    found, out, _ = call("job", "watch", job)
    assert found == status
    assert out.endswith(
        "error: could not restore root\n"
        "  because  chunk 9f2c41d07a55 is damaged\n"
        f"  disk     {disk}\n"
        "  try      try again\n"
    )
    assert "because  chunk 9f2c41d07a55 is damaged" in call("job", "show", job)[1]


def test_watching_as_json_is_one_value_a_line(api: Api, call: Call) -> None:
    job = api.make_job()
    api.as_(claim_of(api.claim())["token"]).events(job, STEP, SUCCEEDED)
    status, out, _ = call("job", "watch", job, "--json")
    values: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [value["event"]["happening"]["kind"] for value in values if "event" in value] == [
        "step",
        "succeeded",
    ]
    assert values[-1]["job"]["state"] == "succeeded"


def test_a_cancelled_deployment_may_have_written(api: Api, call: Call) -> None:
    push_template(api)
    waiting = api.make_job(kind="deploy", template="demo")
    assert call("job", "cancel", waiting)[:2] == (0, f"{waiting} is cancelled\n")
    assert call("job", "watch", waiting)[0] == 3
    running = api.make_job(kind="deploy", template="demo")
    assert api.claim().status_code == 200
    assert "partly written" in call("job", "cancel", running)[1]
    assert call("job", "watch", running)[0] == 4


def test_machines_are_listed_shown_and_forgotten(api: Api, call: Call) -> None:
    api.hello()
    job = api.make_job()
    assert f"{job}  inspect queued" in call("machine", "ls")[1]
    assert "2 × QEMU" in call("machine", "show", MACHINE)[1]
    assert json.loads(call("machine", "show", MACHINE, "--json")[1])["inventory"]["cpus"] == 2
    status, _, err = call("machine", "rm", MACHINE)
    assert status == 3
    assert f"metalcast job cancel {job}" in err
    call("job", "cancel", job)
    assert call("machine", "rm", "5254.0012.3456")[0] == 2
    assert call("machine", "rm", "525400123456")[0] == 0
    assert json.loads(call("machine", "ls", "--json")[1]) == []


def test_a_plan_is_drawn_for_an_inventory_before_anybody_touches_it(
    api: Api, call: Call, tmp_path: Path
) -> None:
    push_template(api)
    file = tmp_path / "server.json"
    drive = make_drive(size_bytes=64 * GiB)
    file.write_bytes(encode(make_plan.make_inventory(drive, firmware="uefi", arch="x86_64")))
    status, out, err = call("plan", "demo", "--inventory", str(file))
    assert status == 0, err
    assert "This machine's disks afterwards:" in out
    assert "└─ ext /" in out
    assert "Steps (until the last one is done nothing here boots):" in out
    plan = json.loads(call("plan", "demo", "--inventory", str(file), "--json")[1])
    assert [disk["target"]["path"] for disk in plan["disks"]] == ["/dev/vda"]
    small = make_drive(size_bytes=GiB)
    file.write_bytes(encode(make_plan.make_inventory(small, firmware="uefi")))
    status, _, err = call("plan", "demo", "--inventory", str(file))
    assert status == 3
    assert "/dev/vda has 1.0 GiB" in err
