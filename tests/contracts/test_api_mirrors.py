"""`serve --mirrors`: the claim of a deploy job, and nothing else, tells where its template is."""

import json
from pathlib import Path

from agent.client import ServerClient
from agent.store.mirrors import Mirrors
from agent.store.registry import RegistryClient
from agent.store.sources import open_mirrors
from netboot.mirrors import read_mirrors
from tests.contracts.api_server import AGENT, MACHINE, OTHER, running
from tests.contracts.api_templates import push_template
from tests.contracts.peers import make_certificate


def test_a_deployment_is_told_of_mirrors_and_nobody_else_is(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    (tmp_path / "password").write_text("a secret\n")
    file = tmp_path / "mirrors.toml"
    file.write_text(
        "[[mirror]]\nurl = 'https://registry.example/v2'\nthere = 'metal/'\n"
        f"username = 'ada'\npassword_file = 'password'\nca_file = '{certificate.cert}'\n"
        "[[mirror]]\nurl = 'http://static.example/exports'\nfirst = false\n"
    )
    with running(tmp_path / "data", mirrors=read_mirrors(file)) as api:
        push_template(api, "prod/web")
        api.hello()
        api.hello(OTHER)
        deploy = api.make_job(kind="deploy", template="prod/web")
        api.make_job(OTHER, kind="capture", name="prod/web")
        granted = ServerClient(api.url).claim(MACHINE, AGENT, 0, ())
        other = ServerClient(api.url).claim(OTHER, AGENT, 0, ())
        assert granted is not None
        assert other is not None
        assert other.claim.mirrors == ()
        claim = granted.claim
        first, second = claim.mirrors
        assert first.url == "https://registry.example/v2/metal/prod/web"
        assert (first.username, first.password, first.first) == ("ada", "a secret", True)
        assert first.ca == certificate.cert.read_text()
        assert (second.url, second.first) == ("http://static.example/exports/prod/web", False)
        for path in (f"/api/v1/jobs/{deploy}", "/api/v1/jobs", f"/api/v1/jobs/{deploy}/events"):
            assert "secret" not in json.dumps(api.get(path).json())
        server = RegistryClient(api.url, claim.repository, claim.token)
        mirrors = open_mirrors(claim.mirrors, server, tmp_path / "kept", lambda _: None)
        assert isinstance(mirrors, Mirrors)
        assert mirrors.url == f"{first.url} or {server.url} or {second.url}"
        assert (tmp_path / "kept" / "mirror-0.pem").read_text() == first.ca
        mirrors.close()
