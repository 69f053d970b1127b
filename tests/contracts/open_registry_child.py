"""Our own registry in a process of its own, to be killed: `python -m … FOLDER PORT`."""

import sys
from pathlib import Path

from aiohttp import web

from netboot.registry import registry_routes
from netboot.store import Store


async def anybody(*_anything: object) -> None:
    """Everyone may do everything."""


if __name__ == "__main__":
    app = web.Application()
    app.add_routes(registry_routes(Store(Path(sys.argv[1])), anybody))
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), print=lambda *_: None)
