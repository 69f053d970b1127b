"""How values cross a wire or a file: strict JSON, with errors that say where."""

import re
from typing import Any, Final, TypeVar

import msgspec

from agent.errors import AgentError

T = TypeVar("T")

_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"(\s*:)?|[{}]')
_MOST_OBJECTS: Final = 200_000


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A frozen value with a strict JSON form: unknown fields are refused."""


class BadDocument(AgentError):
    """A document that is not what it should be; the message says what and where."""


def decode(data: bytes | str, kind: type[T], what: str, max_bytes: int = 4 * 1024 * 1024) -> T:
    """Return `data`, JSON, as a `kind`. `what` names the document in errors.

    Raises BadDocument for anything else: wrong type, unknown or missing field, too large.
    """
    if len(data) > max_bytes:
        raise BadDocument(f"{what}: {len(data)} bytes, at most {max_bytes} are allowed")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise BadDocument(f"{what}: {error}") from error


def refuse_doubled_keys(data: bytes, what: str) -> None:
    """Raise BadDocument if an object in `data`, well-formed JSON, has a key twice.

    Of two, other readers of the document may see the first, and we the last.
    """
    if data.count(b"{") > _MOST_OBJECTS:
        raise BadDocument(f"{what}: more than {_MOST_OBJECTS} objects")
    objects: list[set[bytes]] = []
    for token in _TOKEN.finditer(data):
        text = token[0]
        if text == b"{":
            objects.append(set())
        elif text == b"}":
            objects.pop()
        elif token[1] is not None:
            key = text[: -len(token[1])]
            if b"\\" in key:
                key = msgspec.json.encode(msgspec.json.decode(key))
            if key in objects[-1]:
                raise BadDocument(
                    f"{what}: the key {key[:60].decode(errors='replace')} comes twice"
                )
            objects[-1].add(key)


def convert(data: Any, kind: type[T], what: str) -> T:
    """Return `data`, already plain Python values (from YAML, TOML), as a `kind`."""
    try:
        return msgspec.convert(data, type=kind)
    except msgspec.ValidationError as error:
        raise BadDocument(f"{what}: {error}") from error


def encode(value: Any) -> bytes:
    """Return `value` as JSON with sorted keys: the same value gives the same bytes."""
    return msgspec.json.encode(value, order="deterministic")


def pretty(value: Any) -> str:
    """Return `value` as indented JSON for a person."""
    return msgspec.json.format(encode(value), indent=2).decode()
