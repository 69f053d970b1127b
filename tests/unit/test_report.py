"""Events reach the server in order, progress is thinned out, and a lost job stops the work."""

import threading
import time

import pytest

from agent.errors import ClaimRefused, ServerError
from agent.model.event import Event, Level, Logged, Progress, Progressed
from agent.report import EventPoster


class Taker:
    """A poster that remembers what it got. `errors` are raised first, one a call."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.got: list[Event] = []
        self.calls = 0
        self.gate = threading.Event()
        self.gate.set()

    def post_events(self, events: list[Event]) -> None:
        self.gate.wait(5)
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        self.got += events


def log(text: str) -> Logged:
    return Logged(level=Level.INFO, message=text)


def progress(done: int) -> Progressed:
    return Progressed(progress=Progress(what="root", done_bytes=done, total_bytes=100))


def test_all_arrives_in_order() -> None:
    taker = Taker()
    poster = EventPoster(taker)
    for number in range(5):
        poster.report(log(str(number)))
    poster.close()
    assert [event.happening for event in taker.got] == [log(str(n)) for n in range(5)]
    assert [event.number for event in taker.got] == [1, 2, 3, 4, 5]


def test_only_the_newest_progress_waits() -> None:
    taker = Taker()
    taker.gate.clear()
    poster = EventPoster(taker)
    poster.report(log("first"))
    time.sleep(0.1)  # the thread has taken the first and stands at the gate
    for done in range(50):
        poster.report(progress(done))
    taker.gate.set()
    poster.close()
    assert [event.happening for event in taker.got] == [log("first"), progress(49)]


def test_a_server_that_is_away_is_asked_again() -> None:
    taker = Taker(ServerError("away"))
    poster = EventPoster(taker)
    poster.report(log("x"))
    poster.confirm(timeout_s=10)
    assert [event.happening for event in taker.got] == [log("x")]


def test_confirm_gives_up_with_a_reason() -> None:
    taker = Taker(*[ServerError("away")] * 9)
    poster = EventPoster(taker)
    poster.report(log("x"))
    with pytest.raises(ServerError, match="did not take our events"):
        poster.confirm(timeout_s=0.3)


def test_a_lost_job_stops_the_work() -> None:
    taker = Taker(ClaimRefused("fenced"))
    poster = EventPoster(taker)
    poster.report(log("x"))
    with pytest.raises(ClaimRefused):
        poster.confirm(timeout_s=5)
    with pytest.raises(ClaimRefused):
        poster.report(log("y"))
    assert taker.got == []


def test_a_quiet_agent_still_keeps_its_lease() -> None:
    taker = Taker()
    EventPoster(taker, heartbeat_s=0.2)
    deadline = time.monotonic() + 10
    while taker.calls < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert taker.calls >= 2
    assert taker.got == []
