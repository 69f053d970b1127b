"""The world's tools move our templates: skopeo and oras, between our store, docker-registry and
folders. What comes out is what went in, byte for byte."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from agent.store.layout import LayoutFolder
from agent.store.registry import RegistryClient
from agent.store.source import blob_digest
from agent.store.sources import open_source
from agent.store.template import check_indexes, open_template
from agent.stream.restore import restore_volume
from agent.units import MiB
from netboot.cli.words import main
from tests.contracts.api_server import Api, running
from tests.contracts.peers import docker_registry, oras, run, skopeo_copy
from tests.contracts.stream_builders import BASE, capture, make_source, make_target, mixed_bytes

SIZE = 12 * MiB
DATA = mixed_bytes(SIZE, seed=11)
Call = Callable[..., str]


@pytest.fixture
def digest(api: Api, tmp_path: Path) -> Iterator[str]:
    """A captured template, `demo:latest` of our store."""
    client = RegistryClient(api.url, "demo", api.token)
    yield capture(client, make_source(tmp_path, DATA)).digest
    client.close()


@pytest.fixture
def debian(tmp_path: Path) -> Iterator[str]:
    with docker_registry(tmp_path / "docker") as url:
        yield url


@pytest.fixture
def call(api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run `metalcast template …`; return what it prints."""
    token = tmp_path / "token"
    token.write_text(f"{api.token}\n")

    def words(*given: str) -> str:
        status = main(["template", *given, "--server", api.url, "--token-file", str(token)])
        printed = capsys.readouterr()
        assert status == 0, printed.err
        return printed.out

    return words


def docker(url: str) -> str:
    return url.replace("http://", "docker://")


def is_right(folder: Path, source: object) -> bool:
    """Restore from `source`; say whether the disk then holds the data."""
    template = open_template(source, "latest")  # type: ignore[arg-type]
    target = make_target(folder, SIZE)
    restore_volume(template, "root", target, BASE)
    return target.read_bytes()[BASE : BASE + SIZE] == DATA


@dataclass(frozen=True)
class Stop:
    """A place on a template's way: as skopeo calls it, what opens it, and as we read it."""

    name: str
    source: RegistryClient | LayoutFolder
    token: str | None = None

    def doors(self, side: str) -> list[str]:
        login = [f"--{side}-creds=metalcast:{self.token}"] if self.token else []
        return [f"--{side}-tls-verify=false", *login]


def our_stop(api: Api) -> Stop:
    return Stop(
        f"{docker(api.url)}/demo:latest", RegistryClient(api.url, "demo", api.token), api.token
    )


@pytest.mark.parametrize("between", [("folder", "debian"), ("debian", "folder")], ids="-".join)
def test_skopeo_takes_a_template_around_the_world_and_back(
    api: Api, digest: str, debian: str, tmp_path: Path, between: tuple[str, str]
) -> None:
    """Either way round, from our store to one of ours that is empty: all six directions."""
    layout = tmp_path / "layout"
    stops = {
        "folder": Stop(f"oci:{layout}:latest", LayoutFolder(layout)),
        "debian": Stop(f"{docker(debian)}/demo:latest", RegistryClient(debian, "demo")),
    }
    with running(tmp_path / "home") as home:
        way = [our_stop(api), *(stops[name] for name in between), our_stop(home)]
        for here, there in pairwise(way):
            skopeo_copy(here.name, there.name, *here.doors("src"), *there.doors("dest"))
            template = open_template(there.source, "latest")
            assert template.digest == digest
            check_indexes(template)
            assert is_right(tmp_path, there.source)
        for stop in way:
            stop.source.close()


def test_what_we_export_skopeo_reads_and_what_skopeo_writes_we_import(
    api: Api, digest: str, call: Call, tmp_path: Path
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    told = json.loads(call("export", "demo", str(ours), "--json"))
    assert told["digest"] == digest
    assert told["moved_bytes"] > 0
    skopeo_copy(f"oci:{ours}:latest", f"oci:{theirs}:v1")
    assert digest in call("import", f"{theirs}:v1", "again:v2")
    assert json.loads(call("show", "again:v2", "--json"))["summary"]["digest"] == digest
    again = json.loads(call("export", "demo", str(ours), "--json"))
    assert (again["moved_bytes"], again["kept_bytes"]) == (0, told["moved_bytes"])


def test_our_copy_goes_to_any_registry_and_sends_nothing_twice(
    api: Api, digest: str, debian: str, call: Call
) -> None:
    there = f"{debian}/v2/some/where"
    first = json.loads(call("copy", "demo:latest", f"{there}:v1", "--json"))
    assert (first["digest"], first["kept_bytes"]) == (digest, 0)
    second = json.loads(call("copy", "demo:latest", f"{there}:v2", "--json"))
    assert second["moved_bytes"] == 0
    mounted = json.loads(call("copy", f"{there}:v1", f"{debian}/v2/else/where:v1", "--json"))
    assert mounted["moved_bytes"] == 0
    assert digest in call("copy", f"{debian}/v2/else/where@{digest}", "home:v3")
    mounted = json.loads(call("copy", "home:v3", "other:v4", "--json"))
    assert mounted["moved_bytes"] == 0
    assert "the two are the same" in call("diff", "other:v4", f"{there}:v1")
    assert "read and compared" in call("verify", f"{there}:v2", "--deep")


def test_oras_pulls_and_copies(api: Api, digest: str, debian: str, tmp_path: Path) -> None:
    program = oras()
    ours, theirs = api.url.removeprefix("http://"), debian.removeprefix("http://")
    config = tmp_path / "oras.json"
    login = ("--plain-http", "--username", "metalcast", "--password", str(api.token))
    env = {"DOCKER_CONFIG": str(tmp_path), "HOME": str(tmp_path)}
    manifest = run(program, "manifest", "fetch", *login, f"{ours}/demo:latest", env=env)
    listed = json.loads(manifest)
    pulled = tmp_path / "layout"
    run(
        *(program, "copy", "--from-plain-http", "--from-username", "metalcast"),
        *("--from-password", str(api.token), "--to-oci-layout"),
        *(f"{ours}/demo:latest", f"{pulled}:latest"),
        env=env,
    )
    assert is_right(tmp_path, LayoutFolder(pulled))
    run(
        *(program, "copy", "--from-oci-layout", "--to-plain-http"),
        *(f"{pulled}:latest", f"{theirs}/demo:latest"),
        env=env,
    )
    fetched = run(program, "manifest", "fetch", "--plain-http", f"{theirs}/demo:latest", env=env)
    assert fetched == manifest
    assert open_template(open_source(f"{debian}/v2/demo"), "latest").digest == digest
    index = next(one for one in listed["layers"] if one["mediaType"].endswith("index.v1+zstd"))
    blob = tmp_path / "index.zst"
    run(
        *(program, "blob", "fetch", "--plain-http", "--output", blob),
        f"{theirs}/demo@{index['digest']}",
        env=env,
    )
    assert blob.stat().st_size == index["size"]
    into = tmp_path / "pulled"
    run(program, "pull", *login, "--output", into, f"{ours}/demo:latest", env=env)
    assert {blob_digest(file.read_bytes()) for file in into.iterdir()} == {
        layer["digest"] for layer in listed["layers"]
    }
    assert (into / "root.index.zst").read_bytes() == blob.read_bytes()
    assert not config.exists()
