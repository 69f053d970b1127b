"""Trying again: which failures pass, how long to wait, when to stop."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from agent.errors import ServerError

T = TypeVar("T")


class Transient(ServerError):
    """A failure that may pass: no connection, a cut, a stall, 429, 5xx.

    `wait_s` is how long the server asks us to stay away (Retry-After).
    """

    def __init__(self, message: str, *, hint: str | None = None, wait_s: float = 0.0) -> None:
        super().__init__(message, hint=hint)
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how patiently. The pause doubles from `first_s` up to `longest_s`."""

    attempts: int = 10
    first_s: float = 0.5
    longest_s: float = 15.0
    most_retry_after_s: float = 120.0
    sleep: Callable[[float], None] = time.sleep

    def call(self, work: Callable[[], T]) -> T:
        """Return what `work` returns. Raises its last error when the attempts are used up."""
        tries = Tries(self)
        while True:
            try:
                return work()
            except Transient as error:
                tries.failed(error)


ONCE = Retry(attempts=1)


@dataclass(slots=True)
class Tries:
    """The attempts at one thing. Progress gives them all back."""

    policy: Retry
    used: int = field(default=0)

    def progress(self) -> None:
        self.used = 0

    def failed(self, error: Transient) -> None:
        """Wait before the next attempt. Raises `error` if there is none left."""
        self.used += 1
        if self.used >= self.policy.attempts or error.wait_s > self.policy.most_retry_after_s:
            raise error
        backoff = min(self.policy.first_s * 2 ** (self.used - 1), self.policy.longest_s)
        jitter = random.uniform(0.75, 1.0)  # noqa: S311
        self.policy.sleep(max(error.wait_s, backoff * jitter))
