"""Threads that work on one thing together: bounded queues, the first error wins, none is hidden."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Stopping(Exception):  # not an AgentError: it never leaves a pump
    """Another thread of the pump has failed, or the pump was told to stop."""


class Pump:
    """Runs threads until all are done or one fails.

    `wait` is called by the thread that made the pump. It returns only when every thread has
    ended, so nothing is written behind the caller's back after a failure.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.is_stopping = False
        self._errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._running = 0
        self._wakers: set[Callable[[], None]] = set()
        self._paces: set[Callable[[float], None]] = set()

    def start(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=self._guarded, args=(work,), name=name, daemon=True)
        with self.changed:
            self._running += 1
        self._threads.append(thread)
        thread.start()

    def fail(self, error: BaseException) -> None:
        """Remember `error` and stop everybody."""
        with self.changed:
            self._errors.append(error)
        self.stop()

    def stop(self) -> None:
        """Stop everybody, without an error."""
        with self.changed:
            self.is_stopping = True
            wakers = tuple(self._wakers)
            self.changed.notify_all()
        for wake in wakers:
            wake()

    @contextmanager
    def waking(
        self, wake: Callable[[], None], pace: Callable[[float], None] | None = None
    ) -> Iterator[None]:
        """Have `wake` called if the pump stops meanwhile: it ends a wait for a server.

        `pace` is called with the monotonic time now and then, by the thread that waits for all.
        """
        with self.changed:
            self._wakers.add(wake)
            if pace is not None:
                self._paces.add(pace)
        try:
            self.check()
            yield
        finally:
            with self.changed:
                self._wakers.discard(wake)
                if pace is not None:
                    self._paces.discard(pace)

    def check(self) -> None:
        """Raise Stopping if there is no point in going on."""
        if self.is_stopping:
            raise Stopping

    def pause(self, seconds: float) -> None:
        """Sleep, but not past the end of the pump."""
        with self.changed:
            self.changed.wait_for(lambda: self.is_stopping, seconds)
        self.check()

    def wait(self, tick: Callable[[], None], every_s: float = 0.5) -> None:
        """Call `tick` now and then until all threads have ended.

        Raises the first error; the others are its notes. Whatever `tick` raises counts as one.
        """
        try:
            while True:
                with self.changed:
                    if self.changed.wait_for(lambda: self._running == 0, every_s):
                        break
                    if self.is_stopping:
                        continue
                    paces = tuple(self._paces)
                now = time.monotonic()
                for pace in paces:
                    pace(now)
                tick()
        except BaseException as error:
            self.fail(error)
        self.finish()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def finish(self) -> None:
        """Wait for the threads to end; raise the first error, if any."""
        self.join()
        if self._errors:
            first, *others = self._errors
            for other in others:
                if other is not first:
                    first.add_note(f"also: {other}")
            raise first

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Stopping:
            pass
        except BaseException as error:
            self.fail(error)
        finally:
            with self.changed:
                self._running -= 1
                self.changed.notify_all()


class Conduit(Generic[T]):
    """A bounded queue between the threads of one pump."""

    def __init__(self, pump: Pump, limit: int) -> None:
        self._pump = pump
        self._limit = limit
        self._items: deque[T] = deque()
        self._closed = False

    def put(self, item: T) -> None:
        """Wait for room, then add `item`. Raises Stopping if the pump stops."""
        changed = self._pump.changed
        with changed:
            changed.wait_for(lambda: len(self._items) < self._limit or self._pump.is_stopping)
            self._pump.check()
            self._items.append(item)
            changed.notify_all()

    def close(self) -> None:
        """Say that no more will come."""
        with self._pump.changed:
            self._closed = True
            self._pump.changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """Yield items until the conduit is closed and empty. Raises Stopping if the pump stops."""
        changed = self._pump.changed
        while True:
            with changed:
                changed.wait_for(lambda: self._items or self._closed or self._pump.is_stopping)
                self._pump.check()
                if not self._items:
                    return
                item = self._items.popleft()
                changed.notify_all()
            yield item


def in_order(
    pump: Pump,
    items: Iterator[T],
    make_work: Callable[[], Callable[[T], R]],
    *,
    lanes: int,
    ahead: int,
) -> Generator[R, None, None]:
    """Yield what `lanes` threads make of `items`, in the order of the items.

    Each thread gets its own function from `make_work`. At most `ahead` items are begun and not
    yet taken, which bounds memory. The last item taken, the threads have ended. Use it under
    `contextlib.closing`: closed early, it stops the threads first.
    """
    numbered = enumerate(items)
    pulling = threading.Lock()
    done: dict[int, R] = {}
    count = _Count()
    changed = pump.changed

    def lane() -> None:
        try:
            work = make_work()
            while True:
                with changed:
                    changed.wait_for(lambda: count.begun - count.taken < ahead or pump.is_stopping)
                    pump.check()
                    count.begun += 1
                with pulling:
                    found = next(numbered, None)
                if found is None:
                    return
                number, item = found
                result = work(item)
                with changed:
                    done[number] = result
                    changed.notify_all()
        finally:
            with changed:
                count.ended += 1
                changed.notify_all()

    def is_ready() -> bool:
        return pump.is_stopping or count.taken in done or count.ended == lanes

    for number in range(lanes):
        pump.start(f"lane-{number}", lane)
    try:
        while True:
            with changed:
                changed.wait_for(is_ready)
                if pump.is_stopping or count.taken not in done:
                    break
                result = done.pop(count.taken)
            yield result
            with changed:
                count.taken += 1
                changed.notify_all()
    except GeneratorExit:
        pump.stop()
        pump.join()
        raise
    pump.finish()


@dataclass(slots=True)
class _Count:
    begun: int = 0
    taken: int = 0
    ended: int = 0
