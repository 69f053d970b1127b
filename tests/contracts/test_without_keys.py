"""An image that was built without keys says so on every page that somebody may see."""

import json
import os
from collections.abc import Iterator

import pytest

from agent.bootargs import parse_bootargs
from agent.cli import main
from agent.errors import PlanRefused
from agent.flows.questions import Questions
from agent.flows.rescue import Rescue
from agent.model.event import Failed, Failure, Happening, PlanMade, Progress, Progressed, Succeeded
from agent.system.command import Run
from agent.trust.keyring import Keyring, read_keyring
from netboot.signing import make_key
from tests.contracts.test_agent_boot import Terminal

TOLD = "This image has no keys: what they would vouch for is NOT VERIFIED."
KEY = make_key().public
FAILURE = Failure(summary="no disk", because=(), disk="unchanged", hint=None, status=3)
PAGES: dict[str, Happening] = {
    "plan": PlanMade(text="CAPTURE\n", digest="sha256:00"),
    "done": Succeeded(result={}),
    "failure": Failed(failure=FAILURE),
}


def terminal_of(keyring: Keyring) -> Terminal:
    """Return a console of an image with these keys, whose words a test can read."""
    terminal = Terminal()
    terminal.console.lack = keyring.lack
    return terminal


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = terminal_of(Keyring())
    yield terminal
    os.close(terminal.ends[1])


@pytest.mark.parametrize("page", PAGES)
def test_every_page_says_so(terminal: Terminal, page: str) -> None:
    terminal.console.report(PAGES[page])
    assert terminal.text.endswith(f"{TOLD}\n")


def test_so_does_every_line_of_progress(terminal: Terminal) -> None:
    progress = Progress(what="root", done_bytes=1, total_bytes=4, bottleneck="write")
    terminal.console.report(Progressed(progress=progress))
    assert terminal.text == "  root  25 %  1 B of 4 B  (slowest: write)  (no keys)\n"


def test_so_does_the_first_page_of_a_rescue(terminal: Terminal) -> None:
    args = parse_bootargs("metalcast.mode=capture metalcast.disk.serial=NOT-THERE")
    questions = Questions(terminal.console, unattended=True)
    with pytest.raises(PlanRefused):
        Rescue(Run(), terminal.console, args, questions, Keyring()).work()
    page = terminal.text
    assert "No template keys in this image: it takes UNSIGNED templates." in page
    assert "No server keys in this image: it takes jobs from ANY server." in page
    assert page.rstrip().endswith(TOLD)


@pytest.mark.skipif(read_keyring().lack == "", reason="this machine has keys")
def test_so_does_the_agent_that_is_run_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect"]) == 0
    assert capsys.readouterr().out.endswith(f"{TOLD}\n")
    assert main(["plan", "--template", "web", "--source", "nowhere"]) == 3
    assert capsys.readouterr().err.endswith(f"{TOLD}\n")


def test_json_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["disks"] is not None


def test_which_keys_are_missing() -> None:
    assert Keyring().lack == "no keys"
    assert Keyring(templates=(KEY,)).lack == "no server keys"
    assert Keyring(server=(KEY,)).lack == "no template keys"
    assert Keyring((KEY,), (KEY,)).lack == ""


@pytest.mark.parametrize("page", PAGES)
def test_an_image_with_keys_has_nothing_to_say(page: str) -> None:
    terminal = terminal_of(Keyring((KEY,), (KEY,)))
    terminal.console.report(PAGES[page])
    assert "This image" not in terminal.text
