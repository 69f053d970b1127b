"""Whom a boot image trusts: the public keys that were baked into it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.model.job import ImageKeys
from agent.trust.minisign import (
    PUBLIC_KEY_MAX_BYTES,
    PublicKey,
    TrustError,
    ids_of,
    parse_public_key,
)

KEYS: Final = Path("/etc/metalcast/keys")
TEMPLATES: Final = "templates"
SERVER: Final = "server"


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys that may vouch for templates, and those of servers that may give jobs."""

    templates: tuple[PublicKey, ...] = ()
    server: tuple[PublicKey, ...] = ()

    @property
    def lack(self) -> str:
        """Return `no keys`, or which of the two there are none of; empty if there are both."""
        if not self.templates and not self.server:
            return "no keys"
        kinds = (("template", self.templates), ("server", self.server))
        return "".join(f"no {kind} keys" for kind, keys in kinds if not keys)

    @property
    def ids(self) -> ImageKeys:
        """Return the ids of the keys, as the server is told them."""
        return ImageKeys(templates=ids_of(self.templates), server=ids_of(self.server))

    def lines(self) -> tuple[str, ...]:
        """Return what a person at the console should know of this."""
        return (
            f"Templates must be signed by {_any_of(self.templates)}."
            if self.templates
            else "No template keys in this image: it takes UNSIGNED templates.",
            f"Jobs must be signed by {_any_of(self.server)}."
            if self.server
            else "No server keys in this image: it takes jobs from ANY server.",
        )


def _any_of(keys: tuple[PublicKey, ...]) -> str:
    return " or ".join(ids_of(keys))


def read_keyring(folder: Path = KEYS) -> Keyring:
    """Return the keys below `folder`; none if it is not there.

    Raises TrustError for a file that is no key: whoever put it there meant to be trusted.
    """
    return Keyring(_keys(folder / TEMPLATES), _keys(folder / SERVER))


def _keys(folder: Path) -> tuple[PublicKey, ...]:
    if not folder.exists():
        return ()
    try:
        return tuple(read_key(path) for path in sorted(folder.iterdir()))
    except OSError as error:
        raise TrustError(f"cannot read the keys in {folder}: {error.strerror}") from error


def read_key(path: Path) -> PublicKey:
    """Return the public key in `path`. Raises TrustError."""
    try:
        with path.open("rb") as file:
            data = file.read(PUBLIC_KEY_MAX_BYTES + 1)
    except OSError as error:
        raise TrustError(f"cannot read the key {path}: {error.strerror}") from error
    return parse_public_key(data, str(path))
