"""Our registry alone in a process that a test may kill: `python -m … DIR PORT FREE_FILE IDLE_S`.

FREE_FILE, when it exists, says how many bytes of blobs and uploads the disk shall hold.
"""

import asyncio
import sys
from pathlib import Path

from aiohttp import BasicAuth, web

from agent.units import MiB
from netboot.registry import Action, registry_routes
from netboot.store import Limits, Store
from netboot.store_uploads import free_bytes

TOKEN = "a-token-for-tests"
LIMITS = Limits(blob_bytes=64 * MiB, reserve_bytes=1 * MiB, uploads=64)


async def authorize(request: web.Request, repository: str, action: Action) -> None:
    header = request.headers.get("Authorization", "")
    if not header:
        raise web.HTTPUnauthorized(headers={"WWW-Authenticate": 'Basic realm="metalcast"'})
    basic = header.startswith("Basic ") and BasicAuth.decode(header).password == TOKEN
    if not basic and header != f"Bearer {TOKEN}":
        raise web.HTTPUnauthorized
    if repository.startswith("forbidden/") or (repository == "readonly" and action != "pull"):
        raise web.HTTPForbidden


async def serve(root: Path, port: int, free_file: Path, idle_s: float) -> None:
    def free(path: Path) -> int:
        try:
            files = (found for found in path.rglob("*/*") if found.is_file())
            return int(free_file.read_text()) - sum(found.stat().st_size for found in files)
        except FileNotFoundError:
            return free_bytes(path)

    app = web.Application()
    app.add_routes(registry_routes(Store(root, limits=LIMITS, free=free), authorize, idle_s=idle_s))
    runner = web.AppRunner(app, access_log=None, lingering_time=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])))
