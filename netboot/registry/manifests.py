"""Manifests, tags, referrers and the catalog."""

from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from agent.model.template import MANIFEST_MAX_BYTES
from agent.model.wire import encode
from netboot.registry.context import Context
from netboot.registry.wire import RequestInvalid, small_body
from netboot.store_manifest import INDEX_TYPE
from netboot.store_names import is_digest, parse_digest

_PAGE_MAX: Final = 1000


async def get_base(_context: Context, _request: web.Request, _name: str) -> web.StreamResponse:
    """Say that this is a registry; clients ask first, to learn whether they must log in."""
    headers = {"Docker-Distribution-API-Version": "registry/2.0"}
    return web.json_response({}, headers=headers)


async def get_manifest(context: Context, request: web.Request, name: str) -> web.StreamResponse:
    reference = request.match_info["reference"]
    found = await context.blocking(context.store.manifest, name, reference)
    headers = {
        "Content-Type": found.media_type,
        "Docker-Content-Digest": found.digest,
        "ETag": f'"{found.digest}"',
        "Cache-Control": "private, immutable" if is_digest(reference) else "no-cache",
        "X-Content-Type-Options": "nosniff",
    }
    if headers["ETag"] in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers=headers)
    if request.method == "HEAD":
        return web.Response(headers={**headers, "Content-Length": str(len(found.data))})
    return web.Response(body=found.data, headers=headers)


async def put_manifest(context: Context, request: web.Request, name: str) -> web.StreamResponse:
    reference = request.match_info["reference"]
    data = await small_body(request, MANIFEST_MAX_BYTES, context.idle_s)
    pushed = await context.blocking(
        context.store.put_manifest, name, reference, request.content_type, data
    )
    headers = {
        "Location": f"/v2/{name}/manifests/{pushed.digest}",
        "Docker-Content-Digest": pushed.digest,
    }
    if pushed.subject:
        headers["OCI-Subject"] = pushed.subject
    return web.Response(status=201, headers=headers)


async def delete_manifest(context: Context, request: web.Request, name: str) -> web.StreamResponse:
    reference = request.match_info["reference"]
    await context.blocking(context.store.delete_manifest, name, reference)
    return web.Response(status=202)


async def get_tags(context: Context, request: web.Request, name: str) -> web.StreamResponse:
    tags = await context.blocking(context.store.tags, name)
    page, headers = _page(request, tags)
    return web.json_response({"name": name, "tags": page}, headers=headers)


async def get_catalog(context: Context, request: web.Request, _name: str) -> web.StreamResponse:
    names = await context.blocking(context.store.catalog.repositories)
    page, headers = _page(request, names)
    return web.json_response({"repositories": page}, headers=headers)


async def get_referrers(context: Context, request: web.Request, name: str) -> web.StreamResponse:
    """List the manifests whose subject this is: an index, empty when there are none."""
    subject = parse_digest(request.match_info["digest"])
    rows = await context.blocking(context.store.catalog.referrers, name, subject)
    wanted = request.query.get("artifactType")
    found: list[dict[str, Any]] = [
        {
            "mediaType": row.media_type,
            "digest": row.digest,
            "size": row.size_bytes,
            "artifactType": row.artifact_type,
            "annotations": row.annotations,
        }
        for row in rows
        if wanted in (None, row.artifact_type)
    ]
    headers = {"OCI-Filters-Applied": "artifactType"} if wanted is not None else {}
    body = encode({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": found})
    return web.Response(body=body, content_type=INDEX_TYPE, headers=headers)


def _page(request: web.Request, names: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    """Return the names after `last`, at most `n`, and the link to the rest if there is one."""
    text = request.query.get("n", str(_PAGE_MAX))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise RequestInvalid(f"not a number of names: {text[:32]!r}", "PAGINATION_NUMBER_INVALID")
    count = min(int(text), _PAGE_MAX)
    last = request.query.get("last", "")
    left = [name for name in names if name > last]
    page = left[:count]
    if not page or len(left) == len(page):
        return page, {}
    query = urlencode({"n": count, "last": page[-1]})
    return page, {"Link": f'<{request.path}?{query}>; rel="next"'}
