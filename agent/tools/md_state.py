"""What the kernel says of an md array that runs: its state, and how far it is in step."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import DiskError

_PAUSE_S: Final = 0.5
_IDLE_LOOKS: Final = 3
"""Between one piece of work and the next it is idle for a moment."""


@dataclass(frozen=True, slots=True)
class SyncState:
    """What an array is doing."""

    action: str
    """In the kernel's words: `idle`, `resync`, `recover`, `check`, `repair`, `reshape`."""
    fraction: float
    """How much of it is done, 0 to 1; 1 when idle."""
    degraded: int
    """How many members are missing or not yet filled."""
    in_step: bool
    """Its copies and parity are right on the members that are there."""


def sync_state(device: Path) -> SyncState:
    """Return what the array is doing. Raises DiskError if it is none, or is stopped."""
    action = _read(device, "sync_action", "idle")
    done, _, of = _read(device, "sync_completed", "none").partition(" / ")
    resync = _read(device, "resync_start", "none")
    fraction = 1.0 if action == "idle" else 0.0
    if done.isdigit() and of.isdigit() and int(of):
        fraction = int(done) / int(of)
    return SyncState(
        action=action,
        fraction=fraction,
        degraded=int(_read(device, "degraded", "0")),
        in_step=action == "idle" and resync == "none",
    )


def wait_for_sync(device: Path, report: Callable[[float], None], timeout_s: float) -> None:
    """Wait until the array is in step; `report` gets the fraction done now and then.

    Raises DiskError if that takes longer than `timeout_s`.
    """
    _wait(device, report, timeout_s, lambda state: state.in_step)


def check(device: Path, timeout_s: float = 24 * 3600.0) -> int:
    """Have the kernel compare all copies and parity; return how many sectors differ."""
    wait_for_sync(device, lambda _: None, timeout_s)
    _write(device, "sync_action", "check")
    _wait(device, lambda _: None, timeout_s, lambda state: state.action == "idle")
    return int(_read(device, "mismatch_cnt", ""))


def _wait(
    device: Path,
    report: Callable[[float], None],
    timeout_s: float,
    ended: Callable[[SyncState], bool],
) -> None:
    deadline = time.monotonic() + timeout_s
    looks = 0
    while looks < _IDLE_LOOKS:
        state = sync_state(device)
        report(state.fraction)
        looks = looks + 1 if ended(state) else 0
        if time.monotonic() > deadline:
            raise DiskError(
                f"{device} was not in step after {timeout_s:g} s ({state.action}, "
                f"{state.fraction:.0%})"
            )
        time.sleep(_PAUSE_S if not looks else _PAUSE_S / 5)


def _folder(device: Path) -> Path:
    folder = Path("/sys/class/block") / device.resolve().name / "md"
    if not folder.is_dir():
        raise DiskError(f"{device} is not an md array that runs")
    return folder


def _read(device: Path, name: str, absent: str) -> str:
    """Return an attribute, or `absent` where the level has none."""
    try:
        return (_folder(device) / name).read_text().strip()
    except FileNotFoundError:
        return absent
    except OSError as error:
        raise DiskError(f"could not read {name} of {device}: {error.strerror}") from error


def _write(device: Path, name: str, value: str) -> None:
    try:
        (_folder(device) / name).write_text(value)
    except OSError as error:
        raise DiskError(f"{device} does not take {value!r} as {name}: {error.strerror}") from error
