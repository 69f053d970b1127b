"""Garbage is collected again and again, with no grace at all, while captures, copies and removals
run: nothing that a template needs is ever lost."""

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from agent.store.check import check_template
from agent.store.hold import holding
from agent.store.layout import LayoutFolder
from agent.store.registry import RegistryClient
from agent.store.target import FolderTarget, RegistryTarget
from agent.store.template import open_template
from agent.store.transfer import copy_template
from agent.stream.capture import capture_template
from agent.units import MiB
from tests.contracts.api_server import Api
from tests.contracts.stream_builders import make_config, make_source, mixed_bytes

SIZE = 20 * MiB
FOR_S = 7.0


class Load:
    """Threads that work on one server until it is over; the first error of any is kept."""

    def __init__(self, api: Api, folder: Path) -> None:
        self.api = api
        self.folder = folder
        self.store = api.context.templates.store
        self.ends = time.monotonic() + FOR_S
        self.errors: list[BaseException] = []
        self.counts: dict[str, int] = {}
        self.threads: list[threading.Thread] = []

    def client(self, repository: str) -> RegistryClient:
        return RegistryClient(self.api.url, repository, self.api.token)

    def again_and_again(self, name: str, work: Callable[[int], None]) -> None:
        def run() -> None:
            number = 0
            while time.monotonic() < self.ends and not self.errors:
                try:
                    work(number)
                except BaseException as error:
                    self.errors.append(error)
                number += 1
                self.counts[name] = number

        self.threads.append(threading.Thread(target=run, name=name))

    def run(self) -> None:
        for thread in self.threads:
            thread.start()
        for thread in self.threads:
            thread.join()
        for error in self.errors:
            raise error


def test_nothing_is_lost_while_garbage_is_collected(api: Api, tmp_path: Path) -> None:
    load = Load(api, tmp_path)
    draw = random.Random(17)
    data = bytearray(mixed_bytes(SIZE, seed=17))
    first = load.client("demo")
    capture(first, tmp_path / "first", bytes(data), "v0", parent=None)
    origin, layout = load.client("origin"), LayoutFolder(tmp_path / "layout")
    layout.path.mkdir()
    capture(origin, tmp_path / "other", mixed_bytes(SIZE, seed=18), "v0", parent=None)
    copy_template(origin, "v0", FolderTarget(layout), "v0")
    load.store.delete_template("origin:v0")
    origin.close()

    def capture_next(number: int) -> None:
        """An incremental capture; most of its packs were pushed for its parents."""
        at = draw.randrange(SIZE - MiB)
        data[at : at + MiB] = draw.randbytes(MiB)
        capture(first, tmp_path / "next", bytes(data), f"v{number + 1}", parent=f"v{number}")
        if number >= 5:
            load.store.delete_template(f"demo:v{number - 5}")

    def copy_across(number: int) -> None:
        """From one repository to another: blobs are mounted."""
        newest = max(load.store.tags("demo"), key=lambda tag: int(tag[1:]))
        digest = load.store.resolve(f"demo:{newest}")
        target = load.client(f"copies/{number % 3}")
        try:
            copy_template(load.client("demo"), digest, RegistryTarget(target), "latest")
        finally:
            target.close()

    def bring_in(number: int) -> None:
        """From a folder, then away again: every blob is pushed anew."""
        target = load.client(f"imports/{number % 2}")
        copy_template(layout, "v0", RegistryTarget(target), "latest")
        checked = check_template(target, "latest", deep=True)
        assert checked.damage == ()
        load.store.delete_template(f"imports/{number % 2}:latest")
        target.close()

    freed: list[int] = []

    def collect(_: int) -> None:
        freed.append(load.store.gc(0.0, stale_s=3600.0).blobs)

    load.again_and_again("capture", capture_next)
    load.again_and_again("copy", copy_across)
    load.again_and_again("import", bring_in)
    load.again_and_again("gc", collect)
    load.run()
    assert min(load.counts.values()) >= 3, load.counts
    assert sum(freed) > 0
    for _ in range(2):  # once more when all is quiet
        assert load.store.find_damage(deep=True) == ()
        for one in load.store.templates():
            client = load.client(one.repository)
            checked = check_template(client, one.tag, deep=True)
            assert checked.damage == (), (one.repository, one.tag)
            client.close()
        load.store.gc(0.0)
    assert load.store.uploads() == ()
    first.close()


def capture(
    client: RegistryClient, folder: Path, data: bytes, tag: str, *, parent: str | None
) -> None:
    folder.mkdir(exist_ok=True)
    source = make_source(folder, data)
    with holding(client):
        capture_template(
            RegistryTarget(client),
            make_config(source.volume),
            [source],
            tag=tag,
            pack_bytes=4 * MiB,
            parent=open_template(client, parent) if parent else None,
        )
