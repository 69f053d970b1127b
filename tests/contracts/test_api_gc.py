"""The operator has the store swept: what is freed, what is kept for whoever is at work."""

import os
import time
from pathlib import Path

import pytest

from agent.store.hold import holding
from agent.store.registry import RegistryClient
from agent.units import format_bytes
from netboot.cli.words import main
from tests.contracts.api_server import Api
from tests.contracts.api_templates import digest_of, push_blob, push_template

LONG_AGO_S = 7200.0


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


def test_the_command_says_what_it_freed(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_text(f"{api.token}\n")
    words = ["--server", api.url, "--token-file", str(token)]
    data = b"x" * 4096
    push_blob(api, "web", data)
    assert main(["template", "gc", *words]) == 0
    assert "kept for now: web" in capsys.readouterr().out
    age(api)
    assert main(["template", "gc", "--dry-run", *words]) == 0
    assert f"would free {format_bytes(4096)}: 1 blob" in capsys.readouterr().out
    assert api.context.templates.store.blob("web", digest_of(data))
    assert main(["template", "gc", *words]) == 0
    assert f"freed {format_bytes(4096)}: 1 blob" in capsys.readouterr().out
    assert main(["template", "gc", "--keep-minutes", "5", *words]) == 2
