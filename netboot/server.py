"""`metalcast serve`: one aiohttp application out of the table of routes. HTTP only."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from agent.errors import AgentError, UsageError
from netboot import boot
from netboot import jobs as jobs_state
from netboot.api import agents, events, jobs, machines, openapi, passes, templates
from netboot.auth import Access, Action, Guard, Nobody, make_operator_token
from netboot.context import API, CONTEXT, WHO, Context, Settings
from netboot.problems import ProblemError, unauthorized
from netboot.registry import registry_routes, tidy
from netboot.routes import BODY_MAX, Route, json_response
from netboot.signing import open_server_key
from netboot.state import State
from netboot.store import Store
from netboot.templates import Templates
from netboot.wakeups import Wakeups
from netboot.watch import Watch
from netboot.web import pages

LOG: Final = logging.getLogger("metalcast")
SHUTDOWN_S: Final = 5.0

Companion = Callable[[int], contextlib.AbstractAsyncContextManager[asyncio.Task[None]]]
Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def health(request: web.Request) -> web.Response:
    del request
    return json_response({"status": "ok"})


HEALTH: Final = Route("GET", "/healthz", Access.PUBLIC, health, "Is the server alive?")
ROUTES: Final[tuple[Route, ...]] = (
    HEALTH,
    *boot.ROUTES,
    *agents.ROUTES,
    *machines.ROUTES,
    *jobs.ROUTES,
    *events.ROUTES,
    *templates.ROUTES,
    *passes.ROUTES,
    *openapi.ROUTES,
    *pages.ROUTES,
)
"""Every route but those under /v2/, whose table the registry keeps."""

RULES: Final = web.AppKey("rules", dict[tuple[str, str], Route])


def make_app(context: Context) -> web.Application:
    """Return the application. A route that is not in the table does not exist."""
    app = web.Application(middlewares=[speak_problems, ask_who], client_max_size=BODY_MAX)
    app[CONTEXT] = context
    app[API] = openapi.make_document(ROUTES)
    app[RULES] = {}
    for route in ROUTES:
        for method in route.methods:
            added = app.router.add_route(method, route.pattern, route.handler)
            assert added.resource is not None
            app[RULES][method, added.resource.canonical] = route
    app.router.add_routes(registry_routes(context.templates.store, authorize))
    app.on_response_prepare.append(_add_safety_headers)
    return app


async def authorize(request: web.Request, repository: str, action: str) -> None:
    """Say whether this request may use a repository of the store; the registry asks."""
    context = request.app[CONTEXT]
    is_list = not repository and request.path != "/v2/"
    wanted = Action.LIST if is_list else Action(action)
    context.guard.check_repository(request[WHO], repository or None, wanted)


async def _add_safety_headers(request: web.Request, response: web.StreamResponse) -> None:
    del request
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("X-Frame-Options", "DENY")
    response.headers.setdefault("Referrer-Policy", "no-referrer")
    response.headers.setdefault("Server", "metalcast")


@web.middleware
async def speak_problems(request: web.Request, handler: Next) -> web.StreamResponse:
    """Turn every refusal, ours or aiohttp's, and every bug into problem+json."""
    try:
        return await handler(request)
    except ProblemError as error:
        if request.path.startswith("/api/"):
            refused = f"{error.status} {error.word}: {request.method} {request.path!a}"
            LOG.info("%s from %s: %a", refused, request.remote, str(error))
        return pages.refusal(request, error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _http_problem(error).response()
    except ConnectionError:
        if request.transport is not None and not request.transport.is_closing():
            raise
        return web.Response(status=400)  # to nobody: the client hung up, which is no news
    except Exception:
        LOG.exception("bug at %s %s", request.method, request.path)
        if request.transport is None:
            raise
        return ProblemError(500, "bug", "the server's log says more").response()


def _http_problem(error: web.HTTPException) -> ProblemError:
    words = {404: "not-found", 405: "method-not-allowed", 413: "too-large"}
    allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    word = words.get(error.status, "bad-request")
    return ProblemError(error.status, word, error.reason, headers=allow)


@web.middleware
async def ask_who(request: web.Request, handler: Next) -> web.StreamResponse:
    """The door: find out who asks, and let pass only what a rule allows."""
    context = request.app[CONTEXT]
    resource = request.match_info.route.resource
    rule = request.app[RULES].get((request.method, resource.canonical if resource else ""))
    if rule is not None and rule.access is Access.PUBLIC:
        return await handler(request)
    who = await context.guard.identify(request)
    request[WHO] = who
    if rule is None:
        if isinstance(who, Nobody):
            raise unauthorized()
        return await handler(request)  # the registry, which asks `authorize`; else 404 and 405
    context.guard.check(who, rule.access, request.match_info.get("job"))
    return await handler(request)


def open_context(settings: Settings) -> tuple[Context, str | None]:
    """Return the opened server, and the operator token if it was made just now."""
    state = State(settings.data)
    path = settings.data / "operator-token"
    new_token = make_operator_token(path)
    token = path.read_text().strip()
    if len(token) < 20:
        raise UsageError(f"{path} holds no token", hint="remove it, and a new one is made")
    context = Context(
        settings=settings,
        state=state,
        templates=Templates(Store(settings.data / "store")),
        guard=Guard(token, state),
        watch=Watch(),
        wakeups=Wakeups(),
        signer=open_server_key(settings.data),
    )
    return context, new_token


async def serve(
    context: Context,
    ready: Callable[[str, int], None],
    stop: asyncio.Event,
    companion: Companion | None = None,
) -> None:
    """Serve until `stop` is set; `ready` hears the address once connections are accepted.

    `companion` runs beside us, told our port; when it fails, so do we, with its error.
    """
    runner = web.AppRunner(
        make_app(context),
        access_log=None,
        shutdown_timeout=SHUTDOWN_S,
        handle_signals=False,
        max_line_size=8190,
    )
    await runner.setup()
    tidying = asyncio.create_task(
        tidy(context.templates.store, lambda: context.state.ask(jobs_state.busy_repositories))
    )
    try:
        site = web.TCPSite(runner, context.settings.host, context.settings.port)
        try:
            await site.start()
        except OSError as error:
            address = f"{context.settings.host}:{context.settings.port}"
            raise AgentError(f"cannot listen on {address}: {error.strerror}") from error
        host, port = runner.addresses[0][:2]
        async with contextlib.AsyncExitStack() as stack:
            watching = await stack.enter_async_context(companion(port)) if companion else None
            ready(host, port)
            await _first_of(stop, watching)
    finally:
        tidying.cancel()
        context.wakeups.stop()
        with contextlib.suppress(asyncio.CancelledError):
            await runner.cleanup()


async def _first_of(stop: asyncio.Event, watching: asyncio.Task[None] | None) -> None:
    """Wait until we are told to stop; raise what `watching` raises if that comes first."""
    stopping = asyncio.create_task(stop.wait())
    waited_for = [stopping, *([watching] if watching else [])]
    done, _ = await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if watching and watching in done:
        watching.result()


def close_context(context: Context) -> None:
    context.templates.store.close()
    context.state.close()
