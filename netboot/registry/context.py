"""What every handler of the registry works with."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, TypeVar

from netboot.registry.wire import Authorize
from netboot.store import Store

T = TypeVar("T")

_THREADS: Final = 8


@dataclass(slots=True)
class Context:
    """The store, who may use it, and threads for what blocks."""

    store: Store
    authorize: Authorize
    idle_s: float
    pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_THREADS, thread_name_prefix="store")
    )

    async def blocking(self, call: Callable[..., T], *values: object) -> T:
        """Run `call` in a thread: the disk must not hold up the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, call, *values)
