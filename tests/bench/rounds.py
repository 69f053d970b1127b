"""Runs one after the other, in turns: A B C A B C A B C. Only what is timed is timed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

LEAST_ROUNDS: Final = 3
"""Of fewer there is no median."""
BUSY: Final = 2.5
_TIMEOUT_S: Final = 1200.0


class BenchFailed(Exception):
    """What was to be measured did not work: there is no figure."""


def say(text: str) -> None:
    """Tell whoever waits. The figures alone go to stdout."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def in_turns(
    contestants: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, tuple[float, ...]]:
    """Return what each contestant gave in each of `rounds` rounds."""
    given: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(1, rounds + 1):
        for name, run in contestants.items():
            os.sync()
            given[name].append(run())
            say(f"round {number}/{rounds}: {name}: {given[name][-1]:.2f}")
    return {name: tuple(values) for name, values in given.items()}


def timed(words: Sequence[str | Path], log: Path) -> float:
    """Run a program; return its seconds, from before it begins until it has ended."""
    with log.open("wb") as out:
        started = time.monotonic()
        process = subprocess.Popen(
            [str(word) for word in words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(_TIMEOUT_S)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # a pipeline is more than its shell
            process.wait()
            raise
        seconds = time.monotonic() - started
    if status:
        tail = log.read_text(errors="replace")[-1500:]
        raise BenchFailed(f"{words[0]} ended with {status}:\n{tail}")
    return seconds


def timed_pipe(line: str, log: Path) -> float:
    """Run a pipeline, all of whose programs must end with 0; return its seconds."""
    return timed(["bash", "-c", f"set -euo pipefail; {line}"], log)


def load_note() -> str:
    """Say so if others work on this machine, too."""
    load = os.getloadavg()[0]
    return f"the machine was busy before the start: load {load:.1f}" if load > BUSY else ""


def fresh_file(path: Path, size_bytes: int) -> Path:
    """Return `path` as a new file that is one hole."""
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path
