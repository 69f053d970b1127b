"""Mirrors and URLs of sources, as values: who is asked, who is left, what a file says."""

from pathlib import Path
from typing import Any

import pytest

from agent.errors import AgentError, ServerError, TemplateError, UsageError
from agent.model.mirror import split_source
from agent.store.folder import FolderSource
from agent.store.mirrors import AWAY_S, LIED_S, Mirrors
from agent.store.registry import RegistryClient
from agent.store.retry import Retry, Transient
from agent.store.sources import open_source
from netboot.mirrors import mirrors_of, read_mirrors

DIGEST = "sha256:" + "0" * 64
ONCE = Retry(attempts=1)


class Told:
    """A source that answers, or raises, what it is told to."""

    def __init__(self, name: str) -> None:
        self.url = f"http://{name}"
        self.error: AgentError | None = None
        self.asked = 0

    def manifest(self, reference: str) -> tuple[bytes, str]:
        self.asked += 1
        if self.error:
            raise self.error
        return self.url.encode(), DIGEST

    def open_range(self, *_range: Any) -> Any:
        self.asked += 1
        if self.error:
            raise self.error

        class Body:
            failed: Any = None
            origin: Any = None

        return Body()


class World:
    def __init__(self, *names: str) -> None:
        self.sources = [Told(name) for name in names]
        self.warned: list[str] = []
        self.clock = 0.0
        told: Any = self.sources
        self.mirrors = Mirrors(told, warn=self.warned.append, retry=ONCE, now=lambda: self.clock)

    def who(self) -> str:
        return self.mirrors.manifest("latest")[0].decode()


def test_the_first_that_is_well_is_asked() -> None:
    world = World("a", "b")
    assert [world.who() for _ in range(3)] == ["http://a"] * 3
    assert world.sources[1].asked == 0
    assert world.warned == []


def test_one_that_is_away_is_left_named_once_and_comes_back() -> None:
    world = World("a", "b")
    world.sources[0].error = Transient("503")
    assert [world.who() for _ in range(3)] == ["http://b"] * 3
    assert world.sources[0].asked == 1
    assert world.warned == ["http://a is left for now: 503"]
    world.clock += AWAY_S
    assert world.who() == "http://b"
    assert world.sources[0].asked == 2
    world.sources[0].error = None
    world.clock += AWAY_S
    assert world.who() == "http://a"
    assert len(world.warned) == 1


def test_one_that_is_away_is_asked_again_when_there_is_nobody_else() -> None:
    world = World("a", "b")
    world.sources[0].error = world.sources[1].error = Transient("cut")
    with pytest.raises(Transient, match="http://a: cut; http://b: cut"):
        world.who()
    world.sources[1].error = None
    assert world.who() == "http://b"


def test_damage_counts_against_the_source_that_it_came_from() -> None:
    world = World("a", "b")
    body = world.mirrors.open_range(DIGEST, 0, 1, 1)
    assert world.mirrors.blame(body, TemplateError("is damaged"))
    assert world.who() == "http://b"
    assert "http://a is left for now: a chunk from there is damaged" in world.warned


def test_all_bad_is_an_error_that_lists_each_with_its_reason() -> None:
    world = World("a", "b")
    world.sources[0].error = ServerError("gone")
    world.sources[1].error = ServerError("no entry")
    with pytest.raises(Transient, match="http://a: gone; http://b: no entry"):
        world.who()
    with pytest.raises(TemplateError, match="http://a: gone; http://b: no entry"):
        world.who()
    assert len(world.warned) == 2


def test_one_wrong_answer_may_be_a_fault_on_the_way_two_are_not() -> None:
    world = World("a")
    body = world.mirrors.open_range(DIGEST, 0, 1, 1)
    assert world.mirrors.blame(body, TemplateError("is damaged"))
    body = world.mirrors.open_range(DIGEST, 0, 1, 1)
    with pytest.raises(TemplateError, match="is damaged"):
        world.mirrors.blame(body, TemplateError("is damaged"))
    with pytest.raises(TemplateError):
        world.who()
    world.clock += LIED_S
    assert world.who() == "http://a"


def test_a_body_that_is_cut_counts_against_its_source() -> None:
    world = World("a", "b")
    body = world.mirrors.open_range(DIGEST, 0, 1, 1)
    assert body.failed is not None
    body.failed(Transient("cut off"))
    assert world.who() == "http://b"


@pytest.mark.parametrize(
    ("url", "base", "repository"),
    [
        ("https://host/v2/web", "https://host", "web"),
        ("http://host:5000/v2/a/v2/b", "http://host:5000", "a/v2/b"),
        ("https://host/proxy/v2/a/b", "https://host/proxy", "a/b"),
        ("https://host/web", "https://host/web", None),
        ("https://host/v2/web/", "https://host/v2/web", None),
        ("https://host/v2/Web", "https://host/v2/Web", None),
        ("https://host/", "https://host", None),
    ],
)
def test_a_url_ending_in_v2_and_a_name_is_a_registry(
    url: str, base: str, repository: str | None
) -> None:
    assert split_source(url) == (base, repository)
    kind = FolderSource if repository is None else RegistryClient
    assert isinstance(open_source(url), kind)


@pytest.mark.parametrize(
    "url",
    ["ftp://host/x", "https://", "https://ada:x@host/v2/web", "https://host/a?b", "file:///x", "x"],
)
def test_other_urls_are_no_sources(url: str) -> None:
    with pytest.raises(ServerError, match="not the URL of a source"):
        open_source(url)


def write(folder: Path, text: str) -> Path:
    (folder / "password").write_text("a secret\n")
    (folder / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
    file = folder / "mirrors.toml"
    file.write_text(text)
    return file


def test_a_file_of_mirrors_says_where_a_template_is(tmp_path: Path) -> None:
    rules = read_mirrors(
        write(
            tmp_path,
            """
            [[mirror]]
            url = "https://registry.example/v2"
            here = "prod/"
            there = "metal/prod-"
            username = "ada"
            password_file = "password"
            ca_file = "ca.pem"

            [[mirror]]
            url = "http://static.example/exports/"
            first = false
            """,
        )
    )
    first, second = mirrors_of(rules, "prod/web")
    assert first.url == "https://registry.example/v2/metal/prod-web"
    assert (first.username, first.password, first.first) == ("ada", "a secret", True)
    assert first.ca is not None
    assert first.ca.startswith("-----BEGIN")
    assert (second.url, second.first) == ("http://static.example/exports/prod/web", False)
    (only,) = mirrors_of(rules, "web")
    assert only.url == "http://static.example/exports/web"
    assert "secret" not in repr(rules)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[[mirror]]\nurl = 'ftp://x/v2'", r"mirror\[0\]\.url"),
        ("[[mirror]]\nurl = 'https://a:b@x/v2'", r"mirror\[0\]\.url: no user and no password"),
        ("[[mirror]]\nurl = 'https://x/v2'\nuser = 'a'", "unknown field `user`"),
        ("[[mirror]]\nurl = 'https://x/v2'\nusername = 'a'", "belong together"),
        (
            "[[mirror]]\nurl = 'https://x/v2'\nusername = 'a'\npassword_file = 'none'",
            "cannot read .*none",
        ),
        ("[[mirror]]\nurl = 'https://x/v2'\nca_file = 'password'", "holds no certificate"),
        ("mirror = 3", "mirror"),
        ("[[mirror", "mirrors.toml"),
    ],
)
def test_a_wrong_file_of_mirrors_says_where(tmp_path: Path, text: str, wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        read_mirrors(write(tmp_path, text))
