"""How values cross a wire or a file: strict JSON, with errors that say where."""

from typing import Any, TypeVar

import msgspec

from agent.errors import AgentError

T = TypeVar("T")


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
