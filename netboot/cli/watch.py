"""`metalcast job watch`: a job as it happens, on a terminal, in a log file, or as JSON lines."""

import sys
import time
from dataclasses import dataclass
from typing import Final, assert_never

from agent.errors import ExitStatus, ServerError
from agent.model.event import (
    Event,
    Failed,
    Level,
    Logged,
    PlanMade,
    Progress,
    Progressed,
    StepStarted,
    Succeeded,
)
from agent.model.job import DeploySpec, Job, JobState, WipeSpec
from agent.model.result import result_line
from agent.model.wire import encode
from agent.units import format_bytes
from netboot.cli.show import clean, clean_page, failure_lines, format_seconds, say
from netboot.client import Client

PATIENCE_S: Final = 120
PLAIN_EVERY_S: Final = 10
TERMINAL_EVERY_S: Final = 0.2


def watch_job(client: Client, job: str, *, as_json: bool) -> int:
    """Follow `job` to its end and return its exit status. Survives a restart of the server."""
    found = client.job(job)
    screen = Screen(as_json=as_json, is_terminal=sys.stdout.isatty())
    after = 0
    lost_at: float | None = None
    while True:
        try:
            for one in client.watch(job, after):
                lost_at = None
                if isinstance(one, Event):
                    after = one.sequence
                    screen.event(one)
                else:
                    found = one
                    screen.job(found)
        except ServerError:
            lost_at = lost_at or time.monotonic()
            if time.monotonic() - lost_at > PATIENCE_S:
                raise
        if found.state.ended:
            screen.end(found)
            return job_status(found)
        time.sleep(1)


def job_status(job: Job) -> int:
    """Return the exit status that an ended job deserves: that of its agent."""
    if job.state is JobState.SUCCEEDED:
        return ExitStatus.DONE
    if job.failure:
        known = job.failure.status in tuple(ExitStatus) and job.failure.status != ExitStatus.DONE
        return job.failure.status if known else ExitStatus.FAILED
    writes = isinstance(job.spec, DeploySpec | WipeSpec) and job.fence > 0
    return ExitStatus.FAILED if writes else ExitStatus.REFUSED


def progress_line(progress: Progress) -> str:
    """Return `root  1.2 GiB of 3.4 GiB  35 %  120.0 MiB/s  0:21 left`."""
    parts = [clean(progress.what)]
    done, total = progress.done_bytes, progress.total_bytes
    if total > 0:
        parts.append(f"{format_bytes(done)} of {format_bytes(total)}  {100 * done // total} %")
    else:
        parts.append(format_bytes(done))
    if progress.rate:
        parts.append(f"{format_bytes(progress.rate)}/s")
    if progress.seconds_left is not None:
        parts.append(f"{format_seconds(progress.seconds_left)} left")
    if progress.bottleneck:
        parts.append(f"(waits for {clean(progress.bottleneck)})")
    return "  ".join(parts)


@dataclass
class Screen:
    """Where a job is shown. On a terminal the last line is the progress, and is overwritten."""

    as_json: bool
    is_terminal: bool
    _live: bool = False
    _shown_at: float = float("-inf")
    _state: str = ""

    def job(self, job: Job) -> None:
        if self.as_json:
            sys.stdout.buffer.write(b'{"job":' + encode(job) + b"}\n")
            sys.stdout.buffer.flush()
            return
        if job.state.value != self._state and not job.state.ended:
            self._state = job.state.value
            waiting = "waits for its machine to boot from the network"
            self._line(f"{job.id} {waiting if job.state is JobState.QUEUED else 'is running'}")
        if job.progress and not job.state.ended:
            self._progress(job.progress)

    def event(self, event: Event) -> None:
        if self.as_json:
            sys.stdout.buffer.write(b'{"event":' + encode(event) + b"}\n")
            sys.stdout.buffer.flush()
            return
        match event.happening:
            case StepStarted(index=index, count=count, summary=summary):
                self._line(f"[{index}/{count}] {clean(summary)}")
            case PlanMade(text=text):
                self._line(clean_page(text.rstrip()))
            case Logged(level=level, message=message):
                mark = "" if level is Level.INFO else f"{level.value}: "
                self._line(f"  {mark}{clean(message)}")
            case Succeeded(result=result):
                if line := result_line(result):
                    self._line(clean(line))
            case Failed() | Progressed():
                pass
            case _ as never:
                assert_never(never)

    def end(self, job: Job) -> None:
        if self.as_json:
            return
        self._line(f"{job.id} {job.state.value}")
        if job.template_digest and job.state is JobState.SUCCEEDED:
            self._line(f"  template {job.template_digest}")
        for line in failure_lines(job.failure) if job.failure else ():
            self._line(line)

    def _line(self, text: str) -> None:
        if self._live:
            sys.stdout.write("\r\x1b[K")
            self._live = False
        say(text)

    def _progress(self, progress: Progress) -> None:
        every = TERMINAL_EVERY_S if self.is_terminal else PLAIN_EVERY_S
        if time.monotonic() - self._shown_at < every:
            return
        self._shown_at = time.monotonic()
        line = f"  {progress_line(progress)}"
        if self.is_terminal:
            sys.stdout.write(f"\r\x1b[K{line}")
            sys.stdout.flush()
            self._live = True
        else:
            say(line)
