"""The body of an answer: read piece by piece, with an eye on the clock."""

import contextlib
import http.client
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final

import requests
import urllib3

from agent.store.retry import Transient
from agent.units import KiB, MiB

PIECE_BYTES: Final = 256 * KiB
_LONG_PIECE_BYTES: Final = MiB
"""Where a piece comes in `_QUICK_S`: fewer turns of Python for a chunk."""
_QUICK_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Limits:
    """When a server counts as gone."""

    connect_s: float = 10.0
    read_s: float = 20.0
    """No byte at all for this long."""
    window_s: float = 20.0
    least_rate: int = 16 * KiB
    """Bytes a second, over each window."""


class Body:
    """The body of a ranged answer: `readinto` until `size` bytes have come."""

    def __init__(self, response: requests.Response, url: str, size: int, limits: Limits) -> None:
        self._response = response
        self._url = url
        self._left = size
        self._limits = limits
        self._waited = 0.0
        self._got = 0
        self._since: float | None = None
        self._piece_bytes = PIECE_BYTES
        self._is_slow = False
        self.failed: Callable[[Transient], None] | None = None
        """Hears why the bytes ended too soon."""
        self.origin: object = None
        """Whatever it came from, for whoever opened it."""

    def __enter__(self) -> "Body":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._response.close()  # read to its end, the connection is in the pool again already

    def wake(self) -> None:
        """End the wait of the thread that reads; for any other thread."""
        with contextlib.suppress(ValueError, RuntimeError, OSError):  # not connected any more
            self._response.raw.shutdown()

    def readinto(self, buffer: memoryview) -> None:
        """Fill `buffer`. Raises Transient if the bytes end, stall or trickle."""
        self._fill(buffer, self._copy)

    def fill(self, buffer: memoryview) -> None:
        """As `readinto`, without a copy; another thread must call `check_pace` now and then.

        The socket's bytes go straight into `buffer`, and Python's lock is free meanwhile.
        """
        self._fill(buffer, self._receive)

    def check_pace(self, now: float) -> None:
        """End a `fill` that trickles: a piece that takes longer than the window is too slow."""
        if self._since is not None and now - self._since > self._limits.window_s:
            self._is_slow = True
            self.wake()

    def _fill(self, buffer: memoryview, get: Callable[[memoryview], int]) -> None:
        done = 0
        try:
            while done < len(buffer):
                most = min(len(buffer) - done, self._piece_bytes, self._left)
                got = get(buffer[done : done + most])
                if not got:
                    raise Transient(f"{self._url}: cut off, {self._left} bytes before the end")
                done += got
                self._left -= got
            if not self._left:
                self._response.raw.release_conn()
        except Transient as error:
            if self.failed:
                self.failed(error)
            raise

    def _copy(self, buffer: memoryview) -> int:
        piece = self.some(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def _receive(self, buffer: memoryview) -> int:
        below = self._response.raw._fp  # urllib3 itself only hands out copies
        started = self._since = time.monotonic()
        try:
            got = below.readinto(buffer) if below is not None else 0
        except TimeoutError as error:
            raise Transient(f"{self._url}: no byte for {self._limits.read_s:g} s") from error
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise Transient(f"{self._url}: {root_reason(error)}") from error
        finally:
            self._since = None
        if self._is_slow:
            rate = len(buffer) / self._limits.window_s
            raise Transient(f"{self._url}: stalled, fewer than {rate:.0f} bytes/s")
        is_quick = time.monotonic() - started < _QUICK_S
        self._piece_bytes = _LONG_PIECE_BYTES if is_quick else PIECE_BYTES
        return got

    def some(self, most: int) -> bytes:
        """Return up to `most` bytes, as soon as there are some; none at the end."""
        started = time.monotonic()
        try:
            piece: bytes = self._response.raw.read1(most, decode_content=False)
        except urllib3.exceptions.ReadTimeoutError as error:
            raise Transient(f"{self._url}: no byte for {self._limits.read_s:g} s") from error
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise Transient(f"{self._url}: {root_reason(error)}") from error
        self._waited += time.monotonic() - started
        self._got += len(piece)
        if self._waited > self._limits.window_s:
            rate = self._got / self._waited
            self._waited, self._got = 0.0, 0
            if rate < self._limits.least_rate:
                raise Transient(f"{self._url}: stalled, {rate:.0f} bytes a second")
        return piece


def root_reason(error: BaseException) -> str:
    """Return what lies at the bottom: `Connection refused`, not five wrappers around it."""
    current: BaseException = error
    while True:
        inner = current.__cause__ or current.__context__
        reason = getattr(current, "reason", None)
        if isinstance(reason, BaseException):
            inner = reason
        if inner is None or inner is current:
            break
        current = inner
    if isinstance(current, OSError) and current.strerror:
        return current.strerror
    return str(current) or type(current).__name__
