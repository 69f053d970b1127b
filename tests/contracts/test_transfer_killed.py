"""`kill -9` of an export, an import, a copy at random moments: nothing half-done is listed, what is
left is swept, and the same command again finishes the work."""

import random
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from agent.errors import AgentError
from agent.store.check import check_template
from agent.store.layout import LayoutFolder
from agent.store.registry import RegistryClient
from agent.store.source import BlobSource
from agent.units import MiB
from tests.contracts.api_server import Api, sweep_all_uploads
from tests.contracts.peers import docker_registry
from tests.contracts.seeds import draw, tried
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


def kill_at_random(api: Api, folder: Path, dice: random.Random, took_s: float, *words: str) -> bool:
    """Run a command and kill it; return whether it was still at work."""
    process = start(api, folder, *words)
    time.sleep(dice.uniform(0.3, 1.0) * took_s)
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
    dice = draw(kind)
    client = RegistryClient(api.url, "demo", api.token)
    digest = capture(client, make_source(tmp_path, mixed_bytes(48 * MiB, seed=3))).digest
    layout = LayoutFolder(tmp_path / "layout")
    done(start(api, tmp_path, "export", "demo", str(layout.path)))
    store = api.context.templates.store
    with docker_registry(tmp_path / "docker") if kind == "copy" else nullcontext("") as url:

        def place(name: str) -> tuple[tuple[str, str], BlobSource]:
            """Return the words of a command that puts the template there, and what is there."""
            if kind == "export":
                return ("demo", str(tmp_path / name)), LayoutFolder(tmp_path / name)
            if kind == "import":
                return (str(layout.path), name), RegistryClient(api.url, name, api.token)
            return ("demo", f"{url}/v2/{name}"), RegistryClient(url, name)

        began = time.monotonic()
        done(start(api, tmp_path, kind, *place("first")[0]))
        took_s = time.monotonic() - began
        killed = too_late = 0
        while killed < KILLS:
            words, target = place(f"new{too_late}")
            if kill_at_random(api, tmp_path, dice, took_s, kind, *words):
                killed += 1
                is_whole(target, "latest")
            else:
                assert is_whole(target, "latest")
                too_late, took_s = too_late + 1, took_s * 0.9
                assert too_late < 30
            target.close()
        assert store.find_damage(deep=True) == ()
        sweep_all_uploads(store)
        words, target = place(f"new{too_late}")
        done(start(api, tmp_path, kind, *words))
        assert is_whole(target, "latest")
        assert target.manifest("latest")[1] == digest
        target.close()
    assert not list(tmp_path.rglob("*.part"))
    client.close()
    tried(killed, f"kills of template {kind}")


def done(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors.decode()
