"""Boot files: the right script for each machine, and two files by name."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.api_server import MACHINE, SUCCEEDED, Api, claim_of, failed, running
from tests.contracts.api_templates import push_template

SCRIPT = f"/boot/machine.ipxe?mac={MACHINE}&uuid=&platform=pcbios&arch=i386"


@pytest.fixture
def booting(tmp_path: Path) -> Iterator[Api]:
    image = tmp_path / "image"
    image.mkdir()
    (image / "vmlinuz").write_bytes(b"kernel" * 1000)
    (image / "initrd.img").write_bytes(b"image" * 1000)
    (image / "secret").write_bytes(b"secret")
    with running(tmp_path / "data", image=image, kernel_args=("quiet",)) as api:
        yield api


def test_an_unknown_machine_boots_the_agent_and_is_registered(booting: Api) -> None:
    answer = booting.as_(None).get(SCRIPT)
    assert answer.text.startswith("#!ipxe\n")
    assert f"kernel {booting.url}/boot/vmlinuz initrd=initrd.img BOOTIF=01-{MACHINE}" in answer.text
    assert answer.text.count("quiet") == 1
    assert [machine["id"] for machine in booting.get("/api/v1/machines").json()] == [MACHINE]


def test_after_a_deployment_it_boots_its_disk(booting: Api) -> None:
    push_template(booting)
    job = booting.make_job(kind="deploy", template="demo")
    assert f"job {job}" in booting.get(SCRIPT).text
    agent = booting.as_(claim_of(booting.claim())["token"])
    assert "kernel" in booting.get(SCRIPT).text
    agent.events(job, SUCCEEDED)
    script = booting.get(SCRIPT).text
    assert "kernel" not in script
    assert script.endswith("exit 1\n")


def test_after_a_failure_it_boots_the_agent_again(booting: Api) -> None:
    push_template(booting)
    job = booting.make_job(kind="deploy", template="demo")
    booting.as_(claim_of(booting.claim())["token"]).events(job, failed())
    assert "kernel" in booting.get(SCRIPT).text


@pytest.mark.parametrize(
    "query", ["", "?mac=", "?mac=x", "?mac=52:54:00:12:34:56", f"?mac={MACHINE}%0aboot"]
)
def test_a_machine_without_a_proper_name_gets_no_script(booting: Api, query: str) -> None:
    assert booting.get(f"/boot/machine.ipxe{query}").status_code == 400
    assert booting.get("/api/v1/machines").json() == []


@pytest.mark.parametrize("host", ["a b", "x;boot", "${uuid}", "evil\\x", "a@b", "a:0", "a/b", ""])
def test_a_host_of_bad_grammar_gets_no_script(booting: Api, host: str) -> None:
    answer = booting.get(SCRIPT, headers={"Host": host})
    assert answer.status_code == 400
    assert "kernel" not in answer.text


def test_nothing_that_a_machine_says_reaches_its_script(booting: Api) -> None:
    for part in ("uuid", "platform", "asset"):
        script = booting.get(f"{SCRIPT}&{part}=%0Ashell%0A${{x}}").text
        assert "shell" not in script


def test_the_public_url_is_what_machines_are_told(tmp_path: Path) -> None:
    with running(tmp_path / "data", public_url="https://boot.example") as api:
        assert "metalcast.server=https://boot.example " in api.get(SCRIPT).text


def test_kernel_and_image_are_served_whole_and_in_ranges(booting: Api) -> None:
    nobody = booting.as_(None)
    assert nobody.get("/boot/vmlinuz").content == b"kernel" * 1000
    head = nobody.call("HEAD", "/boot/initrd.img")
    assert (head.status_code, head.headers["Content-Length"]) == (200, "5000")
    part = nobody.get("/boot/initrd.img", headers={"Range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, b"image")


@pytest.mark.parametrize(
    "path",
    [
        "/boot/secret",
        "/boot/../operator-token",
        "/boot/%2e%2e/data/operator-token",
        "/boot/..%2fdata%2foperator-token",
        "/boot//etc/passwd",
        "/static/../pages.py",
        "/static/%2e%2e%2fpages.py",
        "/static/app.html",
    ],
)
def test_no_other_file_is_served(booting: Api, path: str) -> None:
    import http.client

    host = booting.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=10)
    connection.request("GET", path)  # as it stands: requests would tidy the path
    answer = connection.getresponse()
    assert answer.status in (400, 401, 404)
    assert b"import" not in answer.read()
    connection.close()


def test_health_needs_nothing(booting: Api) -> None:
    assert booting.as_(None).get("/healthz").json() == {"status": "ok"}
