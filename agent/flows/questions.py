"""Numbered questions to a technician. What a kernel argument answers is not asked again."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from agent.errors import AgentError, Refused

T = TypeVar("T")


class Talk(Protocol):
    """Where questions are asked: a Console, or a script in tests."""

    def say(self, text: str = "") -> None: ...

    def ask(self, question: str) -> str: ...


class NotAnAnswer(Exception):
    """What was typed does not answer the question; the text says what would."""


@dataclass
class Questions:
    """Asks in order and numbers as it goes. `unattended` never asks: no answer is a refusal."""

    talk: Talk
    unattended: bool = False
    number: int = 0

    def ask(
        self,
        text: str,
        read: Callable[[str], T],
        *,
        argument: str,
        given: str | None = None,
        default: str | None = None,
        echo: bool = True,
    ) -> T:
        """Return `read(answer)`, asking until it is one.

        `given` is the answer that came with the kernel argument `argument`: it is shown, not asked;
        if it is no answer, that is refused, because nobody may be there to type another.
        """
        self.number += 1
        if given is not None or self.unattended:
            return self._take(text, read, argument, given if given is not None else default, echo)
        offered = f" [{default}]" if default else ""
        while True:
            typed = self.talk.ask(f"{self.number}. {text}{offered} ")
            try:
                return read(typed or default or "")
            except (NotAnAnswer, AgentError) as error:
                self.talk.say(f"   {error}")

    def _take(
        self, text: str, read: Callable[[str], T], argument: str, answer: str | None, echo: bool
    ) -> T:
        if answer is None:
            raise Refused((f"no answer to: {text}",), hint=f"give {argument}= on the kernel line")
        try:
            value = read(answer)
        except (NotAnAnswer, AgentError) as error:
            raise Refused((f"{argument}={answer}: {error}",), hint=str(error)) from error
        self.talk.say(f"{self.number}. {text} {answer if echo else '(given)'}")
        return value


def yes_or_no(answer: str) -> bool:
    words = {"y": True, "yes": True, "1": True, "n": False, "no": False, "0": False}
    if answer.lower() not in words:
        raise NotAnAnswer("please type yes or no")
    return words[answer.lower()]


def one_of(count: int) -> Callable[[str], int]:
    """Return a reader of a number from 1 to `count`; it gives the place, counted from 0."""

    def read(answer: str) -> int:
        if not answer.isascii() or not answer.isdigit() or not 1 <= int(answer) <= count:
            raise NotAnAnswer(f"please type a number from 1 to {count}")
        return int(answer) - 1

    return read


def matching(pattern: str, wanted: str) -> Callable[[str], str]:
    """Return a reader of text that fits `pattern` whole; `wanted` says what that is."""

    def read(answer: str) -> str:
        if not re.fullmatch(pattern, answer) or "\n" in answer:
            raise NotAnAnswer(f"please type {wanted}")
        return answer

    return read


def template_name_from(*words: str | None) -> str:
    """Return a template's name made of `words`, such as an OS id, its version and a hostname."""
    text = "-".join(word for word in words if word).lower()
    text = re.sub(r"[^a-z0-9]+", "-", text).strip("-")
    return text[:100].strip("-") or "server"
