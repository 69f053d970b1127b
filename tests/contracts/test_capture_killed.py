"""`kill -9` of a capture at random moments: nothing is listed, what it sent is swept, and the next
capture is whole."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.store.check import check_template
from agent.store.registry import RegistryClient
from agent.store.template import open_template
from agent.stream.restore import restore_volume
from agent.units import MiB
from netboot.cli.words import main
from tests.contracts.api_server import Api, sweep_all_uploads
from tests.contracts.seeds import draw, tried
from tests.contracts.stream_builders import BASE, make_source, make_target, mixed_bytes

ROOT = Path(__file__).parents[2]
SIZE = 48 * MiB
KILLS = 3
"""So many must have left an upload, and as many a blob."""


def start(api: Api, disk: Path) -> "subprocess.Popen[bytes]":
    """Return a capture that is about to begin its work."""
    words = [sys.executable, "-m", "tests.contracts.capture_child", api.url, str(api.token)]
    process = subprocess.Popen([*words, disk], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"begins\n"
    return process


def capture_whole(api: Api, disk: Path) -> float:
    """Capture and return how many seconds that took."""
    process = start(api, disk)
    began = time.monotonic()
    process.communicate(timeout=60)
    assert process.returncode == 0
    return time.monotonic() - began


def kill_at_random(api: Api, disk: Path, dice: random.Random, took_s: float) -> bool:
    """Begin a capture and kill it; return whether it was still at work."""
    process = start(api, disk)
    time.sleep(dice.uniform(0, took_s))
    process.kill()
    process.communicate()
    return process.returncode != 0


def listed(api: Api, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return what `metalcast template ls` shows."""
    token = folder / "token"
    token.write_text(f"{api.token}\n")
    words = ["template", "ls", "--json", "--server", api.url, "--token-file", str(token)]
    capsys.readouterr()
    assert main(words) == 0
    return [f"{one['name']}:{one['tag']}" for one in json.loads(capsys.readouterr().out)]


def blob_files(api: Api) -> list[Path]:
    root = api.context.templates.store.root
    return [path for path in (root / "blobs").rglob("*") if path.is_file()]


def empty(api: Api) -> None:
    """Sweep the store and see that nothing is left of what nobody finished."""
    store = api.context.templates.store
    sweep_all_uploads(store)
    store.gc(0)
    assert blob_files(api) == []
    assert list((store.root / "uploads").iterdir()) == []
    assert store.catalog.contents() == {}


def test_killed_it_leaves_nothing_that_is_not_swept(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = api.context.templates.store
    data = mixed_bytes(SIZE, seed=3)
    disk = make_source(tmp_path, data).device
    client = RegistryClient(api.url, "demo", api.token)
    dice = draw("capture killed")
    took_s = capture_whole(api, disk)
    store.delete_template("demo:latest")
    empty(api)
    killed = left_upload = left_blobs = 0
    for _ in range(60):
        at_work = kill_at_random(api, disk, dice, took_s)
        assert store.find_damage(deep=True) == ()
        freed = store.gc()
        assert (freed.uploads, freed.blobs) == (0, 0), "somebody may go on with what is young"
        if names := listed(api, tmp_path, capsys):  # all but the last answer was there: all of it
            assert names == ["demo:latest"]
            assert check_template(client, "latest", deep=True).damage == ()
            store.delete_template("demo:latest")
        else:
            assert at_work
            killed += 1
            left_upload += bool(store.uploads())
            left_blobs += bool(blob_files(api))
        empty(api)
        if left_upload >= KILLS and left_blobs >= KILLS:
            break
    assert left_upload >= KILLS
    assert left_blobs >= KILLS
    kill_at_random(api, disk, dice, took_s)
    capture_whole(api, disk)  # beside what the last one left
    assert listed(api, tmp_path, capsys) == ["demo:latest"]
    assert check_template(client, "latest", deep=True).damage == ()
    target = make_target(tmp_path, SIZE)
    restore_volume(open_template(client, "latest"), "root", target, BASE)
    assert target.read_bytes()[BASE : BASE + SIZE] == data
    sweep_all_uploads(store)
    store.gc(0)
    assert store.find_damage(deep=True) == ()
    assert check_template(client, "latest", deep=True).damage == ()
    client.close()
    print(f"of {killed} kills, {left_upload} left an upload, {left_blobs} blobs")
    tried(killed, "kills of a capture")
