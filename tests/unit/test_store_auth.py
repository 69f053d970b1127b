"""What opens a registry's door: challenges, tokens and their end, and where a password may go."""

import base64
import json
from urllib.parse import parse_qs, urlsplit

import pytest

from agent.errors import ServerError
from agent.store.auth import Login, LoginDoor, TokenDoor, parse_challenges

BEARER = 'Bearer realm="https://auth.example/token",service="store",scope="repository:web:pull"'
LOGIN = Login("ada", "a secret")


class TokenServer:
    def __init__(self, **answer: object) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str | None]] = []

    def __call__(self, url: str, opens: str | None, max_bytes: int) -> bytes:
        self.asked.append((url, opens))
        return json.dumps({"token": f"t{len(self.asked)}"} | self.answer).encode()


def nobody(url: str, opens: str | None, max_bytes: int) -> bytes:
    raise AssertionError("nobody is to be asked")


def test_challenges_are_read_with_quotes_and_in_any_case() -> None:
    assert parse_challenges(BEARER + ', Basic realm="a, b"') == {
        "bearer": {
            "realm": "https://auth.example/token",
            "service": "store",
            "scope": "repository:web:pull",
        },
        "basic": {"realm": "a, b"},
    }
    assert parse_challenges(r'BASIC Realm="say \"hi\""') == {"basic": {"realm": 'say "hi"'}}
    for text in ("", "Bearer", "nonsense", 'Digest realm="x"'):
        assert "bearer" not in parse_challenges(text)
        assert "basic" not in parse_challenges(text)


def test_a_password_is_sent_when_it_is_asked_for_and_no_sooner() -> None:
    door = LoginDoor(LOGIN, "https://store.example", "web")
    assert door.header("pull", nobody) is None
    assert door.challenged("pull", 'Basic realm="x"', None)
    header = door.header("pull", nobody)
    assert header == "Basic " + base64.b64encode(b"ada:a secret").decode()
    assert not door.challenged("pull", 'Basic realm="x"', header)


def test_a_token_is_asked_for_with_the_password_and_kept() -> None:
    door, server = LoginDoor(LOGIN, "https://store.example", "web"), TokenServer()
    assert door.challenged("pull", BEARER, None)
    assert door.header("pull", server) == "Bearer t1"
    assert door.header("pull", server) == "Bearer t1"
    ((url, opens),) = server.asked
    assert opens == LOGIN.basic
    assert urlsplit(url)[:3] == ("https", "auth.example", "/token")
    assert parse_qs(urlsplit(url).query) == {
        "service": ["store"],
        "scope": ["repository:web:pull"],
        "account": ["ada"],
    }


def test_a_token_is_renewed_before_it_ends() -> None:
    clock = [0.0]
    door = LoginDoor(LOGIN, "https://store.example", "web", now=lambda: clock[0])
    server = TokenServer(expires_in=300)
    door.challenged("pull", BEARER, None)
    for at, token in ((0, "t1"), (289, "t1"), (290, "t2"), (579, "t2"), (581, "t3")):
        clock[0] = at
        assert door.header("pull", server) == f"Bearer {token}"


def test_a_token_that_is_refused_is_renewed_once_for_all_threads() -> None:
    door, server = LoginDoor(LOGIN, "https://store.example", "web"), TokenServer()
    door.challenged("pull", BEARER, None)
    first = door.header("pull", server)
    assert door.challenged("pull", BEARER, first)
    second = door.header("pull", server)
    assert door.challenged("pull", BEARER, first)  # a thread that comes late
    assert door.header("pull", server) == second == "Bearer t2"


def test_reading_and_writing_have_tokens_of_their_own() -> None:
    door, server = LoginDoor(None, "https://store.example", "web"), TokenServer()
    door.challenged("pull", 'Bearer realm="https://a.example"', None)
    door.challenged("push", 'Bearer realm="https://a.example"', None)
    assert door.header("pull", server) != door.header("push", server)
    scopes = [parse_qs(urlsplit(url).query)["scope"] for url, _ in server.asked]
    assert scopes == [["repository:web:pull"], ["repository:web:pull,push"]]
    assert all(opens is None for _, opens in server.asked)


@pytest.mark.parametrize("realm", ["http://auth.example", "file:///x", "https://a:b@c", "//x"])
def test_a_password_does_not_go_to_just_any_token_server(realm: str) -> None:
    door = LoginDoor(LOGIN, "https://store.example", "web")
    door.challenged("pull", f'Bearer realm="{realm}"', None)
    with pytest.raises(ServerError, match="no password is sent"):
        door.header("pull", nobody)


@pytest.mark.parametrize("answer", [{"token": ""}, {"token": "a\nb"}, {"token": 3}])
def test_a_token_server_that_gives_none_is_named(answer: dict[str, object]) -> None:
    door = LoginDoor(LOGIN, "https://store.example", "web")
    door.challenged("pull", BEARER, None)
    with pytest.raises(ServerError, match=r"auth\.example gives no token"):
        door.header("pull", TokenServer(**answer))


def test_a_fixed_token_is_sent_at_once_and_never_changed() -> None:
    assert TokenDoor("x").header("pull", nobody) == "Bearer x"
    assert not TokenDoor("x").challenged("pull", BEARER, "Bearer x")
    assert TokenDoor(None).header("push", nobody) is None


def test_no_secret_is_in_a_repr() -> None:
    assert "secret" not in f"{LOGIN!r} {TokenDoor('secret')!r}"
