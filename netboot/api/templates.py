"""Templates, for operators."""

from typing import Final

from aiohttp import web

from netboot.auth import Access
from netboot.context import ANY_CHANGE, context_of
from netboot.jobs import busy_repositories
from netboot.routes import Route, json_response, path_value, read_body
from netboot.values import GcReport, GcRequest, TemplateShown, TemplateSummary


async def list_templates(request: web.Request) -> web.Response:
    return json_response(await context_of(request).templates.list())


async def show_template(request: web.Request) -> web.Response:
    reference = path_value(request, "template")
    return json_response(await context_of(request).templates.show(reference))


async def remove_template(request: web.Request) -> web.Response:
    context = context_of(request)
    await context.templates.remove(path_value(request, "template"))
    context.wakeups.wake(ANY_CHANGE)
    return web.Response(status=204)


async def sweep_store(request: web.Request) -> web.Response:
    """Collect the store's garbage now; every hour it is collected anyway."""
    context = context_of(request)
    asked = await read_body(request, GcRequest, 4096)
    freed = await context.templates.sweep(asked, lambda: context.state.ask(busy_repositories))
    return json_response(freed)


ROUTES: Final = (
    Route(
        "GET",
        "/api/v1/templates",
        Access.OPERATOR,
        list_templates,
        "Every template in the store, by name and tag",
        response=tuple[TemplateSummary, ...],
    ),
    Route(
        "GET",
        "/api/v1/templates/{template}",
        Access.OPERATOR,
        show_template,
        "One template with its recorded configuration",
        response=TemplateShown,
        errors=(404, 422),
    ),
    Route(
        "DELETE",
        "/api/v1/templates/{template}",
        Access.OPERATOR,
        remove_template,
        "Remove a template; space is freed later",
        status=204,
        errors=(404,),
    ),
    Route(
        "POST",
        "/api/v1/gc",
        Access.OPERATOR,
        sweep_store,
        "Free what no template needs, now",
        request=GcRequest,
        response=GcReport,
        errors=(413, 415, 422),
    ),
)
