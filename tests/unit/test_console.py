"""A console shows everything and holds nobody up."""

import os
import time

from agent.console import Console, Screen, duration, failure_page, progress_line
from agent.model.event import Failure, Progress, Progressed
from agent.units import MiB


def read_all(fd: int) -> str:
    os.set_blocking(fd, False)
    try:
        return os.read(fd, 1 << 16).decode()
    except BlockingIOError:
        return ""


def test_a_wedged_console_does_not_block_the_work() -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    console = Console([Screen(write_end)], [])
    began = time.monotonic()
    for _ in range(20_000):
        console.say("x" * 100)
    assert time.monotonic() - began < 5
    assert read_all(read_end).startswith("x" * 100)


def test_progress_is_shown_at_its_start_and_end_and_rarely_between() -> None:
    read_end, write_end = os.pipe()
    console = Console([Screen(write_end)], [])
    for done in range(101):
        what = Progress(what="root", done_bytes=done * MiB, total_bytes=100 * MiB)
        console.report(Progressed(progress=what))
    console.drain()
    lines = read_all(read_end).splitlines()
    assert lines == [
        "  root  0 %  0 B of 100.0 MiB",
        "  root  100 %  100.0 MiB of 100.0 MiB",
    ]


def test_a_line_comes_from_whichever_console_somebody_types_on() -> None:
    quiet_read, _quiet_write = os.pipe()
    read_end, write_end = os.pipe()
    out_read, out_write = os.pipe()
    console = Console([Screen(out_write)], [quiet_read, read_end])
    os.write(write_end, b"  2 \r\n")
    assert console.ask("Which disk? ") == "2"
    console.drain()
    assert read_all(out_read) == "Which disk? "


def test_progress_line_names_rate_time_and_bottleneck() -> None:
    progress = Progress(
        what="root",
        done_bytes=25 * MiB,
        total_bytes=100 * MiB,
        rate=5 * MiB,
        seconds_left=75,
        bottleneck="decode",
    )
    assert progress_line(progress) == (
        "  root  25 %  25.0 MiB of 100.0 MiB  5.0 MiB/s  1 min 15 s left  (slowest: decode)"
    )


def test_durations() -> None:
    assert [duration(s) for s in (4.9, 125, 4020)] == ["4 s", "2 min 05 s", "1 h 07 min"]


def test_a_failure_reads_what_why_disk_and_next_step() -> None:
    failure = Failure(
        summary="could not restore root",
        because=("chunk 9f2c is damaged at http://10.0.0.5/v2",),
        disk="partly written, will not boot",
        hint="on the server: metalcast template verify demo",
        status=4,
    )
    assert failure_page(failure).splitlines() == [
        "error: could not restore root",
        "  because  chunk 9f2c is damaged at http://10.0.0.5/v2",
        "  disk     partly written, will not boot",
        "  try      on the server: metalcast template verify demo",
    ]
