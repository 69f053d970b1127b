"""Passes: made by the operator, redeemed by a technician's agent."""

from typing import Any, Final

from aiohttp import web

from agent.model.job import Pass, PassRequest, Redemption, SignedClaim
from netboot import jobs
from netboot.api.agents import answer_of, limit
from netboot.auth import Access
from netboot.context import ANY_CHANGE, context_of, job_key
from netboot.jobs import Granted
from netboot.passes import make_pass, redeem_pass
from netboot.routes import Route, json_response, read_body


async def create_pass(request: web.Request) -> web.Response:
    context = context_of(request)
    asked = await read_body(request, PassRequest, 4096)
    return json_response(await context.state.run(make_pass, asked, context.now()), 201)


async def redeem(request: web.Request) -> web.Response:
    """Make a capture job by a pass and give it to the agent, at once."""
    context = context_of(request)
    limit(context.login_limit, request)
    asked = await read_body(request, Redemption, 16384)
    now, at = context.now(), context.at()

    def spend(db: Any) -> Granted | None:
        redeem_pass(db, asked, now, at)
        return jobs.claim_job(
            db, asked.machine, asked.agent, now=now, at=at, lease_left_s=context.watch.left_s
        )

    granted = await context.state.run(spend)
    assert granted is not None
    context.watch.hear(granted.job.id, granted.job.fence)
    context.wakeups.wake(job_key(granted.job.id), ANY_CHANGE)
    return json_response(answer_of(context, granted, asked.agent, asked.nonce))


ROUTES: Final = (
    Route(
        "POST",
        "/api/v1/passes",
        Access.OPERATOR,
        create_pass,
        "Let a technician capture one machine under a name",
        request=PassRequest,
        response=Pass,
        status=201,
        errors=(413, 415, 422),
    ),
    Route(
        "POST",
        "/api/v1/passes/redeem",
        Access.PUBLIC,
        redeem,
        "A technician's agent spends a pass on a capture job and claims it",
        request=Redemption,
        response=SignedClaim,
        errors=(403, 409, 413, 415, 422, 429),
    ),
)
