"""`kill -9` of an export, an import, a copy at random moments: nothing half-done is listed, what is
left is swept, and the same command again finishes the work."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.errors import AgentError
from agent.store.check import check_template
from agent.store.layout import LayoutFolder
from agent.store.registry import RegistryClient
from agent.store.source import BlobSource
from agent.units import MiB
from tests.contracts.api_server import Api
from tests.contracts.peers import docker_registry
from tests.contracts.seeds import SEED
from tests.contracts.stream_builders import capture, make_source, mixed_bytes

ROOT = Path(__file__).parents[2]
KILLS = 5


def start(api: Api, folder: Path, *words: str) -> subprocess.Popen[bytes]:
    token = folder / "token"
    token.write_text(f"{api.token}\n")
    command = [sys.executable, "-m", "netboot", "template", *words]
    options = ["--server", api.url, "--token-file", str(token)]
    return subprocess.Popen(
        [*command, *options], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def kill_at_random(api: Api, folder: Path, draw: random.Random, took_s: float, *words: str) -> bool:
    """Run a command and kill it; return whether it was still at work."""
    process = start(api, folder, *words)
    time.sleep(draw.uniform(0.3, 1.0) * took_s)
    process.kill()
    process.communicate()
    return process.returncode != 0


def is_whole(source: BlobSource, tag: str) -> bool:
    """Say whether `tag` is there; if it is, all of it must be."""
    try:
        checked = check_template(source, tag, deep=True)
    except AgentError as error:
        if not any(word in str(error) for word in ("404", "has no ", "is missing")):
            raise
        return False
    assert checked.damage == ()
    return True


@pytest.mark.parametrize("kind", ["export", "import", "copy"])
def test_killed_it_leaves_nothing_listed_and_goes_on(api: Api, tmp_path: Path, kind: str) -> None:
    print(f"METALCAST_SEED={SEED}")
    draw = random.Random(f"{SEED} {kind}")
    client = RegistryClient(api.url, "demo", api.token)
    digest = capture(client, make_source(tmp_path, mixed_bytes(48 * MiB, seed=3))).digest
    layout = LayoutFolder(tmp_path / "layout")
    store = api.context.templates.store
    if kind == "export":
        with_it = tmp_path / "other"
        done(start(api, tmp_path, "export", "demo", str(with_it)))
        began = time.monotonic()
        done(start(api, tmp_path, "export", "demo", f"{with_it}2"))
        took_s = time.monotonic() - began
        for _ in range(KILLS):
            kill_at_random(api, tmp_path, draw, took_s, "export", "demo", str(layout.path))
            is_whole(layout, "latest")
        done(start(api, tmp_path, "export", "demo", str(layout.path)))
        assert is_whole(layout, "latest")
        assert not list(layout.path.rglob("*.part"))
        assert layout.manifest("latest")[1] == digest
        return
    done(start(api, tmp_path, "export", "demo", str(layout.path)))
    with docker_registry(tmp_path / "docker") as url:
        places = {
            "import": (str(layout.path), "new"),
            "copy": ("demo", f"{url}/v2/new"),
        }
        target = (
            RegistryClient(api.url, "new", api.token)
            if kind == "import"
            else RegistryClient(url, "new")
        )
        began = time.monotonic()
        done(start(api, tmp_path, kind, places[kind][0], places[kind][1] + "er"))
        took_s = time.monotonic() - began
        for _ in range(KILLS):
            kill_at_random(api, tmp_path, draw, took_s, kind, *places[kind])
            is_whole(target, "latest")
        assert store.find_damage(deep=True) == ()
        store.sweep_uploads(0)
        assert store.uploads() == ()
        done(start(api, tmp_path, kind, *places[kind]))
        assert is_whole(target, "latest")
        assert target.manifest("latest")[1] == digest
        target.close()
    client.close()


def done(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors.decode()
