"""Blobs on their way in: begun, continued where they stand, finished by their digest."""

import asyncio
import contextlib
from typing import Final

from aiohttp import web

from netboot.problems import ProblemError
from netboot.registry.context import Context
from netboot.registry.wire import (
    BodyCut,
    body_pieces,
    declared_size,
    parse_content_range,
    received_range,
)
from netboot.store_errors import BlobTooLarge, BlobUnknown, StoreError, StoreFull
from netboot.store_names import parse_digest, parse_name
from netboot.store_uploads import Upload, Writer

_BATCH_BYTES: Final = 1024 * 1024
_LEAST_BYTES: Final = 4096
_ASK_FOR_DIGEST: Final = "digest"


def _where(upload: Upload) -> dict[str, str]:
    return {
        "Location": f"/v2/{upload.repository}/blobs/uploads/{upload.id}",
        "Docker-Upload-UUID": upload.id,
        "Range": received_range(upload.offset),
    }


def _created(name: str, digest: str) -> web.Response:
    headers = {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest}
    return web.Response(status=201, headers=headers)


async def post_upload(context: Context, request: web.Request, name: str) -> web.StreamResponse:
    """Begin; or bring all of it at once (`?digest=`), or take it from a neighbour (`?mount=`)."""
    query = request.query
    if "mount" in query and "from" in query:
        source, digest = parse_name(query["from"]), parse_digest(query["mount"])
        # else the client sends the bytes, so says the protocol: if the blob is not there, and
        # in the same words if it is none of the client's business
        with contextlib.suppress(BlobUnknown, web.HTTPException, ProblemError):
            await context.authorize(request, source, "pull")
            await context.blocking(context.store.mount_blob, name, digest, source)
            return _created(name, digest)
    if _ASK_FOR_DIGEST in query:
        digest = parse_digest(query[_ASK_FOR_DIGEST])
        upload = await context.blocking(context.store.begin_upload, name)
        try:
            return await _finish(context, request, upload, digest)
        except BaseException:
            # nobody was told where to go on
            await context.blocking(context.store.cancel_upload, upload)
            raise
    upload = await context.blocking(context.store.begin_upload, name)
    return web.Response(status=202, headers=_where(upload))


async def get_upload(context: Context, request: web.Request, name: str) -> web.StreamResponse:
    """Say where the upload stands. Whoever asks holds on to it: it is not stale."""
    upload = _upload(context, request, name)
    await context.blocking(context.store.touch_upload, upload)
    return web.Response(status=204, headers=_where(upload))


async def patch_upload(context: Context, request: web.Request, name: str) -> web.StreamResponse:
    upload = _upload(context, request, name)
    await _receive(context, request, upload)
    return web.Response(status=202, headers=_where(upload))


async def put_upload(context: Context, request: web.Request, name: str) -> web.StreamResponse:
    upload = _upload(context, request, name)
    return await _finish(context, request, upload, parse_digest(request.query.get("digest", "")))


async def delete_upload(context: Context, request: web.Request, name: str) -> web.StreamResponse:
    await context.blocking(context.store.cancel_upload, _upload(context, request, name))
    return web.Response(status=204)


def _upload(context: Context, request: web.Request, name: str) -> Upload:
    return context.store.upload(name, request.match_info["upload"])


async def _finish(
    context: Context, request: web.Request, upload: Upload, digest: str
) -> web.Response:
    if declared_size(request) != 0:
        await _receive(context, request, upload)
    await context.blocking(context.store.finish_upload, upload, digest)
    return _created(upload.repository, digest)


async def _receive(context: Context, request: web.Request, upload: Upload) -> None:
    """Append the body to the upload, a batch being written while the next one arrives.

    A body that is cut leaves the upload at what came. One that does not fit takes the upload
    with it, so that the others have room.
    """
    size_bytes = declared_size(request)
    at = parse_content_range(request.headers.get("Content-Range"), size_bytes)
    writer = await context.blocking(context.store.write_upload, upload, at, size_bytes)
    try:
        try:
            await _pump(context, request, writer)
        finally:
            await context.blocking(writer.close)
    except (StoreFull, BlobTooLarge):
        await context.blocking(context.store.cancel_upload, upload)
        raise
    except StoreError:
        if upload.is_over:
            await context.blocking(context.store.cancel_upload, upload)
        raise


async def _pump(context: Context, request: web.Request, writer: Writer) -> None:
    writing: asyncio.Future[None] | None = None
    batch: list[bytes] = []
    size_bytes = 0
    cut: BodyCut | None = None
    try:
        async for piece in body_pieces(request, context.idle_s, _LEAST_BYTES):
            batch.append(piece)
            size_bytes += len(piece)
            if size_bytes >= _BATCH_BYTES:
                if writing is not None:
                    await writing
                writing = asyncio.ensure_future(context.blocking(writer.write, batch))
                batch, size_bytes = [], 0
    except BodyCut as error:
        cut = error
    finally:
        if writing is not None:
            await writing
    if batch:
        await context.blocking(writer.write, batch)
    if cut is not None:
        raise cut
