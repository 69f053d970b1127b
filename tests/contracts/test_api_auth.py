"""Who may do what: every route, with every kind of token, out of the router itself.

A route that somebody adds is in this matrix without a line here; if it has no rule, it fails.
"""

import hashlib
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from netboot.auth import Access
from netboot.context import Context
from netboot.jobs import hash_token
from netboot.server import ROUTES, make_app
from tests.contracts.api_server import AGENT, MACHINE, OTHER, Api, claim_of, log, running
from tests.contracts.api_templates import push_blob, push_template

DIGEST = f"sha256:{'0' * 64}"
PUBLIC = {
    ("GET", "/healthz"),
    ("GET", "/boot/boot.ipxe"),
    ("GET", "/boot/machine.ipxe"),
    ("GET", "/boot/vmlinuz"),
    ("GET", "/boot/initrd.img"),
    ("GET", "/boot/snponly.efi"),
    ("POST", "/api/v1/agents/hello"),
    ("POST", "/api/v1/machines/{machine}/claim"),
    ("POST", "/api/v1/passes/redeem"),
    ("GET", "/api/v1/openapi.json"),
    ("GET", "/login"),
    ("POST", "/login"),
    ("GET", "/static/{file}"),
}
"""All that needs no token. To add one here is a decision; the table alone cannot make it."""
STREAMS = {"/api/v1/changes", "/api/v1/jobs/{job}/events/stream"}


@dataclass
class Scene:
    """Two running jobs, and every kind of token for the first of them."""

    api: Api
    job: str
    right: str
    other: str
    expired: str
    fenced: str

    def path(self, pattern: str) -> str:
        values = {
            "job": self.job,
            "machine": MACHINE,
            "template": "demo:latest",
            "file": "app.js",
            "name": "demo",
            "digest": DIGEST,
            "reference": "latest",
            "upload": "0" * 32,
        }
        return re.sub(r"\{(\w+)(?::[^}]*)?\}", lambda found: values[found[1]], pattern)

    def call(self, method: str, pattern: str, token: str | None) -> requests.Response:
        body = b"{}" if method in ("POST", "PUT", "PATCH") else None
        return self.api.as_(token).call(method, self.path(pattern), body, stream=True)

    def memory(self) -> str:
        """Return a digest of all that the server remembers."""
        data = self.api.context.settings.data
        digest = hashlib.sha256()
        for path in (data / "state.sqlite", data / "store" / "store.sqlite"):
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
                digest.update("\n".join(db.iterdump()).encode())
        for file in sorted((data / "store").rglob("*")):
            if file.is_file() and not file.name.startswith("store."):
                digest.update(f"{file.name} {file.stat().st_size}".encode())
        return digest.hexdigest()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with make_scene(tmp_path_factory.mktemp("auth")) as scene:
        yield scene


@contextmanager
def make_scene(folder: Path) -> Iterator[Scene]:
    with running(folder) as api:
        push_template(api)
        job = api.make_job(kind="deploy", template="demo")
        right = claim_of(api.claim())["token"]
        api.make_job(OTHER, kind="capture", name="other")
        other = claim_of(api.claim(OTHER))["token"]
        plant(api.context, job, "expired" * 5, fence=1, expires_at=time.time() - 1)
        plant(api.context, job, "fenced" * 6, fence=0, expires_at=time.time() + 1000)
        yield Scene(api, job, right, other, "expired" * 5, "fenced" * 6)


def plant(context: Context, job: str, token: str, *, fence: int, expires_at: float) -> None:
    def insert(db: sqlite3.Connection) -> None:
        values = (hash_token(token), job, fence, expires_at)
        db.execute("INSERT INTO tokens VALUES (?, ?, ?, ?)", values)

    context.state.ask(insert)


def all_routes(context: Context) -> list[tuple[str, str]]:
    """Return (method, path) of all that the router knows, the registry's included."""
    app = make_app(context)
    known = [
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None
    ]
    assert len(known) > 30
    return known


def is_public(method: str, pattern: str) -> bool:
    return ({"HEAD": "GET"}.get(method, method), pattern) in PUBLIC


def test_the_table_says_public_of_just_these() -> None:
    found = {(route.method, route.path) for route in ROUTES if route.access is Access.PUBLIC}
    assert found == PUBLIC


@pytest.mark.parametrize("kind", ["none", "empty", "garbage", "expired", "fenced", "other"])
def test_a_token_that_does_not_fit_opens_nothing(scene: Scene, kind: str) -> None:
    tokens = {
        "none": None,
        "empty": "",
        "garbage": "x" * 43,
        "expired": scene.expired,
        "fenced": scene.fenced,
        "other": scene.other,
    }
    before = scene.memory()
    asked = 0
    for method, pattern in all_routes(scene.api.context):
        if is_public(method, pattern):
            continue
        if kind == "other" and pattern == "/v2/":
            continue  # every job may ask whether this is a registry
        answer = scene.call(method, pattern, tokens[kind])
        allowed = {401} if kind in ("none", "empty", "garbage") else {401, 403}
        if kind == "fenced" and (method, pattern) == ("POST", "/api/v1/jobs/{job}/events"):
            allowed = {409}  # the agent must learn why
        assert answer.status_code in allowed, f"{kind}: {method} {pattern}: {answer.text[:300]}"
        assert scene.memory() == before, f"{kind}: {method} {pattern} changed something"
        asked += 1
        answer.close()
    assert asked > 25


def test_the_operator_may_use_everything_but_an_agents_voice(tmp_path: Path) -> None:
    denied = set()
    with make_scene(tmp_path) as scene:
        for method, pattern in all_routes(scene.api.context):
            if pattern == "/login":
                continue  # there the token goes into the form
            answer = scene.call(method, pattern, scene.api.token)
            if answer.status_code in (401, 403):
                denied.add((method, pattern))
            answer.close()
    assert denied == {("POST", "/api/v1/jobs/{job}/events")}


def test_a_job_token_opens_just_its_own_job(scene: Scene) -> None:
    opened = set()
    before = scene.memory()
    for method, pattern in all_routes(scene.api.context):
        if is_public(method, pattern) or pattern in STREAMS:
            continue
        answer = scene.call(method, pattern, scene.right)
        if answer.status_code not in (401, 403):
            opened.add((method, pattern))
        answer.close()
    assert scene.memory() == before
    assert opened == {
        ("GET", "/api/v1/jobs/{job}"),
        ("HEAD", "/api/v1/jobs/{job}"),
        ("GET", "/api/v1/jobs/{job}/events"),
        ("HEAD", "/api/v1/jobs/{job}/events"),
        ("POST", "/api/v1/jobs/{job}/events"),
        ("GET", "/v2/"),
        ("GET", "/v2/{name}/blobs/{digest}"),
        ("HEAD", "/v2/{name}/blobs/{digest}"),
        ("GET", "/v2/{name}/manifests/{reference}"),
        ("HEAD", "/v2/{name}/manifests/{reference}"),
        ("GET", "/v2/{name}/tags/list"),
        ("GET", "/v2/{name}/referrers/{digest}"),
    }


def test_a_capture_may_push_to_its_repository_only(scene: Scene) -> None:
    agent = scene.api.as_(scene.other)
    headers = {"Content-Type": "application/octet-stream"}
    assert agent.post("/v2/other/blobs/uploads/", b"", headers=headers).status_code == 202
    assert agent.post("/v2/demo/blobs/uploads/", b"", headers=headers).status_code == 403
    blob = push_blob(scene.api, "demo", b"none of its business").digest
    mount = f"/v2/other/blobs/uploads/?mount={blob}&from=demo"
    assert agent.post(mount, b"", headers=headers).status_code == 202  # "send it yourself"
    assert agent.call("HEAD", f"/v2/other/blobs/{blob}").status_code == 404
    assert agent.call("DELETE", "/v2/other/manifests/latest").status_code == 403
    assert agent.get("/v2/_catalog").status_code == 403


def test_a_token_dies_with_its_job(tmp_path: Path) -> None:
    with running(tmp_path / "data") as api:
        digest = push_template(api)
        job = api.make_job(kind="deploy", template="demo")
        agent = api.as_(claim_of(api.claim())["token"])
        assert agent.get(f"/v2/demo/manifests/{digest}").status_code == 200
        agent.events(job, {"kind": "succeeded", "result": {}})
        assert agent.get(f"/v2/demo/manifests/{digest}").status_code == 401


def test_basic_works_with_the_token_as_password(scene: Scene) -> None:
    url = f"{scene.api.url}/v2/demo/manifests/latest"
    accepted = requests.get(url, auth=("anyone", scene.api.token or ""), timeout=10)
    refused = requests.get(url, auth=("anyone", "wrong"), timeout=10)
    assert (accepted.status_code, refused.status_code) == (200, 401)
    assert refused.headers["WWW-Authenticate"].startswith('Basic realm="metalcast"')


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer ",
        "Basic !!!",
        "Basic " + "A" * 9000,
        "Digest x",
        "Bearer \udcff",
        "Basic /w==",
    ],
)
def test_a_malformed_authorization_is_nobody(scene: Scene, header: str) -> None:
    headers = {"Authorization": header.encode("utf-8", "surrogateescape")}
    try:
        answer = requests.get(f"{scene.api.url}/api/v1/jobs", headers=headers, timeout=10)
    except requests.RequestException as error:
        pytest.fail(f"no answer: {error}")
    assert answer.status_code in (400, 401)


def test_the_operator_token_is_for_its_owner_only(tmp_path: Path) -> None:
    with running(tmp_path / "data") as api:
        path = tmp_path / "data" / "operator-token"
        assert path.stat().st_mode & 0o777 == 0o600
        assert len(api.token or "") >= 43
        database = (tmp_path / "data" / "state.sqlite").read_bytes()
        assert (api.token or "").encode() not in database


def test_no_job_token_is_kept_in_clear(scene: Scene) -> None:
    data = scene.api.context.settings.data
    for path in data.glob("state.sqlite*"):
        assert scene.right.encode() not in path.read_bytes()


def test_nobody_learns_an_agents_name(scene: Scene) -> None:
    assert AGENT not in scene.api.get("/api/v1/jobs").text
    assert AGENT not in scene.api.get("/api/v1/machines").text


# the dashboard's session


def log_in(api: Api, token: str | None) -> requests.Response:
    form = {"token": token or ""}
    return requests.post(f"{api.url}/login", data=form, timeout=10, allow_redirects=False)


def test_a_browser_logs_in_by_the_token(scene: Scene) -> None:
    nobody = requests.get(scene.api.url, headers={"Accept": "text/html"}, timeout=10)
    assert nobody.status_code == 401
    assert "<form" in nobody.text
    assert "WWW-Authenticate" not in nobody.headers  # else the browser asks by itself
    assert log_in(scene.api, "wrong").status_code == 401
    answer = log_in(scene.api, scene.api.token)
    assert answer.status_code == 303
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert (scene.api.token or "?") not in cookie
    jar = {"metalcast": answer.cookies["metalcast"]}
    home = requests.get(scene.api.url, cookies=jar, timeout=10)
    assert home.status_code == 200
    assert "default-src 'none'" in home.headers["Content-Security-Policy"]
    assert "unsafe" not in home.headers["Content-Security-Policy"]
    assert not re.search(r"<script[^>]*>(?!</script>)|style=|\son\w+=", home.text)


def test_a_session_changes_things_from_our_own_pages_only(scene: Scene) -> None:
    jar = {"metalcast": log_in(scene.api, scene.api.token).cookies["metalcast"]}
    url = f"{scene.api.url}/api/v1/jobs/j-000000000000/cancel"
    ours = {"Origin": scene.api.url}
    for headers, status in (({}, 401), ({"Origin": "http://evil.example"}, 401), (ours, 404)):
        answer = requests.post(url, headers=headers, cookies=jar, timeout=10)
        assert answer.status_code == status


@pytest.mark.parametrize(
    "cookie", ["", "x", "9999999999.", "9999999999." + "0" * 64, ".", "²." + "0" * 64]
)
def test_a_forged_session_is_nobody(scene: Scene, cookie: str) -> None:
    headers = {"Cookie": f"metalcast={cookie}".encode()}
    answer = requests.get(f"{scene.api.url}/api/v1/jobs", headers=headers, timeout=10)
    assert answer.status_code in (400, 401)


def test_a_stranger_cannot_guess_tokens_fast(tmp_path: Path) -> None:
    with running(tmp_path / "data") as api:
        answers = [log_in(api, "wrong").status_code for _ in range(15)]
        assert answers[0] == 401
        assert answers[-1] == 429


def test_what_a_stranger_says_is_no_markup(scene: Scene) -> None:
    """Only JSON leaves the API; a browser must not take it for a page."""
    answer = scene.api.get("/api/v1/machines")
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_an_event_of_the_right_token_is_kept(scene: Scene) -> None:
    """The matrix would be worth nothing if everything were refused."""
    answer = scene.api.as_(scene.right).events(scene.job, log("hello"))
    assert answer.status_code == 200
