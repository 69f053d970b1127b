"""Public keys and signatures as minisign(1) writes them, and what makes a signature good.

One format: Ed25519 over the BLAKE2b-512 of the data (`ED`). The older one over the data itself
(`Ed`) is refused. Secret keys are not known here: the agent only checks.
"""

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from agent.errors import AgentError

SIGNATURE_MAX_BYTES: Final = 4096
PUBLIC_KEY_MAX_BYTES: Final = 4096
KEY_ALGORITHM: Final = b"Ed"
ALGORITHM: Final = b"ED"
UNTRUSTED: Final = b"untrusted comment: "
TRUSTED: Final = b"trusted comment: "
_COMMENT: Final = re.compile(r"[\t -~]{0,1024}")
_REMAKE: Final = "sign again with minisign 0.10 or newer, or metalcast template sign"


class TrustError(AgentError):
    """Nobody whom we trust vouches for it, or what should say so is damaged."""


class SignatureBad(TrustError):
    """A key that we know did not make this signature over these bytes."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Half of a key pair, that checks. Two keys may have one id: only `key` tells them apart."""

    key_id: bytes
    key: bytes

    @property
    def name(self) -> str:
        """The id as minisign shows it: up to 16 hexadecimal digits."""
        return id_text(self.key_id)


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature that was read, and says nothing before it is checked."""

    key_id: bytes
    over_data: bytes
    comment: str
    over_comment: bytes

    @property
    def key_name(self) -> str:
        return id_text(self.key_id)


@dataclass(frozen=True, slots=True)
class Verified:
    """Proof that `key` signed `data` and `comment`. Only `verify` makes one."""

    data: bytes
    comment: str
    key: PublicKey


def id_text(key_id: bytes) -> str:
    return f"{int.from_bytes(key_id, 'little'):X}"


def ids_of(keys: Iterable[PublicKey]) -> tuple[str, ...]:
    return tuple(sorted({key.name for key in keys}))


def names(keys: Iterable[PublicKey]) -> str:
    return ", ".join(ids_of(keys)) or "none"


def prehash(data: bytes) -> bytes:
    return blake2b(data, digest_size=64).digest()


def parse_public_key(data: bytes, what: str) -> PublicKey:
    """Return the key in the two lines of a `.pub` file. Raises TrustError."""
    if len(data) > PUBLIC_KEY_MAX_BYTES:
        raise TrustError(f"{what}: {len(data)} bytes are too many for a public key")
    lines = [line.rstrip(b"\r") for line in data.rstrip(b"\r\n").split(b"\n")]
    if len(lines) != 2 or not lines[0].startswith(UNTRUSTED):
        raise TrustError(f"{what}: not a minisign public key", hint="two lines, as in KEY.pub")
    raw = _base64(lines[1], 42, f"{what}, line 2")
    if raw[:2] != KEY_ALGORITHM:
        raise TrustError(f"{what}: a key of the unknown kind {raw[:2]!r}")
    return PublicKey(raw[2:10], raw[10:])


def render_public_key(key: PublicKey) -> str:
    """Return the text of a `.pub` file: the same for the same key."""
    text = base64.b64encode(KEY_ALGORITHM + key.key_id + key.key).decode()
    return f"untrusted comment: minisign public key {key.name}\n{text}\n"


def parse_signature(data: bytes, what: str) -> Signature:
    """Return the signature in the four lines of a `.minisig` file. Raises TrustError."""
    if len(data) > SIGNATURE_MAX_BYTES:
        raise TrustError(
            f"{what}: {len(data)} bytes, a signature has {SIGNATURE_MAX_BYTES} at most"
        )
    lines = data.split(b"\n")
    if len(lines) != 5 or lines[4] or not lines[0].startswith(UNTRUSTED):
        raise TrustError(f"{what}: not a minisign signature: four lines are expected")
    if not lines[2].startswith(TRUSTED):
        raise TrustError(f"{what}: line 3 is no trusted comment")
    raw = _base64(lines[1], 74, f"{what}, line 2")
    if raw[:2] == KEY_ALGORITHM:
        raise TrustError(f"{what}: of the older kind, which does not hash first", hint=_REMAKE)
    if raw[:2] != ALGORITHM:
        raise TrustError(f"{what}: of the unknown kind {raw[:2]!r}")
    comment = lines[2].removeprefix(TRUSTED).decode("ascii", "replace")
    if not _COMMENT.fullmatch(comment):
        raise TrustError(f"{what}: its trusted comment is no plain line of at most 1024 letters")
    return Signature(raw[2:10], raw[10:], comment, _base64(lines[3], 64, f"{what}, line 4"))


def verify(data: bytes, signature: Signature, keys: Iterable[PublicKey], what: str) -> Verified:
    """Return proof that one of `keys` signed `data` and the trusted comment.

    Raises TrustError when none of them has the signature's id, SignatureBad when one has and yet
    did not sign this.
    """
    trusted = tuple(keys)
    named = [key for key in trusted if key.key_id == signature.key_id]
    if not named:
        raise TrustError(
            f"{what} is signed by {signature.key_name}; trusted are {names(trusted)}",
        )
    digest = prehash(data)
    comment = signature.over_data + signature.comment.encode()
    for key in named:
        if not _is_signed(key, digest, signature.over_data):
            continue
        if not _is_signed(key, comment, signature.over_comment):
            raise SignatureBad(f"{what}: the trusted comment was changed after {key.name} signed")
        return Verified(data, signature.comment, key)
    raise SignatureBad(
        f"{what}: the signature names {signature.key_name}, which did not sign these bytes"
    )


def _is_signed(key: PublicKey, data: bytes, signature: bytes) -> bool:
    try:
        VerifyKey(key.key).verify(data, signature)
    except (BadSignatureError, ValueError):
        return False
    return True


def _base64(line: bytes, size: int, what: str) -> bytes:
    try:
        raw = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError) as error:
        raise TrustError(f"{what}: not base64") from error
    if len(raw) != size:
        raise TrustError(f"{what}: {len(raw)} bytes in base64, {size} are expected")
    return raw
