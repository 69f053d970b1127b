"""How much a stranger may ask: a bucket of tokens for each address."""

import time
from collections.abc import Callable
from typing import Final

ADDRESSES_MAX: Final = 10_000


class RateLimit:
    """Lets each key through `burst` times at once, and `per_s` times a second from then on."""

    def __init__(
        self, per_s: float, burst: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_s = per_s
        self._burst = burst
        self._monotonic = monotonic
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key: str) -> float:
        """Return 0.0 if `key` may pass now, else the seconds after which it may."""
        now = self._monotonic()
        left, since = self._buckets.pop(key, (float(self._burst), now))
        left = min(float(self._burst), left + (now - since) * self._per_s)
        wait_s = 0.0 if left >= 1 else (1 - left) / self._per_s
        self._buckets[key] = (left - 1 if wait_s == 0 else left, now)
        if len(self._buckets) > ADDRESSES_MAX:  # the one that asked least recently is forgotten
            del self._buckets[next(iter(self._buckets))]
        return wait_s
