"""What an agent calls before it has a token: hello and claim. Bounded, because anyone may."""

import asyncio
import logging
from typing import Any, Final

from aiohttp import web

from agent.model.job import (
    Claim,
    ClaimRequest,
    DeploySpec,
    Hello,
    HelloAnswer,
    SignedClaim,
)
from agent.model.wire import encode
from agent.trust.claims import claim_comment
from agent.units import MiB
from netboot import jobs, machines
from netboot.auth import Access
from netboot.context import ANY_CHANGE, Context, context_of, job_key, machine_key
from netboot.jobs import Granted
from netboot.limits import RateLimit
from netboot.mirrors import mirrors_of
from netboot.problems import try_later, unprocessable
from netboot.routes import (
    WAIT,
    WAIT_MAX_S,
    Route,
    json_response,
    path_value,
    query_number,
    read_body,
)
from netboot.state import rfc3339

LOG: Final = logging.getLogger("metalcast")
WAITING_MAX: Final = 4096
INVENTORY_MAX: Final = 1 * MiB


def limit(bucket: RateLimit, request: web.Request) -> None:
    if wait_s := bucket.take(request.remote or ""):
        raise try_later("too many requests from this address", wait_s)


async def hello(request: web.Request) -> web.Response:
    context = context_of(request)
    limit(context.hello_limit, request)
    said = await read_body(request, Hello, INVENTORY_MAX)
    if not said.macs:
        raise unprocessable("macs: expected at least one, the one that booted first")
    machine, at = said.macs[0], context.at()
    uuid = said.uuid if said.uuid and len(said.uuid) <= machines.UUID_MAX else None

    def keep(db: Any) -> None:
        machines.see_machine(db, machine, at, uuid=uuid)
        machines.keep_inventory(db, machine, said.inventory, at)
        machines.keep_trouble(db, machine, said.trouble)
        machines.keep_keys(db, machine, said.keys)

    await context.state.run(keep)
    if said.trouble:
        LOG.warning("the agent on %s cannot work: %s", machine, ascii(said.trouble))
    context.wakeups.wake(ANY_CHANGE)
    return json_response(HelloAnswer(machine=machine, server_time=at))


async def claim(request: web.Request) -> web.Response:
    """Wait for a job of the machine and give it to the agent."""
    context = context_of(request)
    limit(context.claim_limit, request)
    machine = path_value(request, "machine")
    wait_s = query_number(request, "wait", WAIT_MAX_S)
    asked = await read_body(request, ClaimRequest, 4096)
    await context.state.run(machines.find_machine, machine)
    if context.wakeups.waiting >= WAITING_MAX:
        raise try_later("too many agents are waiting", 5)
    ends = asyncio.get_running_loop().time() + wait_s
    with context.wakeups.listen(machine_key(machine)) as listener:
        while not _hung_up(request):
            if granted := await _try_claim(context, machine, asked.agent):
                return json_response(answer_of(context, granted, asked.agent, asked.nonce))
            if not await listener.wait(ends - asyncio.get_running_loop().time()):
                break
    return web.Response(status=204)


def _hung_up(request: web.Request) -> bool:
    """Say whether nobody is left to take the answer: a claim would be lost with it."""
    return request.transport is None or request.transport.is_closing()


async def _try_claim(context: Context, machine: str, agent: str) -> Granted | None:
    now = context.now()
    at = context.at()

    def attempt(db: Any) -> Granted | None:
        machines.see_machine(db, machine, at)
        return jobs.claim_job(db, machine, agent, now=now, at=at, lease_left_s=context.watch.left_s)

    granted = await context.state.run(attempt)
    if granted:
        LOG.info("%s of %s claimed, fence %d", granted.job.id, machine, granted.job.fence)
        context.watch.hear(granted.job.id, granted.job.fence)
        context.wakeups.wake(job_key(granted.job.id), ANY_CHANGE)
    return granted


def answer_of(context: Context, granted: Granted, agent: str, nonce: str) -> SignedClaim:
    """Return what an agent that was granted a job is told, signed for that one request."""
    is_deploy = isinstance(granted.job.spec, DeploySpec)
    mirrors = mirrors_of(context.settings.mirrors, granted.repository) if is_deploy else ()
    claim = Claim(
        job=context.watch.shown(granted.job),
        agent=agent,
        nonce=nonce,
        token=granted.token,
        lease_s=context.watch.lease_s,
        expires_at=rfc3339(granted.expires_at),
        repository=granted.repository,
        server_time=context.at(),
        mirrors=mirrors,
    )
    document = encode(claim)
    signature = context.signer.sign(document, claim_comment(claim))
    return SignedClaim(document=document.decode(), signature=signature.decode())


ROUTES: Final = (
    Route(
        "POST",
        "/api/v1/agents/hello",
        Access.PUBLIC,
        hello,
        "An agent introduces itself and its machine",
        request=Hello,
        response=HelloAnswer,
        errors=(413, 415, 422, 429, 507),
    ),
    Route(
        "POST",
        "/api/v1/machines/{machine}/claim",
        Access.PUBLIC,
        claim,
        "An agent asks for its machine's job; 204 when there is none",
        request=ClaimRequest,
        response=SignedClaim,
        query=(WAIT,),
        errors=(404, 409, 413, 415, 422, 429),
        empty=(204,),
    ),
)
