"""The operator has the store swept: what is freed, what is kept for whoever is at work."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.store.hold import holding
from agent.store.registry import RegistryClient
from agent.units import format_bytes
from netboot.cli.words import main
from tests.contracts.api_server import Api
from tests.contracts.api_templates import digest_of, push_blob, push_template

LONG_AGO_S = 7200.0
Call = Callable[..., str]


@pytest.fixture
def call(api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run `metalcast template …`, which must end with `status`; return what it prints."""
    token = tmp_path / "token"
    token.write_text(f"{api.token}\n")

    def words(*given: str, status: int = 0) -> str:
        done = main(["template", *given, "--server", api.url, "--token-file", str(token)])
        printed = capsys.readouterr()
        assert done == status, printed.err
        return printed.out

    return words


def age(api: Api) -> None:
    """Make all that the store has old."""
    store = api.context.templates.store
    then = time.time() - LONG_AGO_S
    with store.catalog._transaction() as db:
        db.execute("UPDATE blob SET used_at = ?", (then,))
    for path in store.root.rglob("*"):
        if path.is_file() and "sqlite" not in path.name:
            os.utime(path, (then, then))


def sweep(api: Api, **asked: object) -> dict[str, object]:
    answer = api.post("/api/v1/gc", asked)
    assert answer.status_code == 200, answer.text
    found: dict[str, object] = answer.json()
    return found


def test_what_a_removed_template_had_is_freed_and_shared_packs_stay(api: Api) -> None:
    push_template(api, "web")
    kept = push_template(api, "web", "other", captured_by="metalcast 0.1.1")
    api.call("DELETE", "/api/v1/templates/web:latest")
    age(api)
    told = sweep(api, dry_run=True)
    assert told["blobs"] == 2  # config and manifest; the pack is the other's as well
    assert sweep(api, dry_run=True) == told
    freed = sweep(api)
    assert freed == told | {"dry_run": False}
    assert sweep(api)["blobs"] == 0
    assert api.context.templates.store.find_damage(deep=True) == ()
    assert api.get(f"/api/v1/templates/web@{kept}").status_code == 200


def test_what_was_pushed_a_moment_ago_is_kept_and_said(api: Api) -> None:
    push_blob(api, "web", b"the first pack of a copy")
    assert sweep(api, grace_s=600) == {
        "dry_run": False,
        "uploads": 0,
        "blobs": 0,
        "bytes": 0,
        "busy": ["web"],
    }


@pytest.mark.parametrize("grace_s", [0, 599, -1, "600"])
def test_no_grace_is_too_short(api: Api, grace_s: object) -> None:
    assert api.post("/api/v1/gc", {"grace_s": grace_s}).status_code == 422


def test_only_the_operator_may_sweep(api: Api) -> None:
    assert api.as_(None).post("/api/v1/gc", {}).status_code == 401


def test_whoever_holds_a_repository_loses_nothing(api: Api) -> None:
    client = RegistryClient(api.url, "web", api.token)
    with holding(client, every_s=0.05):
        blob = push_blob(api, "web", b"a pack whose manifest is hours away")
        age(api)
        time.sleep(0.3)  # it says again and again that it is there
        assert sweep(api, grace_s=600)["blobs"] == 0
        assert client.has_blob(blob.digest)
    assert api.context.templates.store.uploads() == ()
    age(api)
    assert sweep(api, grace_s=600)["blobs"] == 1
    client.close()


def test_a_stale_upload_is_swept(api: Api) -> None:
    answer = api.post(
        "/v2/web/blobs/uploads/", b"", headers={"Content-Type": "application/octet-stream"}
    )
    assert answer.status_code == 202
    assert sweep(api)["uploads"] == 0
    age(api)
    assert sweep(api, dry_run=True)["uploads"] == 1
    assert sweep(api)["uploads"] == 1


def test_the_command_says_what_it_freed(api: Api, call: Call) -> None:
    data = b"x" * 4096
    push_blob(api, "web", data)
    assert "kept for now: web" in call("gc")
    age(api)
    assert f"would free {format_bytes(4096)}: 1 blob" in call("gc", "--dry-run")
    assert api.context.templates.store.blob("web", digest_of(data))
    assert f"freed {format_bytes(4096)}: 1 blob" in call("gc")
    call("gc", "--keep-minutes", "5", status=2)


def blob_sizes(api: Api) -> dict[str, int]:
    """Return the bytes of each blob that is on the store's disk, by digest."""
    found = (api.context.templates.store.root / "blobs").rglob("*")
    return {f"sha256:{path.name}": path.stat().st_size for path in found if path.is_file()}


def test_as_json_the_commands_say_what_really_went(api: Api, call: Call) -> None:
    removed = push_template(api, "web")
    kept = push_template(api, "web", "other", captured_by="metalcast 0.1.1")
    api.post("/v2/half/blobs/uploads/", b"", headers={"Content-Type": "application/octet-stream"})
    age(api)
    push_blob(api, "new", b"the first pack of a copy")
    before = blob_sizes(api)
    assert json.loads(call("rm", "web:latest", "--json")) == {"removed": "web:latest"}
    assert [one["digest"] for one in json.loads(call("ls", "--json"))] == [kept]
    assert api.get("/api/v1/templates/web:latest").status_code == 404
    told = json.loads(call("gc", "--dry-run", "--json"))
    assert blob_sizes(api) == before
    assert len(api.context.templates.store.uploads()) == 1
    freed = json.loads(call("gc", "--json"))
    after = blob_sizes(api)
    gone = before.keys() - after.keys()
    assert removed in gone
    assert freed == {
        "dry_run": False,
        "uploads": 1,
        "blobs": len(gone),
        "bytes": sum(before.values()) - sum(after.values()),
        "busy": ["new"],
    }
    assert told == freed | {"dry_run": True}
    assert len(gone) == 2  # config and manifest; the pack is the other's as well
    assert api.context.templates.store.uploads() == ()
    assert api.context.templates.store.find_damage(deep=True) == ()
    nothing = {"uploads": 0, "blobs": 0, "bytes": 0}
    assert json.loads(call("gc", "--json")) == freed | nothing
    call("rm", "web:latest", "--json", status=3)
