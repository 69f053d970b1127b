"""Threads together: order, bounds, the first error wins, none is hidden, nobody is left behind."""

import threading
import time
from collections.abc import Callable
from contextlib import closing

import pytest

from agent.store.retry import Retry, Transient, Tries
from agent.stream.pump import Conduit, Pump, in_order


def idle() -> None:
    pass


def test_a_pump_waits_for_all() -> None:
    pump, done = Pump(), []
    for number in range(4):
        pump.start("x", lambda number=number: done.append(number))  # type: ignore[misc]
    pump.wait(idle)
    assert sorted(done) == [0, 1, 2, 3]


def test_the_first_error_wins_and_the_others_are_noted() -> None:
    pump = Pump()
    second = threading.Event()

    def first() -> None:
        raise ValueError("first")

    def late() -> None:
        second.wait(5)
        raise OSError("second")

    pump.start("first", first)
    pump.start("late", late)
    threading.Timer(0.05, second.set).start()
    with pytest.raises(ValueError, match="first") as caught:
        pump.wait(idle)
    assert caught.value.__notes__ == ["also: second"]


def test_an_error_frees_those_who_wait_for_a_queue() -> None:
    pump = Pump()
    full: Conduit[int] = Conduit(pump, limit=1)
    empty: Conduit[int] = Conduit(pump, limit=1)

    def fill() -> None:
        for number in range(10):
            full.put(number)

    def drain() -> None:
        for _ in empty:
            pass

    def fail() -> None:
        time.sleep(0.05)
        raise ValueError("stop")

    for work in (fill, drain, fail):
        pump.start(work.__name__, work)
    with pytest.raises(ValueError, match="stop"):
        pump.wait(idle)


def test_what_the_tick_raises_ends_the_pump() -> None:
    pump = Pump()
    pump.start("sleeper", lambda: pump.pause(30))

    def tick() -> None:
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pump.wait(tick, every_s=0.01)
    assert time.monotonic() - started < 5


def test_a_stop_wakes_whoever_waits_for_a_server() -> None:
    pump, woken = Pump(), threading.Event()

    def work() -> None:
        with pump.waking(woken.set):
            assert woken.wait(5)

    pump.start("waiter", work)
    time.sleep(0.02)
    pump.fail(ValueError("stop"))
    with pytest.raises(ValueError, match="stop"):
        pump.finish()


def test_results_come_in_order_and_never_more_than_a_few_ahead() -> None:
    begun: list[int] = []
    most = 0

    def make() -> Callable[[int], int]:
        def work(item: int) -> int:
            begun.append(item)
            time.sleep(0.001 * (item % 5))
            return item * item

        return work

    results = []
    for result in in_order(Pump(), iter(range(100)), make, lanes=4, ahead=6):
        results.append(result)
        most = max(most, len(begun) - len(results))
    assert results == [item * item for item in range(100)]
    assert most <= 6


def test_an_error_in_a_lane_ends_the_order() -> None:
    def make() -> Callable[[int], int]:
        def work(item: int) -> int:
            if item == 7:
                raise ValueError("seven")
            return item

        return work

    got: list[int] = []
    with pytest.raises(ValueError, match="seven"):
        got.extend(in_order(Pump(), iter(range(100)), make, lanes=3, ahead=4))
    assert got == list(range(len(got)))
    assert len(got) <= 7


def test_whoever_stops_taking_leaves_no_thread() -> None:
    before = threading.active_count()
    with closing(
        in_order(Pump(), iter(range(1000)), lambda: lambda item: item, lanes=3, ahead=4)
    ) as results:
        assert next(results) == 0
    assert threading.active_count() == before


def test_pauses_double_up_to_a_limit_and_progress_gives_attempts_back() -> None:
    slept: list[float] = []
    tries = Tries(Retry(attempts=6, first_s=1, longest_s=4, sleep=slept.append))
    for _ in range(4):
        tries.failed(Transient("cut"))
    assert [round(pause * 4 / 3) >= low for pause, low in zip(slept, (1, 2, 4, 4), strict=True)]
    assert all(0.75 * top <= pause <= top for pause, top in zip(slept, (1, 2, 4, 4), strict=True))
    tries.progress()
    for _ in range(5):
        tries.failed(Transient("cut"))
    with pytest.raises(Transient, match="the last"):
        tries.failed(Transient("the last"))


def test_retry_after_is_honoured_up_to_a_limit() -> None:
    slept: list[float] = []
    tries = Tries(Retry(attempts=6, first_s=1, most_retry_after_s=60, sleep=slept.append))
    tries.failed(Transient("busy", wait_s=30))
    assert slept == [30]
    with pytest.raises(Transient):
        tries.failed(Transient("busy", wait_s=3600))
