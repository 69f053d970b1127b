"""Every registry that the stream must work with: the fake, our own, Debian's docker-registry."""

import asyncio
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from aiohttp import web

from netboot.registry import registry_routes
from netboot.store import Store
from tests.conftest import cannot_run
from tests.contracts.fake_registry import FakeRegistry
from tests.harness.daemons import wait_for_port


@contextmanager
def fake(_folder: Path) -> Iterator[str]:
    with FakeRegistry().serving() as url:
        yield url


@contextmanager
def netboot(folder: Path) -> Iterator[str]:
    """Serve our own registry, open to all, from a thread of this process."""

    async def anybody(*_anything: object) -> None:
        """Everyone may do everything: who may is tested elsewhere."""

    async def serve() -> None:
        app = web.Application()
        app.add_routes(registry_routes(store, anybody))
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port.append(runner.addresses[0][1])
        ready.set()
        await stop.wait()
        await runner.cleanup()

    store = Store(folder / "store")
    port: list[int] = []
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    try:
        assert ready.wait(10)
        yield f"http://127.0.0.1:{port[0]}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
        store.close()


@contextmanager
def debian(folder: Path) -> Iterator[str]:
    """Run Debian's docker-registry."""
    if not shutil.which("docker-registry"):
        cannot_run("docker-registry is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "registry.yml"
    config.write_text(
        "version: 0.1\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'docker'}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", config], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        wait_for_port(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


REGISTRIES: dict[str, Callable[[Path], AbstractContextManager[str]]] = {
    "fake": fake,
    "netboot": netboot,
    "debian": debian,
}
