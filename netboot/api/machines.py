"""Machines, for operators."""

from typing import Final

from aiohttp import web

from agent.model.inventory import Inventory
from agent.model.job import Machine
from netboot import machines
from netboot.auth import Access
from netboot.context import ANY_CHANGE, context_of
from netboot.routes import Route, json_response, path_value


async def list_machines(request: web.Request) -> web.Response:
    return json_response(await context_of(request).state.run(machines.find_machines))


async def show_machine(request: web.Request) -> web.Response:
    machine = path_value(request, "machine")
    return json_response(await context_of(request).state.run(machines.find_machine, machine))


async def show_inventory(request: web.Request) -> web.Response:
    machine = path_value(request, "machine")
    return json_response(await context_of(request).state.run(machines.find_inventory, machine))


async def remove_machine(request: web.Request) -> web.Response:
    context = context_of(request)
    await context.state.run(machines.remove_machine, path_value(request, "machine"))
    context.wakeups.wake(ANY_CHANGE)
    return web.Response(status=204)


ROUTES: Final = (
    Route(
        "GET",
        "/api/v1/machines",
        Access.OPERATOR,
        list_machines,
        "Every machine that booted or has a job, the one seen last first",
        response=tuple[Machine, ...],
    ),
    Route(
        "GET",
        "/api/v1/machines/{machine}",
        Access.OPERATOR,
        show_machine,
        "One machine",
        response=Machine,
        errors=(404,),
    ),
    Route(
        "GET",
        "/api/v1/machines/{machine}/inventory",
        Access.OPERATOR,
        show_inventory,
        "What the machine is, as its agent saw it last",
        response=Inventory,
        errors=(404,),
    ),
    Route(
        "DELETE",
        "/api/v1/machines/{machine}",
        Access.OPERATOR,
        remove_machine,
        "Forget a machine and its ended jobs",
        status=204,
        errors=(404, 409),
    ),
)
