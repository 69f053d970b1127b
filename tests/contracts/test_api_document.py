"""The API's description is valid, complete, and what the server really does."""

import re
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from agent.model.problem import PROBLEM_TYPE
from netboot.server import ROUTES
from tests.contracts.api_server import MACHINE, Api


@pytest.fixture
def document(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = api.as_(None).get("/api/v1/openapi.json").json()
    return found


def test_it_is_openapi_3_1(document: dict[str, Any]) -> None:
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
    assert document["openapi"].startswith("3.1")


def test_it_has_every_route(document: dict[str, Any]) -> None:
    told = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
    }
    known = {(route.method, route.path) for route in ROUTES if route.path.startswith("/api/")}
    assert known <= told


def test_what_is_not_public_says_so(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert bool(operation["security"]) == ("401" in operation["responses"]), (method, path)


def test_operations_have_names_of_their_own(document: dict[str, Any]) -> None:
    names = [op["operationId"] for ops in document["paths"].values() for op in ops.values()]
    assert len(names) == len(set(names))


def test_every_refusal_is_a_problem(api: Api) -> None:
    """Ours and aiohttp's: RFC 9457, with type, title, status and detail."""
    nobody = api.as_(None)
    answers = [
        api.get("/api/v1/nothing"),
        api.call("PATCH", "/api/v1/jobs"),
        api.get("/api/v1/jobs/j-1"),
        api.get("/api/v1/jobs/j-000000000000"),
        api.get("/api/v1/machines/52:54:00:12:34:56"),
        api.get("/api/v1/templates/..%2F..%2Fetc"),
        api.get("/api/v1/templates/demo"),
        api.get("/api/v1/jobs/j-000000000000/events?after=-1"),
        api.post("/api/v1/jobs", b"{"),
        api.post("/api/v1/jobs", b"[" * 200_000),
        api.post("/api/v1/jobs", {"machine": MACHINE, "spec": {"kind": "wipe"}}),
        nobody.get("/api/v1/jobs"),
        nobody.get("/anything"),
        nobody.post("/api/v1/agents/hello", b"\xff"),
        nobody.get("/boot/machine.ipxe?mac=x"),
        nobody.get("/boot/vmlinuz"),
    ]
    for answer in answers:
        assert 400 <= answer.status_code < 500, answer.text
        assert answer.headers["Content-Type"].partition(";")[0] == PROBLEM_TYPE, answer.url
        problem = answer.json()
        assert set(problem) >= {"type", "title", "status", "detail"}
        assert problem["status"] == answer.status_code
        assert re.fullmatch(r"urn:metalcast:problem:[a-z-]+", problem["type"])


def test_a_refusal_says_where_the_document_is_wrong(api: Api) -> None:
    body = {"machine": MACHINE, "spec": {"kind": "deploy", "template": "demo", "verify": "maybe"}}
    answer = api.post("/api/v1/jobs", body)
    assert answer.status_code == 422
    assert "$.spec.verify" in answer.json()["detail"]


@pytest.mark.parametrize(
    "hostname", ["web1\nboot", "web1;reboot", "${uuid}", "-x", "a" * 254, "web1 ", "{{7*7}}"]
)
def test_a_hostname_of_bad_grammar_is_refused(api: Api, hostname: str) -> None:
    spec = {"kind": "deploy", "template": "demo", "identity": {"hostname": hostname}}
    assert api.post("/api/v1/jobs", {"machine": MACHINE, "spec": spec}).status_code == 422
