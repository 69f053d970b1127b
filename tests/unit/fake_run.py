"""A fake `Run`: says what it was told to say and remembers what it was asked to run."""

import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from agent.errors import CommandFailed
from agent.system.command import DEFAULT_TIMEOUT_S, Output, Word


@dataclass(frozen=True, slots=True)
class Asked:
    words: tuple[str, ...]
    stdin: str | bytes | None


@dataclass(slots=True)
class FakeRun:
    """Answers by the most words that a command line begins with: `"blkid -p": "ext4"`.

    An `int` answer is an exit status with nothing said. No answer: a program that says nothing.
    """

    answers: Mapping[str, str | bytes | int | Output] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

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
        plain = tuple(os.fspath(word) for word in words)
        self.asked.append(Asked(plain, stdin))
        line = " ".join(plain)
        fitting = [key for key in self.answers if f"{line} ".startswith(f"{key} ")]
        output = _output(self.answers[max(fitting, key=len)] if fitting else "")
        if output.status not in ok:
            raise CommandFailed(f"{plain[0]} failed with status {output.status}: {output.stderr}")
        if into is not None:
            into(output.stdout)
            return Output(b"", output.stderr, output.status)
        return output

    @property
    def lines(self) -> list[str]:
        """The command lines that ran, in order."""
        return [" ".join(asked.words) for asked in self.asked]


def _output(answer: str | bytes | int | Output) -> Output:
    match answer:
        case Output():
            return answer
        case int():
            return Output(b"", "", answer)
        case bytes():
            return Output(answer, "", 0)
        case str():
            return Output(answer.encode(), "", 0)
