"""What every handler needs: the open state, the store, who waits, and who is asking."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aiohttp import web

from netboot.auth import Guard, Who
from netboot.limits import RateLimit
from netboot.mirrors import MirrorRule
from netboot.signing import SecretKey
from netboot.state import State, rfc3339
from netboot.templates import Templates
from netboot.wakeups import Wakeups
from netboot.watch import Watch


@dataclass(frozen=True, slots=True)
class Settings:
    """What `metalcast serve` was told."""

    data: Path
    host: str = "0.0.0.0"  # noqa: S104 - machines that boot must reach it
    port: int = 8470
    image: Path | None = None
    public_url: str | None = None
    kernel_args: tuple[str, ...] = ()
    mirrors: tuple[MirrorRule, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Context:
    """One running server."""

    settings: Settings
    state: State
    templates: Templates
    guard: Guard
    watch: Watch
    wakeups: Wakeups
    signer: SecretKey = field(repr=False)
    """This server's own key: agents whose image knows it take jobs from nobody else."""
    hello_limit: RateLimit = field(default_factory=lambda: RateLimit(per_s=10, burst=200))
    claim_limit: RateLimit = field(default_factory=lambda: RateLimit(per_s=20, burst=400))
    login_limit: RateLimit = field(default_factory=lambda: RateLimit(per_s=0.2, burst=10))
    now: Callable[[], float] = time.time

    def at(self) -> str:
        """Return the time of day as it is written in records."""
        return rfc3339(self.now())


CONTEXT: Final = web.AppKey("context", Context)
WHO: Final = web.RequestKey("who", Who)


def context_of(request: web.Request) -> Context:
    return request.app[CONTEXT]


def who_of(request: web.Request) -> Who:
    """Return who is asking, as the guard at the door found."""
    return request[WHO]


def job_key(job: str) -> str:
    return f"job {job}"


def machine_key(machine: str) -> str:
    return f"machine {machine}"


ANY_CHANGE: Final = "any"
API: Final = web.AppKey("api", dict[str, object])
"""The OpenAPI document."""
