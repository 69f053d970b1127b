"""What agents report, and watching it: by long poll, or as server-sent events."""

import asyncio
import logging
from typing import Any, Final

from aiohttp import web

from agent.model.event import Event
from agent.model.job import CaptureSpec, EventsAnswer, Job
from agent.model.wire import encode
from netboot import events, jobs
from netboot.auth import Access, JobBearer
from netboot.context import ANY_CHANGE, Context, context_of, job_key, who_of
from netboot.problems import forbidden
from netboot.routes import (
    AFTER,
    STREAM,
    WAIT,
    WAIT_MAX_S,
    Route,
    json_response,
    path_value,
    query_number,
    read_body,
)

LOG: Final = logging.getLogger("metalcast")
SEQUENCE_MAX: Final = 2**53
KEEP_ALIVE_S: Final = 15


async def post_events(request: web.Request) -> web.Response:
    context = context_of(request)
    job = path_value(request, "job")
    who = who_of(request)
    if not isinstance(who, JobBearer):
        raise forbidden("only the agent that claimed a job reports on it")
    said = await read_body(request, list[Event])
    fence = who.token.fence
    if (digest := events.capture_result(said)) is not None or _succeeds(said):
        found = await context.state.run(jobs.find_job, job)
        if isinstance(found.spec, CaptureSpec) and not found.state.ended:
            await context.templates.check_captured(found.spec.name, digest)
    kept = await context.state.run(events.keep_events, job, fence, said, context.at())
    context.watch.hear(job, fence, kept.fresh)
    if kept.ended:
        context.watch.forget(job)
        _log_end(await context.state.run(jobs.find_job, job))
    if kept.fresh:
        context.wakeups.wake(job_key(job))
    if kept.ended:
        context.wakeups.wake(ANY_CHANGE)
    return json_response(EventsAnswer(sequence=kept.sequence, lease_s=context.watch.lease_s))


def _succeeds(said: list[Event]) -> bool:
    return any(event.happening.__struct_config__.tag == "succeeded" for event in said)


def _log_end(job: Job) -> None:
    why = job.failure.summary if job.failure else ""
    LOG.info("%s of %s %s %a", job.id, job.machine, job.state.value, why)


async def read_events(request: web.Request) -> web.Response:
    context = context_of(request)
    job = path_value(request, "job")
    after = query_number(request, "after", SEQUENCE_MAX)
    wait_s = query_number(request, "wait", WAIT_MAX_S)
    ends = asyncio.get_running_loop().time() + wait_s
    with context.wakeups.listen(job_key(job)) as listener:
        while True:
            found, what = await _look(context, job, after)
            left_s = ends - asyncio.get_running_loop().time()
            if what or found.state.ended or not await listener.wait(left_s):
                return json_response(what)


async def _look(context: Context, job: str, after: int) -> tuple[Job, tuple[Event, ...]]:
    def look(db: Any) -> tuple[Job, tuple[Event, ...]]:
        return jobs.find_job(db, job), events.find_events(db, job, after)

    found, what = await context.state.run(look)
    return context.watch.shown(found), what


async def stream_events(request: web.Request) -> web.StreamResponse:
    """Send `job` (the Job, when it changes) and `event` messages until the job has ended."""
    context = context_of(request)
    job = path_value(request, "job")
    after = query_number(request, "after", SEQUENCE_MAX)
    last = request.headers.get("Last-Event-ID", "")
    if last.isascii() and last.isdigit():
        after = max(after, int(last[:15]))
    await context.state.run(jobs.find_job, job)
    response = await open_stream(request)
    shown: Job | None = None
    with context.wakeups.listen(job_key(job)) as listener:
        while True:
            found, what = await _look(context, job, after)
            for event in what:
                await response.write(message("event", event, event.sequence))
                after = event.sequence
            if what:
                continue
            if found != shown:
                await response.write(message("job", found))
                shown = found
            if found.state.ended or context.wakeups.stopping:
                return response
            if not await listener.wait(KEEP_ALIVE_S):
                await response.write(b": still here\n\n")


async def stream_changes(request: web.Request) -> web.StreamResponse:
    """Send a `change` message whenever machines, jobs or templates have changed."""
    context = context_of(request)
    response = await open_stream(request)
    with context.wakeups.listen(ANY_CHANGE) as listener:
        await response.write(message("change", context.at()))
        while not context.wakeups.stopping:
            if await listener.wait(KEEP_ALIVE_S):
                await response.write(message("change", context.at()))
            else:
                await response.write(b": still here\n\n")
    return response


async def open_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={
            "Content-Type": STREAM,
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
        }
    )
    await response.prepare(request)
    return response


def message(kind: str, value: object, number: int | None = None) -> bytes:
    """Return one server-sent event. JSON of ours has no line feeds."""
    head = f"id: {number}\n" if number is not None else ""
    return f"{head}event: {kind}\ndata: ".encode() + encode(value) + b"\n\n"


ROUTES: Final = (
    Route(
        "POST",
        "/api/v1/jobs/{job}/events",
        Access.JOB_EVENTS,
        post_events,
        "The agent reports; a repetition of (fence, number) is ignored",
        request=list[Event],
        response=EventsAnswer,
        errors=(404, 409, 413, 415, 422),
    ),
    Route(
        "GET",
        "/api/v1/jobs/{job}/events",
        Access.JOB,
        read_events,
        "What happened, all but progress; at most 1000 at a time",
        response=tuple[Event, ...],
        query=(AFTER, WAIT),
        errors=(404,),
    ),
    Route(
        "GET",
        "/api/v1/jobs/{job}/events/stream",
        Access.JOB,
        stream_events,
        "The same as server-sent events: `event` (an Event) and `job` (a Job, with progress)",
        media_type=STREAM,
        query=(AFTER,),
        errors=(404,),
    ),
    Route(
        "GET",
        "/api/v1/changes",
        Access.OPERATOR,
        stream_changes,
        "Server-sent events: one `change` whenever a list has become stale",
        media_type=STREAM,
    ),
)
