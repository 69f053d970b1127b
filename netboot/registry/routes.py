"""The routes of the registry, and what they have in common."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from aiohttp import web

from agent.errors import AgentError
from agent.units import format_bytes
from netboot.problems import ProblemError
from netboot.registry import blobs, manifests, uploads
from netboot.registry.context import Context
from netboot.registry.wire import Action, Authorize, denied, refusal
from netboot.store import Store
from netboot.store_content import DAY_S
from netboot.store_errors import StoreError
from netboot.store_names import parse_name

Handler = Callable[[Context, web.Request, str], Awaitable[web.StreamResponse]]

LOG: Final = logging.getLogger("metalcast.store")
IDLE_S: Final = 60.0
_NAME: Final = "{name:.+}"


def registry_routes(
    store: Store, authorize: Authorize, *, idle_s: float = IDLE_S
) -> list[web.RouteDef]:
    """Return the routes under `/v2/`; see `Authorize` for what the server must provide.

    A connection that sends a body slower than 4 KiB in `idle_s` is dropped. Mount them in an
    application of any `client_max_size`: bodies are bounded here.
    """
    context = Context(store, authorize, idle_s)

    def route(method: str, path: str, action: Action, handler: Handler) -> web.RouteDef:
        guarded = _guarded(context, action, handler)
        if method == "GET":  # HEAD has its own, or none
            return web.get(path, guarded, allow_head=False)
        return web.route(method, path, guarded)

    repository = f"/v2/{_NAME}"
    upload = f"{repository}/blobs/uploads/{{upload}}"
    blob = f"{repository}/blobs/{{digest}}"
    manifest = f"{repository}/manifests/{{reference}}"
    return [
        route("GET", "/v2/", "pull", manifests.get_base),
        route("GET", "/v2/_catalog", "pull", manifests.get_catalog),
        route("POST", f"{repository}/blobs/uploads/", "push", uploads.post_upload),
        route("POST", f"{repository}/blobs/uploads", "push", uploads.post_upload),
        route("GET", upload, "push", uploads.get_upload),
        route("PATCH", upload, "push", uploads.patch_upload),
        route("PUT", upload, "push", uploads.put_upload),
        route("DELETE", upload, "push", uploads.delete_upload),
        route("HEAD", blob, "pull", blobs.head_blob),
        route("GET", blob, "pull", blobs.get_blob),
        route("DELETE", blob, "delete", blobs.delete_blob),
        route("HEAD", manifest, "pull", manifests.get_manifest),
        route("GET", manifest, "pull", manifests.get_manifest),
        route("PUT", manifest, "push", manifests.put_manifest),
        route("DELETE", manifest, "delete", manifests.delete_manifest),
        route("GET", f"{repository}/tags/list", "pull", manifests.get_tags),
        route("GET", f"{repository}/referrers/{{digest}}", "pull", manifests.get_referrers),
    ]


def _guarded(
    context: Context, action: Action, handler: Handler
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def guarded(request: web.Request) -> web.StreamResponse:
        try:
            name = request.match_info.get("name", "")
            if name:
                parse_name(name)
            await context.authorize(request, name, action)
            return await handler(context, request, name)
        except (web.HTTPException, ProblemError) as error:
            return denied(error)
        except AgentError as error:
            return refusal(error)

    return guarded


async def tidy(
    store: Store,
    busy: Callable[[], Iterable[str]] = tuple,
    *,
    every_s: float = 3600.0,
    grace_s: float = DAY_S,
) -> None:
    """Collect the store's garbage again and again, until cancelled.

    `busy` names the repositories that a job is at work on; nothing of theirs is removed.
    """
    while True:
        try:
            freed = await asyncio.to_thread(store.gc, grace_s, tuple(busy()))
        except (StoreError, OSError) as error:  # it may be better in an hour
            LOG.error("the store's garbage stays: %s", error)
        else:
            if freed.blobs or freed.uploads:
                LOG.info(
                    "freed %s: %d blobs, and %d stale uploads",
                    format_bytes(freed.bytes),
                    freed.blobs,
                    freed.uploads,
                )
        await asyncio.sleep(every_s)
