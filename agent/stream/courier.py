"""Uploads done by a thread of their own, so that reading and compressing do not wait for acks."""

import time
from collections.abc import Callable
from typing import Final

from agent.store.pack import Upload
from agent.stream.progress import Stages
from agent.stream.pump import Conduit, Pump, Stopping

_WAITING: Final = 1
"""Pieces that are ready beside the one on its way: more would only take memory."""


class Courier:
    """Carries the pieces of uploads to the store, in order. `waited_s` grows while it is behind.

    Its first error is raised by the next call, or by `close`.
    """

    def __init__(self, stages: Stages) -> None:
        self.waited_s = 0.0
        self._stages = stages
        self._pump = Pump()
        self._work: Conduit[Callable[[], None]] = Conduit(self._pump, _WAITING)
        self._pump.start("upload", self._run)

    def carry(self, upload: Upload) -> Upload:
        """Return `upload` as something that takes bytes at once and sends them later."""
        return _Carried(self, upload)

    def hand(self, work: Callable[[], None]) -> None:
        started = time.monotonic()
        try:
            self._work.put(work)
        except Stopping:
            self._pump.finish()
            raise
        self.waited_s += time.monotonic() - started

    def pause(self, seconds: float) -> None:
        """Sleep, but not past the end: for whatever the courier's own work waits for."""
        self._pump.pause(seconds)

    def close(self, tick: Callable[[], None]) -> None:
        """Wait until all is carried, calling `tick` now and then."""
        self._work.close()
        self._pump.wait(tick)

    def stop(self) -> None:
        """Carry nothing more; return when nothing moves any more."""
        self._pump.stop()
        self._pump.join()

    def _run(self) -> None:
        for work in self._work:
            with self._stages.timed("upload"):
                work()


class _Carried:
    def __init__(self, courier: Courier, upload: Upload) -> None:
        self._courier = courier
        self._upload = upload

    def append(self, *parts: bytes) -> None:
        self._courier.hand(lambda: self._upload.append(*parts))

    def finish(self, digest: str) -> None:
        self._courier.hand(lambda: self._upload.finish(digest))

    def cancel(self) -> None:
        """For when the courier has stopped."""
        self._upload.cancel()
