"""The one door to programs: every program that the agent calls runs through `Run`.

A list of words and no shell, no inherited stdin, a clean environment, a time limit, bounded
output. What a program wrote on stderr is shown when, and only when, it fails.
"""

import contextlib
import os
import selectors
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Final, Protocol

from agent.errors import CommandFailed

Word = str | PathLike[str]

DEFAULT_TIMEOUT_S: Final = 120.0
MAX_OUTPUT_BYTES: Final = 64 * 1024 * 1024
_ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/root",
    "TERM": "dumb",
}
_PIECE_BYTES: Final = 64 * 1024
_GRACE_S: Final = 1.0
"""How long output may still come, from a child left behind, after the program itself ended."""
_QUOTED_STDERR: Final = 2000


@dataclass(frozen=True, slots=True)
class Output:
    """What a program said. `stdout` is bytes as written; `text` is the same decoded."""

    stdout: bytes
    stderr: str
    status: int

    @property
    def text(self) -> str:
        return self.stdout.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Ran:
    """One program that ran, for the log. `status` is None if it was killed or never began."""

    words: tuple[str, ...]
    status: int | None
    seconds: float
    stderr: str

    def __str__(self) -> str:
        end = "did not end" if self.status is None else f"status {self.status}"
        return f"{shlex.join(self.words)}: {end} in {self.seconds:.2f} s"


class Runner(Protocol):
    """The type to ask for: `Run` in earnest, a recording fake in tests."""

    def __call__(
        self,
        words: Sequence[Word],
        *,
        stdin: str | bytes | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        ok: Collection[int] = (0,),
        env: Mapping[str, str] | None = None,
        into: Callable[[bytes], None] | None = None,
        stop: threading.Event | None = None,
    ) -> Output: ...


def untraced(_ran: Ran) -> None:
    """The default trace: keep nothing."""


@dataclass(frozen=True, slots=True)
class Run:
    """Runs programs. `trace` hears of each one that ended, whatever its end was."""

    trace: Callable[[Ran], None] = untraced
    max_output_bytes: int = MAX_OUTPUT_BYTES

    def __call__(
        self,
        words: Sequence[Word],
        *,
        stdin: str | bytes | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        ok: Collection[int] = (0,),
        env: Mapping[str, str] | None = None,
        into: Callable[[bytes], None] | None = None,
        stop: threading.Event | None = None,
    ) -> Output:
        """Run `words` and return what it said. `env` adds to the clean environment.

        `into` gets stdout piece by piece, however long it is, and nothing of it is kept; what it
        raises ends the program. So does `stop`, when it is set.

        Raises CommandFailed if the program is missing, is still running after `timeout_s` (it
        and its process group are killed), writes too much, or ends with a status not in `ok`.
        """
        plain = tuple(os.fspath(word) for word in words)
        started = time.monotonic()
        status: int | None = None
        stderr = ""
        try:
            with _started(plain, stdin is not None, env) as process:
                data = stdin.encode() if isinstance(stdin, str) else stdin
                talk = _Talk(plain[0], timeout_s, self.max_output_bytes, into, stop)
                stdout, stderr = _converse(process, data, talk)
                status = process.returncode
        finally:
            self.trace(Ran(plain, status, time.monotonic() - started, stderr))
        if status not in ok:
            raise CommandFailed(f"{plain[0]} failed {_ending(status)}{_quoted(stderr)}")
        return Output(stdout, stderr, status)


def _started(
    words: tuple[str, ...], has_stdin: bool, env: Mapping[str, str] | None
) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(
            words,
            stdin=subprocess.PIPE if has_stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**_ENVIRONMENT, **(env or {})},
            start_new_session=True,
            bufsize=0,
        )
    except FileNotFoundError as error:
        raise CommandFailed(f"{words[0]} is not installed here") from error
    except OSError as error:
        raise CommandFailed(f"{words[0]} cannot be run: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class _Talk:
    """How to hear a program."""

    name: str
    timeout_s: float
    max_output_bytes: int
    into: Callable[[bytes], None] | None
    stop: threading.Event | None


def _converse(
    process: "subprocess.Popen[bytes]", data: bytes | None, talk: _Talk
) -> tuple[bytes, str]:
    """Feed and hear `process` until it ends; return its stdout and stderr.

    Whatever goes wrong, Ctrl-C included, its whole process group is dead afterwards.
    """
    name, timeout_s = talk.name, talk.timeout_s
    deadline = time.monotonic() + timeout_s
    heard = {"stdout": bytearray(), "stderr": bytearray()}
    try:
        with selectors.DefaultSelector() as selector:
            assert process.stdout is not None
            assert process.stderr is not None
            selector.register(process.stdout, selectors.EVENT_READ, "stdout")
            selector.register(process.stderr, selectors.EVENT_READ, "stderr")
            rest = memoryview(data or b"")
            if process.stdin is not None:
                if rest:
                    os.set_blocking(process.stdin.fileno(), False)
                    selector.register(process.stdin, selectors.EVENT_WRITE, "stdin")
                else:
                    process.stdin.close()
            ended_at: float | None = None
            while selector.get_map():
                now = time.monotonic()
                if process.poll() is not None:
                    ended_at = ended_at or now
                    if now - ended_at > _GRACE_S:
                        break  # a child left behind holds the pipe
                if talk.stop is not None and talk.stop.is_set():
                    raise CommandFailed(f"{name} was stopped")
                if now > deadline:
                    raise CommandFailed(
                        f"{name} was still running after {timeout_s:g} s and was killed"
                        + _quoted(heard["stderr"].decode("utf-8", "replace"))
                    )
                for key, _ in selector.select(min(0.2, max(deadline - now, 0.01))):
                    if key.data == "stdin":
                        rest = _feed(key.fd, rest)
                        if not rest:
                            selector.unregister(key.fileobj)
                            assert process.stdin is not None
                            process.stdin.close()
                    elif piece := os.read(key.fd, _PIECE_BYTES):
                        if talk.into is not None and key.data == "stdout":
                            talk.into(piece)
                            continue
                        heard[key.data] += piece
                        if len(heard[key.data]) > talk.max_output_bytes:
                            raise CommandFailed(
                                f"{name} wrote more than {talk.max_output_bytes} bytes "
                                f"on {key.data} and was killed"
                            )
                    else:
                        selector.unregister(key.fileobj)
        try:
            process.wait(timeout=max(deadline - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired as error:
            raise CommandFailed(
                f"{name} was still running after {timeout_s:g} s and was killed"
            ) from error
    except BaseException:
        _kill_group(process)
        raise
    return bytes(heard["stdout"]), heard["stderr"].decode("utf-8", "replace")


def _feed(fd: int, rest: memoryview) -> memoryview:
    """Write some of `rest`; return what is left. A program that stopped reading gets no more."""
    try:
        return rest[os.write(fd, rest[:_PIECE_BYTES]) :]
    except BlockingIOError:
        return rest
    except BrokenPipeError:
        return memoryview(b"")


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=5)  # a program stuck in the kernel cannot be waited for


def _ending(status: int) -> str:
    if status >= 0:
        return f"with status {status}"
    try:
        return f"by signal {signal.Signals(-status).name}"
    except ValueError:
        return f"by signal {-status}"


def _quoted(stderr: str) -> str:
    """Return the end of `stderr` as one line, for a message."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    text = " | ".join(lines)
    if len(text) > _QUOTED_STDERR:
        text = "… " + text[-_QUOTED_STDERR:]
    return f": {text}" if text else ""
