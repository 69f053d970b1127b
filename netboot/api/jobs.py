"""Jobs, for operators; and one's own job, for its agent."""

from typing import Final

from aiohttp import web

from agent.model.job import DeploySpec, Job, JobRequest
from netboot import jobs
from netboot.auth import Access
from netboot.context import ANY_CHANGE, Context, context_of, job_key, machine_key
from netboot.problems import unprocessable
from netboot.routes import Query, Route, json_response, path_value, read_body
from netboot.templates import Templates

SPEC_MAX: Final = 256 * 1024


async def make_job(request: web.Request) -> web.Response:
    context = context_of(request)
    asked = await read_body(request, JobRequest, SPEC_MAX)
    digest = await _digest(context.templates, asked)
    job = await context.state.run(jobs.make_job, asked.machine, asked.spec, digest, context.at())
    _tell(context, job)
    return json_response(job, 201)


async def _digest(templates: Templates, asked: JobRequest) -> str | None:
    """Return the manifest that the job is about: fixed now, whatever happens to the tag."""
    if not isinstance(asked.spec, DeploySpec):
        return None
    network = asked.spec.network
    if network is not None and network.get("version", network.get("network")) is None:
        raise unprocessable("spec.network: expected network-config with `version: 2`")
    return await templates.resolve(asked.spec.template)


def _tell(context: Context, job: Job) -> None:
    context.wakeups.wake(machine_key(job.machine), job_key(job.id), ANY_CHANGE)


async def list_jobs(request: web.Request) -> web.Response:
    context = context_of(request)
    machine = request.query.get("machine")
    found = await context.state.run(jobs.find_jobs, machine)
    return json_response([context.watch.shown(job) for job in found])


async def show_job(request: web.Request) -> web.Response:
    context = context_of(request)
    job = await context.state.run(jobs.find_job, path_value(request, "job"))
    return json_response(context.watch.shown(job))


async def cancel_job(request: web.Request) -> web.Response:
    context = context_of(request)
    job = await context.state.run(jobs.cancel_job, path_value(request, "job"), context.at())
    context.watch.forget(job.id)
    _tell(context, job)
    return json_response(job)


ROUTES: Final = (
    Route(
        "GET",
        "/api/v1/jobs",
        Access.OPERATOR,
        list_jobs,
        "The newest 1000 jobs, the newest first",
        response=tuple[Job, ...],
        query=(Query("machine", str, "only the jobs of this machine"),),
    ),
    Route(
        "POST",
        "/api/v1/jobs",
        Access.OPERATOR,
        make_job,
        "Make a job; its machine may boot later",
        request=JobRequest,
        response=Job,
        status=201,
        errors=(409, 413, 415, 422, 507),
    ),
    Route(
        "GET",
        "/api/v1/jobs/{job}",
        Access.JOB,
        show_job,
        "One job, with its progress",
        response=Job,
        errors=(404,),
    ),
    Route(
        "POST",
        "/api/v1/jobs/{job}/cancel",
        Access.OPERATOR,
        cancel_job,
        "End a job; its agent hears of it at its next event",
        response=Job,
        errors=(404, 409),
    ),
)
