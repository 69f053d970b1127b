"""Long polls: who waits for what, and waking them up."""

import asyncio
import contextlib
from collections.abc import Iterator


class Wakeups:
    """Lets one part of the server say that something about a key has changed.

    A listener hears every change from the moment it listens, so nothing is lost between looking
    and waiting. After `stop` nobody waits any more: the server is shutting down.
    """

    def __init__(self) -> None:
        self._listeners: dict[str, set[asyncio.Event]] = {}
        self.stopping = False

    def wake(self, *keys: str) -> None:
        for key in keys:
            for event in self._listeners.get(key, ()):
                event.set()

    def stop(self) -> None:
        self.stopping = True
        self.wake(*self._listeners)

    @property
    def waiting(self) -> int:
        return sum(len(events) for events in self._listeners.values())

    @contextlib.contextmanager
    def listen(self, *keys: str) -> Iterator["Listener"]:
        event = asyncio.Event()
        for key in keys:
            self._listeners.setdefault(key, set()).add(event)
        try:
            yield Listener(self, event)
        finally:
            for key in keys:
                listeners = self._listeners[key]
                listeners.discard(event)
                if not listeners:
                    del self._listeners[key]


class Listener:
    def __init__(self, wakeups: Wakeups, event: asyncio.Event) -> None:
        self._wakeups = wakeups
        self._event = event

    async def wait(self, timeout_s: float) -> bool:
        """Wait for a change; False means that none came in time, or that the server stops."""
        if self._wakeups.stopping or timeout_s <= 0:
            return False
        try:
            await asyncio.wait_for(self._event.wait(), timeout_s)
        except TimeoutError:
            return False
        self._event.clear()
        return not self._wakeups.stopping
