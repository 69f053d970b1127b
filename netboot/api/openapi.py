"""The API's description, OpenAPI 3.1, made from the table of routes and the msgspec values."""

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from aiohttp import web

from agent.model.problem import PROBLEM_TYPE, Problem
from netboot.auth import Access
from netboot.context import API
from netboot.routes import JSON, PATH_TYPES, Route, json_response

VERSION: Final = "1"
COMPONENTS: Final = "#/components/schemas/{name}"
_REASONS: Final = {
    400: "a parameter is malformed",
    401: "no token, or none that is good",
    403: "the token does not allow this",
    404: "no such thing",
    409: "something is in the way; `type` says what",
    413: "the body is too large",
    415: "the body is not plain JSON",
    422: "the body is not what it should be",
    429: "too many requests; see Retry-After",
    507: "the server is full",
}


async def describe(request: web.Request) -> web.Response:
    return json_response(request.app[API])


def make_document(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the OpenAPI document of those `routes` that belong to the API."""
    shown = [route for route in routes if not route.path.startswith(("/static/", "/login"))]
    shown = [route for route in shown if route.media_type != "text/html"]
    kinds = [kind for route in shown for kind in (route.request, route.response) if kind]
    kinds += [Problem, *PATH_TYPES.values()]
    _, components = msgspec.json.schema_components(kinds, ref_template=COMPONENTS)
    paths: dict[str, Any] = {}
    for route in shown:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Metalcast",
            "version": VERSION,
            "description": "Templates from servers, and servers from templates. "
            "Templates themselves travel by OCI Distribution, under /v2/.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "password": {"type": "http", "scheme": "basic"},
                "session": {"type": "apiKey", "in": "cookie", "name": "metalcast"},
            },
        },
    }


def _schema(kind: Any) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=COMPONENTS)
    return schema


def _content(media_type: str, kind: Any) -> dict[str, Any]:
    return {"content": {media_type: {"schema": _schema(kind)} if kind else {}}}


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "security": _security(route.access),
        "responses": _responses(route),
    }
    if parameters := list(_parameters(route)):
        operation["parameters"] = parameters
    if route.request:
        operation["requestBody"] = {"required": True, **_content(JSON, route.request)}
    return operation


def _security(access: Access) -> list[dict[str, list[str]]]:
    match access:
        case Access.PUBLIC:
            return []
        case Access.JOB_EVENTS:
            return [{"token": []}]
        case _:
            return [{"token": []}, {"password": []}, {"session": []}]


def _parameters(route: Route) -> Iterable[dict[str, Any]]:
    for name in re.findall(r"\{(\w+)\}", route.path):
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "schema": _schema(PATH_TYPES.get(name, str)),
        }
    for query in route.query:
        yield {
            "name": query.name,
            "in": "query",
            "description": query.text,
            "schema": _schema(query.type),
        }


def _responses(route: Route) -> dict[str, Any]:
    has_body = route.status != 204
    body = _content(route.media_type, route.response) if has_body else {}
    responses: dict[str, Any] = {str(route.status): {"description": "done", **body}}
    for status in route.empty:
        responses[str(status)] = {"description": "nothing to tell"}
    denied = () if route.access is Access.PUBLIC else (401, 403)
    malformed = (400,) if "{" in route.path or route.query else ()
    for status in sorted({*route.errors, *denied, *malformed}):
        responses[str(status)] = {
            "description": _REASONS[status],
            **_content(PROBLEM_TYPE, Problem),
        }
    return responses


ROUTES: Final = (
    Route(
        "GET",
        "/api/v1/openapi.json",
        Access.PUBLIC,
        describe,
        "This description",
    ),
)
