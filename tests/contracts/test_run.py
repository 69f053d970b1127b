"""What `Run` promises, asked of the real one and of the fake that tests use in its place."""

from collections.abc import Callable, Mapping

import pytest

from agent.errors import CommandFailed
from agent.system.command import Output, Run, Runner
from tests.unit.fake_run import FakeRun

Make = Callable[[Mapping[str, str | int | Output]], Runner]


@pytest.fixture(params=["real", "fake"])
def make(request: pytest.FixtureRequest) -> Make:
    """Return what makes a `Run`; its answers are what the real programs say."""
    if request.param == "real":
        return lambda _answers: Run()
    return FakeRun


def test_output_is_bytes_and_text(make: Make) -> None:
    output = make({"printf": "é\n"})(["printf", "é\\n"])
    assert output == Output("é\n".encode(), "", 0)
    assert output.text == "é\n"


def test_a_status_that_is_not_ok_is_an_error(make: Make) -> None:
    run = make({"false": 1})
    with pytest.raises(CommandFailed, match="^false failed with status 1"):
        run(["false"])
    assert run(["false"], ok=(0, 1)).status == 1
    with pytest.raises(CommandFailed):
        run(["true"], ok=(1,))


def test_stderr_ends_the_message(make: Make) -> None:
    run = make({"sh": Output(b"", "no medium", 4)})
    with pytest.raises(CommandFailed, match="^sh failed with status 4: no medium$"):
        run(["sh", "-c", "echo no medium >&2; exit 4"])


def test_stdin_takes_text_and_bytes(make: Make) -> None:
    run = make({})
    for data in ("text", b"bytes"):
        assert run(["true"], stdin=data, timeout_s=10, env={"A": "b"}).status == 0
