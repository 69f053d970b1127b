"""What opens a server's door: nothing, a token that we were given, or a name and a password.

A password goes to the server that it is for and, if that server wants tokens (`WWW-Authenticate:
Bearer`), to the token server that it names: nowhere else, and over TLS unless the server itself
is without. A token is asked for again before it ends, in the middle of a deployment as well.
"""

import base64
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol
from urllib.parse import urlencode, urlsplit

import msgspec

from agent.errors import ServerError

TOKEN_S: Final = 60.0
"""How long a token is good if its answer does not say."""
_ANSWER_MAX_BYTES: Final = 256 * 1024
_SCHEME: Final = re.compile(r"(?:^|,)\s*([A-Za-z]+)\s+(?=[A-Za-z]+\s*=)")
_PARAMETER: Final = re.compile(r'([A-Za-z]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')

Ask = Callable[[str, str | None, int], bytes]
"""GET a URL with an Authorization header, or none; the answer, of so many bytes at most."""


@dataclass(frozen=True, slots=True)
class Login:
    username: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        if ":" in self.username:
            raise ServerError("a user name has no colon")

    @property
    def basic(self) -> str:
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"


class Door(Protocol):
    """Knows what to send to one server. `action` is `pull`, `push` or `delete`. Any thread may
    use it."""

    @property
    def hint(self) -> str:
        """What to do when the server says no."""
        ...

    def header(self, action: str, ask: Ask) -> str | None:
        """Return the Authorization header to send, if any."""
        ...

    def challenged(self, action: str, challenge: str, sent: str | None) -> bool:
        """Hear of a 401 after `sent`; return whether another try makes sense."""
        ...


@dataclass(frozen=True, slots=True)
class TokenDoor:
    """A bearer token that does not change: our own job's, or an operator's."""

    token: str | None = field(repr=False)
    hint: str = "the job's token is wrong, expired, or not for this repository"

    def header(self, action: str, ask: Ask) -> str | None:
        del action, ask
        return f"Bearer {self.token}" if self.token else None

    def challenged(self, action: str, challenge: str, sent: str | None) -> bool:
        del action, challenge, sent
        return False


class _Answer(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""
    expires_in: int | None = None


@dataclass(frozen=True, slots=True)
class _Token:
    header: str
    renew_at: float


class LoginDoor:
    """Basic, or the token flow of the Distribution clients, as the server asks for it.

    Without a login, tokens for anybody are still asked for, as public registries want it.
    """

    def __init__(
        self,
        login: Login | None,
        url: str,
        repository: str | None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._login = login
        self._is_https = urlsplit(url).scheme == "https"
        self._repository = repository
        self._now = now
        self._lock = threading.Lock()
        self._is_basic = False
        self._wanted: dict[str, dict[str, str]] = {}
        """The newest Bearer challenge for each action."""
        self._tokens: dict[str, _Token] = {}

    @property
    def hint(self) -> str:
        if self._login is None:
            return "it wants a user name and a password"
        return "user name or password is wrong there, or not good for that repository"

    def header(self, action: str, ask: Ask) -> str | None:
        with self._lock:
            if self._is_basic and self._login:
                return self._login.basic
            if action not in self._wanted:
                return None
            token = self._tokens.get(action)
            if token is None or self._now() >= token.renew_at:
                token = self._tokens[action] = self._fetch(action, ask)
            return token.header

    def challenged(self, action: str, challenge: str, sent: str | None) -> bool:
        offers = parse_challenges(challenge)
        with self._lock:
            if "bearer" in offers and offers["bearer"].get("realm"):
                token = self._tokens.get(action)
                if token and token.header != sent:
                    return True  # another thread has a new one already
                self._wanted[action] = offers["bearer"]
                self._tokens.pop(action, None)
                self._is_basic = False
                return True
            if "basic" in offers and self._login and sent != self._login.basic:
                self._is_basic = True
                return True
        return False

    def _fetch(self, action: str, ask: Ask) -> _Token:
        wanted = self._wanted[action]
        realm = wanted["realm"]
        parts = urlsplit(realm)
        allowed = ("https",) if self._is_https else ("https", "http")
        if parts.scheme not in allowed or not parts.hostname or "@" in parts.netloc:
            raise ServerError(f"no password is sent to the token server {realm[:200]!a}")
        scopes = wanted.get("scope", "").split()
        if not scopes and self._repository:
            actions = "pull,push" if action == "push" else action
            scopes = [f"repository:{self._repository}:{actions}"]
        asked = [("service", wanted["service"])] if "service" in wanted else []
        asked += [("scope", scope) for scope in scopes]
        if self._login:
            asked.append(("account", self._login.username))
        joint = "&" if parts.query else "?"
        began = self._now()
        data = ask(
            f"{realm}{joint}{urlencode(asked)}",
            self._login.basic if self._login else None,
            _ANSWER_MAX_BYTES,
        )
        try:
            answer = msgspec.json.decode(data, type=_Answer)
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            raise ServerError(f"the token server {parts.netloc} gives no token: {error}") from error
        token = answer.token or answer.access_token
        if not re.fullmatch(r"[!-~]{1,65536}", token):
            raise ServerError(f"the token server {parts.netloc} gives no token")
        good_s = TOKEN_S if answer.expires_in is None else float(answer.expires_in)
        return _Token(f"Bearer {token}", began + good_s - min(10.0, good_s / 10))


def parse_challenges(text: str) -> dict[str, dict[str, str]]:
    """Return what WWW-Authenticate offers: parameters by scheme, both in lower case."""
    found: dict[str, dict[str, str]] = {}
    starts = list(_SCHEME.finditer(text))
    for number, start in enumerate(starts):
        end = starts[number + 1].start() if number + 1 < len(starts) else len(text)
        rest = text[start.end() : end]
        parameters = {
            name.lower(): re.sub(r"\\(.)", r"\1", quoted) if quoted else plain
            for name, quoted, plain in _PARAMETER.findall(rest)
        }
        found.setdefault(start[1].lower(), parameters)
    return found
