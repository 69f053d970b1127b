"""The one door to programs, with real programs behind it."""

import os
import time
from pathlib import Path

import pytest

from agent.errors import CommandFailed
from agent.system.command import Ran, Run


def test_output_is_captured() -> None:
    output = Run()(["sh", "-c", "echo out; echo err >&2"])
    assert (output.text, output.stderr, output.status) == ("out\n", "err\n", 0)


def test_stdin_is_given_and_otherwise_empty() -> None:
    big = "line\n" * 400_000
    assert Run()(["cat"], stdin=big).text == big
    assert Run()(["cat"]).stdout == b""


def test_a_program_that_does_not_read_its_stdin() -> None:
    assert Run()(["true"], stdin=b"x" * 4_000_000).status == 0


def test_failure_ends_with_what_the_program_wrote() -> None:
    with pytest.raises(CommandFailed, match=r"^sh failed with status 3: no medium \| give up$"):
        Run()(["sh", "-c", "echo no medium >&2; echo give up >&2; exit 3"])


def test_another_status_may_be_fine() -> None:
    assert Run()(["sh", "-c", "exit 2"], ok=(0, 2)).status == 2


def test_a_signal_is_named() -> None:
    with pytest.raises(CommandFailed, match="sh failed by signal SIGKILL"):
        Run()(["sh", "-c", "kill -9 $$"])


def test_a_missing_program_is_named() -> None:
    with pytest.raises(CommandFailed, match="no-such-program is not installed"):
        Run()(["no-such-program", "--help"])


def test_no_shell_looks_at_the_words() -> None:
    assert Run()(["echo", "$HOME; rm *", Path("/a b")]).text == "$HOME; rm * /a b\n"


def test_the_environment_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "canary")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    text = Run()(["env"], env={"MORE": "1"}).text
    assert "canary" not in text
    assert "LC_ALL=C.UTF-8" in text
    assert "MORE=1" in text


def test_a_timeout_kills_the_whole_group(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 60 & echo $! > {pids}; echo working >&2; wait"
    with pytest.raises(CommandFailed, match=r"still running after 0.5 s and was killed: working"):
        Run()(["sh", "-c", script], timeout_s=0.5)
    deadline = time.monotonic() + 5
    while _is_running(int(pids.read_text())):
        assert time.monotonic() < deadline, "the child outlived its group"
        time.sleep(0.05)


def test_a_program_with_closed_output_is_timed_too() -> None:
    with pytest.raises(CommandFailed, match="still running"):
        Run()(["sh", "-c", "exec >&- 2>&-; sleep 60"], timeout_s=0.5)


def test_a_child_left_behind_does_not_hold_us() -> None:
    started = time.monotonic()
    assert Run()(["sh", "-c", "sleep 5 & echo done"]).text == "done\n"
    assert time.monotonic() - started < 4


def test_endless_output_is_stopped() -> None:
    with pytest.raises(CommandFailed, match="yes wrote more than 100000 bytes"):
        Run(max_output_bytes=100_000)(["yes"])


def test_every_run_is_traced() -> None:
    seen: list[Ran] = []
    run = Run(seen.append)
    run(["true"])
    with pytest.raises(CommandFailed):
        run(["false"])
    with pytest.raises(CommandFailed):
        run(["no-such-program"])
    assert [(ran.words, ran.status) for ran in seen] == [
        (("true",), 0),
        (("false",), 1),
        (("no-such-program",), None),
    ]


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (OSError, IndexError):
        return False
