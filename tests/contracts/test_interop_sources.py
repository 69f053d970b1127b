"""A disk is written straight from the world's servers: docker-registry with a login and TLS, nginx
over an exported folder, and mirrors of which some are broken."""

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.cli import parser
from agent.errors import AgentError, ServerError, UsageError
from agent.flows import by_hand
from agent.store.auth import Login
from agent.store.folder import FolderSource
from agent.store.layout import LayoutFolder
from agent.store.mirrors import Mirrors, WebSource
from agent.store.registry import RegistryClient
from agent.store.retry import Retry
from agent.store.sources import open_source
from agent.store.target import FolderTarget, RegistryTarget
from agent.store.template import open_template
from agent.store.transfer import copy_template
from agent.stream.restore import Restored, restore_volume
from agent.units import MiB
from tests.contracts.fake_registry import FakeRegistry, Handler
from tests.contracts.peers import (
    PASSWORD,
    USER,
    TokenServer,
    docker_registry,
    htpasswd_auth,
    make_certificate,
    nginx,
)
from tests.contracts.stream_builders import (
    BASE,
    IMPATIENT,
    QUICK,
    capture,
    make_client,
    make_source,
    make_target,
    mixed_bytes,
)

SIZE = 24 * MiB
DATA = mixed_bytes(SIZE, seed=5)
LOGIN = Login(USER, PASSWORD)
ONCE = Retry(attempts=1)


@dataclass
class World:
    """A template in a registry of this process, in a folder, and a disk to restore to."""

    folder: Path
    fake: FakeRegistry
    url: str
    digest: str
    layout: LayoutFolder
    warned: list[str] = field(default_factory=list)

    def restore(self, source: WebSource | Mirrors, lanes: int | None = None) -> Restored:
        template = open_template(source, self.digest)
        target = make_target(self.folder, SIZE)
        done = restore_volume(template, "root", target, BASE, lanes=lanes)
        assert target.read_bytes()[BASE : BASE + SIZE] == DATA
        return done

    def mirrors(self, *urls: str) -> Mirrors:
        sources = [open_source(url, retry=ONCE) for url in urls]
        return Mirrors(sources, warn=self.warned.append, retry=QUICK, limits=IMPATIENT)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    fake = FakeRegistry()
    with fake.serving() as url:
        client = make_client(url)
        digest = capture(client, make_source(tmp_path, DATA)).digest
        layout = LayoutFolder(tmp_path / "www" / "exports" / "demo")
        layout.path.mkdir(parents=True)
        copy_template(client, digest, FolderTarget(layout), "latest")
        client.close()
        fake.asked.clear()
        yield World(tmp_path, fake, url, digest, layout)


@pytest.fixture
def static(world: World) -> Iterator[str]:
    """The URL of the exported template on nginx."""
    with nginx(world.folder / "www", world.folder / "nginx") as url:
        yield f"{url}/exports/demo"


def test_docker_registry_with_a_password_and_tls(world: World) -> None:
    certificate = make_certificate(world.folder)
    auth = htpasswd_auth(world.folder)
    with docker_registry(world.folder / "docker", auth=auth, certificate=certificate) as url:
        place = f"{url}/v2/prod/demo"
        source = open_source(place, login=LOGIN, ca=certificate.cert, retry=QUICK)
        assert isinstance(source, RegistryClient)
        moved = copy_template(world.layout, "latest", RegistryTarget(source), "latest")
        assert moved.digest == world.digest
        world.restore(source)
        assert open_template(source, "latest").digest == world.digest
        source.close()
        for login, ca, wrong in (
            (None, certificate.cert, "401"),
            (Login(USER, "wrong"), certificate.cert, "401"),
            (LOGIN, None, "no trust in its certificate"),
            (LOGIN, make_certificate(world.folder, "other").cert, "no trust in its certificate"),
        ):
            closed = open_source(place, login=login, ca=ca, retry=QUICK)
            with pytest.raises(ServerError, match=wrong) as caught:
                open_template(closed, "latest")
            assert caught.value.hint
            assert PASSWORD not in f"{caught.value} {closed!r}"
            closed.close()


def test_docker_registry_with_a_token_server(world: World) -> None:
    certificate = make_certificate(world.folder)
    with contextlib.ExitStack() as stack:
        tokens = stack.enter_context(TokenServer(world.folder, certificate, 1).serving())
        folder = world.folder / "docker"
        url = stack.enter_context(
            docker_registry(folder, auth=tokens.auth(), certificate=certificate)
        )
        place = f"{url}/v2/demo"
        source = open_source(place, login=LOGIN, ca=certificate.cert, retry=QUICK)
        assert isinstance(source, RegistryClient)
        copy_template(world.layout, "latest", RegistryTarget(source), "latest")
        pushed = len(tokens.asked)
        scopes = {scope for one in tokens.asked for scope in one["scope"]}
        # the registry names the actions in any order
        assert {"repository:demo:pull,push", "repository:demo:push,pull"} & scopes
        tokens.good_s = 0  # every one has ended when the next request is made
        time.sleep(1)
        world.restore(source)
        assert len(tokens.asked) >= pushed + len(open_template(source, "latest").manifest.packs)
        source.close()
        wrong = open_source(place, login=Login(USER, "wrong"), ca=certificate.cert, retry=QUICK)
        with pytest.raises(ServerError, match="401"):
            open_template(wrong, "latest")
        assert tokens.refused == 1
        wrong.close()


def test_nginx_over_an_exported_folder(world: World, static: str) -> None:
    source = open_source(f"{static}/", retry=QUICK)
    assert open_template(source, "latest").digest == world.digest
    world.restore(source)
    with pytest.raises(ServerError, match="has no 'other'") as caught:
        open_template(source, "other")
    assert "latest" in str(caught.value.hint)
    source.close()
    nothing = open_source(static.replace("demo", "nothing"), retry=QUICK)
    with pytest.raises(ServerError, match="404"):
        open_template(nothing, "latest")
    nothing.close()


# mirrors


def status(code: int) -> Callable[[Handler], bool]:
    def lie(handler: Handler) -> bool:
        handler.answer(code, b"no")
        return True

    return lie


def cut(handler: Handler) -> bool:
    if "Range" not in handler.headers or "blobs" not in handler.path:
        return False
    handler.cut(100_000, reset=False)
    return True


def wrong_range(handler: Handler) -> bool:
    if "Range" not in handler.headers:
        return False
    data, first, last = handler.ranged()
    shown = f"bytes {first + 1}-{last + 1}/{len(data)}"
    handler.answer(206, data[first : last + 1], {"Content-Range": shown})
    return True


def damaged(handler: Handler) -> bool:
    if "Range" not in handler.headers:
        return False
    data, first, last = handler.ranged()
    part = bytearray(data[first : last + 1])
    part[len(part) // 2] ^= 1
    shown = f"bytes {first}-{last}/{len(data)}"
    handler.answer(206, bytes(part), {"Content-Range": shown})
    return True


BROKEN = {
    "503": (status(503), "503"),
    "404": (status(404), "404"),
    "401": (status(401), "401"),
    "cut": (cut, "cut off|IncompleteRead"),
    "wrong range": (wrong_range, "the answer is for"),
    "damaged": (damaged, "does not have the digest"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_mirror_is_left_for_the_next_and_named_once(
    world: World, static: str, name: str
) -> None:
    lie, reason = BROKEN[name]
    world.fake.lie = lie
    source = world.mirrors(f"{world.url}/v2/demo", static)
    done = world.restore(source)
    assert len(world.warned) == 1, world.warned
    assert world.warned[0].startswith(f"{world.url}/v2/demo is left for now: ")
    assert re.search(reason, world.warned[0])
    stored = sum(pack.size for pack in open_template(source, world.digest).manifest.packs)
    assert done.bytes_fetched <= stored + 5 * 6 * MiB  # what the lanes had on their way, no more
    source.close()


def test_a_mirror_that_is_not_there_is_left(world: World, static: str) -> None:
    source = world.mirrors("http://127.0.0.1:1/v2/demo", static)
    world.restore(source)
    assert len(world.warned) == 1
    assert "Connection refused" in world.warned[0]
    source.close()


def test_nothing_that_was_verified_is_fetched_again(world: World, static: str) -> None:
    """One lane, and a mirror that dies in the middle: the next one gives the rest, once."""
    begun = 0

    def lie(handler: Handler) -> bool:
        nonlocal begun
        if "Range" not in handler.headers:
            return False
        begun += 1
        return cut(handler) if begun == 2 else False

    world.fake.lie = lie
    source = world.mirrors(f"{world.url}/v2/demo", static)
    done = world.restore(source, lanes=1)
    stored = sum(pack.size for pack in open_template(source, world.digest).manifest.packs)
    assert done.bytes_fetched == stored
    assert len(world.warned) == 1
    source.close()


def test_damage_in_one_pack_of_one_and_another_of_the_other(world: World, static: str) -> None:
    """Neither mirror is whole, together they are."""
    template = open_template(make_client(world.url), world.digest)
    first, *_, last = template.manifest.packs
    assert first.digest != last.digest
    spoil(world.layout, first.digest)

    def lie(handler: Handler) -> bool:
        return last.digest in handler.path and damaged(handler)

    world.fake.lie = lie
    source = world.mirrors(static, f"{world.url}/v2/demo")
    world.restore(source, lanes=1)
    assert len(world.warned) == 2
    source.close()


def test_all_bad_is_an_error_that_lists_each(world: World, static: str) -> None:
    template = open_template(make_client(world.url), world.digest)
    for pack in template.manifest.packs:
        spoil(world.layout, pack.digest)
    world.fake.lie = wrong_range
    source = world.mirrors(f"{world.url}/v2/demo", static, "http://127.0.0.1:1/nothing")
    with pytest.raises(AgentError) as caught:
        world.restore(source)
    text = str(caught.value)
    assert f"{world.url}/v2/demo: " in text
    assert f"{static}: a chunk from there does not have the digest" in text
    assert "http://127.0.0.1:1/nothing: " in text
    assert "Connection refused" in text
    source.close()


def spoil(layout: LayoutFolder, digest: str) -> None:
    path = layout.path / "blobs" / "sha256" / digest.removeprefix("sha256:")
    data = bytearray(path.read_bytes())
    for at in range(1000, len(data), 100_000):
        data[at] ^= 0x10
    path.write_bytes(data)


# by hand


def source_of(*words: str | Path) -> tuple[object, list[str]]:
    """Return the source that `python -m agent plan …` would read from, and what it warns of."""
    told: list[str] = []
    args = parser().parse_args(["plan", "--template", "demo", *map(str, words)])
    return by_hand.find_source(args, "demo", lambda one: told.append(one.message)), told


def test_words_on_a_command_line_are_enough(world: World, static: str) -> None:
    certificate = make_certificate(world.folder)
    auth = htpasswd_auth(world.folder)
    password = world.folder / "password"
    password.write_text(f"{PASSWORD}\n")
    with docker_registry(world.folder / "docker", auth=auth, certificate=certificate) as url:
        place = f"{url}/v2/prod/demo"
        target = open_source(place, login=LOGIN, ca=certificate.cert)
        assert isinstance(target, RegistryClient)
        copy_template(world.layout, "latest", RegistryTarget(target), "latest")
        target.close()
        opens = ("--user", USER, "--password-file", password, "--ca", certificate.cert)
        source, _ = source_of("--source", place, *opens)
        assert isinstance(source, RegistryClient)
        world.restore(source)
        source.close()
    source, told = source_of("--source", place, *opens, "--server", world.url)
    assert isinstance(source, Mirrors)
    world.restore(source)
    assert len(told) == 1
    assert place in told[0]
    source.close()
    source, _ = source_of("--source", static)
    assert isinstance(source, FolderSource)
    world.restore(source)
    source.close()
    for words, wrong in (
        ((), "where is the template"),
        (("--source", place, "--user", "ada"), "belong together"),
        (("--source", place, "--source", static, *opens), "--user is for one server"),
    ):
        with pytest.raises(UsageError, match=wrong):
            source_of(*words)


def test_a_registry_may_keep_its_blobs_on_another_server(world: World, static: str) -> None:
    """As those with an object store do: the GET of a blob is sent there, without our password."""
    strangers: list[str] = []

    def lie(handler: Handler) -> bool:
        if handler.command != "GET" or "/blobs/" not in handler.path:
            return False
        digest = handler.path.rpartition(":")[2]
        strangers.append(handler.headers.get("Authorization", ""))
        handler.answer(307, headers={"Location": f"{static}/blobs/sha256/{digest}?signed=secret"})
        return True

    world.fake.lie = lie
    world.fake.token = "ours"
    client = make_client(world.url, "ours")
    world.restore(client)
    assert strangers
    assert set(strangers) == {"Bearer ours"}
    log = (world.folder / "nginx" / "access").read_text()
    assert "/blobs/sha256/" in log
    assert "ours" not in log
    client.close()


def test_a_folder_of_this_machine_is_a_source_and_a_target(tmp_path: Path) -> None:
    assert source_of("--source", tmp_path)[0] == LayoutFolder(tmp_path)
    for more in (("--server", "http://s:8470"), ("--source", "http://s/web")):
        with pytest.raises(UsageError, match="a folder stands alone"):
            source_of("--source", tmp_path, *more)
    words = ["capture", "--name", "demo"]
    args = parser().parse_args([*words, "--folder", str(tmp_path / "new")])
    assert by_hand.find_source(args, "demo", print) == LayoutFolder(tmp_path / "new")
    with pytest.raises(UsageError, match="where is the template") as caught:
        by_hand.find_source(parser().parse_args(words), "demo", print)
    assert "--folder DIR" in str(caught.value.hint)
