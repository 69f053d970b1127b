"""Finished blobs, whole or one range of them, straight from the file to the socket."""

import asyncio
from typing import BinaryIO, Final

from aiohttp import web

from netboot.registry.context import Context
from netboot.registry.wire import parse_range
from netboot.store import Blob
from netboot.store_errors import StoreError

_FOREVER: Final = "private, max-age=31536000, immutable"


def _headers(digest: str) -> dict[str, str]:
    return {
        "Docker-Content-Digest": digest,
        "ETag": f'"{digest}"',
        "Cache-Control": _FOREVER,
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
        "X-Content-Type-Options": "nosniff",
    }


async def head_blob(context: Context, request: web.Request, name: str) -> web.StreamResponse:
    """Whoever asks whether a blob is here may be about to rely on it, so it is touched."""
    digest = request.match_info["digest"]
    blob = await context.blocking(lambda: context.store.blob(name, digest, touch=True))
    headers = {**_headers(digest), "Content-Length": str(blob.size_bytes)}
    return web.Response(headers=headers)


async def get_blob(context: Context, request: web.Request, name: str) -> web.StreamResponse:
    digest = request.match_info["digest"]
    blob, file = await context.blocking(_open, context, name, digest)
    try:
        asked = parse_range(request.headers.get("Range"), blob.size_bytes)
        tags = request.headers.get("If-None-Match", "")
        if asked is None and f'"{digest}"' in tags:
            return web.Response(status=304, headers=_headers(digest))
        offset, size = asked or (0, blob.size_bytes)
        response = web.StreamResponse(status=206 if asked else 200, headers=_headers(digest))
        if asked:
            last = offset + size - 1
            response.headers["Content-Range"] = f"bytes {offset}-{last}/{blob.size_bytes}"
        response.content_length = size
        await response.prepare(request)
        if size and request.transport is not None:
            # by sendfile(2) where the transport can, else by reads in a thread (TLS)
            loop = asyncio.get_running_loop()
            await loop.sendfile(request.transport, file, offset, size)
        await response.write_eof()
        return response
    finally:
        file.close()


def _open(context: Context, name: str, digest: str) -> tuple[Blob, BinaryIO]:
    blob = context.store.blob(name, digest)
    try:
        file = blob.path.open("rb")
    except OSError as error:
        raise StoreError(f"{digest} is lost on the store's disk") from error
    return blob, file


async def delete_blob(context: Context, request: web.Request, name: str) -> web.StreamResponse:
    await context.blocking(context.store.delete_blob, name, request.match_info["digest"])
    return web.Response(status=202)
