"""Holding a repository: while we are at work on it, a store collects none of its garbage.

The protocol has no word for it, but every store spares a repository with an unfinished upload. So
one is kept open, and asked about now and then, until the work is done.
"""

import contextlib
import threading
from collections.abc import Iterator

from agent.errors import ServerError
from agent.store.registry import RegistryClient

EVERY_S = 120.0


@contextlib.contextmanager
def holding(client: RegistryClient, every_s: float = EVERY_S) -> Iterator[None]:
    """Keep the blobs of the repository, needed by a manifest already or not, while this lasts."""
    upload = client.retry.call(client.start_upload)
    done = threading.Event()

    def stay() -> None:
        while not done.wait(every_s):
            with contextlib.suppress(ServerError):  # the work itself will tell, if it matters
                upload.offset()

    thread = threading.Thread(target=stay, name="hold", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with contextlib.suppress(ServerError):
            upload.cancel()
