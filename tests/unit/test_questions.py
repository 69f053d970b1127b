"""The technician's questions: numbered, patient, and silent where the answer is known."""

import re

import pytest

from agent.bootargs import BootArgs
from agent.errors import Refused
from agent.flows.ask_network import ask_network
from agent.flows.questions import Questions, matching, one_of, template_name_from, yes_or_no
from agent.model.template import NAME_PATTERN


class Script:
    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.shown: list[str] = []

    def say(self, text: str = "") -> None:
        self.shown.append(text)

    def ask(self, question: str) -> str:
        self.shown.append(question)
        return self.answers.pop(0)


def test_it_asks_until_it_has_an_answer() -> None:
    script = Script("9", "x", "", "2")
    assert Questions(script).ask("Which disk?", one_of(3), argument="metalcast.disk.serial") == 1
    assert script.shown.count("   please type a number from 1 to 3") == 3
    assert script.shown[0] == "1. Which disk? "


def test_an_empty_line_takes_the_default() -> None:
    script = Script("")
    questions = Questions(script, number=1)
    assert questions.ask("Begin?", yes_or_no, argument="metalcast.yes", default="yes") is True
    assert script.shown == ["2. Begin? [yes] "]


def test_a_given_answer_is_shown_and_not_asked() -> None:
    script = Script()
    name = matching(NAME_PATTERN, "a name")
    assert Questions(script).ask("Name?", name, argument="metalcast.name", given="web1") == "web1"
    assert script.shown == ["1. Name? web1"]


def test_a_given_answer_that_is_none_is_refused() -> None:
    with pytest.raises(Refused, match="metalcast.yes=maybe: please type yes or no"):
        Questions(Script()).ask("Begin?", yes_or_no, argument="metalcast.yes", given="maybe")


def test_nobody_is_asked_when_nobody_is_there() -> None:
    with pytest.raises(Refused, match="no answer to: Name") as error:
        Questions(Script(), unattended=True).ask("Name?", str, argument="metalcast.name")
    assert error.value.hint == "give metalcast.name= on the kernel line"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("debian", "13", "web1"), "debian-13-web1"),
        ((None, "", None), "server"),
        (("Ünïx", "A B", None), "n-x-a-b"),
        (("x" * 300,), "x" * 100),
    ],
)
def test_a_suggested_name_fits_the_grammar(words: tuple[str | None, ...], name: str) -> None:
    assert template_name_from(*words) == name
    assert re.fullmatch(NAME_PATTERN, name)


def test_a_technician_gives_the_address_when_nobody_else_does() -> None:
    script = Script("192.0.2.7", "2001:db8::1/64", "192.0.2.7/24", "2001:db8::1", "192.0.2.1")
    (setting,) = ask_network(Questions(script), BootArgs()).ip
    assert (setting.address, setting.gateway) == ("192.0.2.7/24", "192.0.2.1")
    assert script.shown.count("   please type an IPv4 address and its prefix: 192.0.2.7/24") == 2


def test_a_network_without_a_gateway() -> None:
    (setting,) = ask_network(Questions(Script("10.0.0.2/8", "")), BootArgs()).ip
    assert (setting.address, setting.gateway) == ("10.0.0.2/8", None)
