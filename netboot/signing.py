"""Secret keys as minisign(1) keeps them, and what is signed with them.

Only here: the agent has no secret keys, so it has no code for them.
"""

import base64
import binascii
import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final

from nacl.signing import SigningKey

from agent.errors import AgentError, UsageError
from agent.trust.minisign import (
    ALGORITHM,
    KEY_ALGORITHM,
    UNTRUSTED,
    PublicKey,
    prehash,
    render_public_key,
)

_SCRYPT: Final = b"Sc"
_NONE: Final = b"\0\0"
_CHECKSUM: Final = b"B2"
_BLOB_BYTES: Final = 158
_SECRET_BYTES: Final = 104
"""Key id, seed and public key, checksum: what a password hides."""
_SCRYPT_OPERATIONS: Final = 1 << 25
_SCRYPT_BYTES: Final = 1 << 30
"""minisign's: a guess at the password costs 1 GiB and some seconds."""
_MEMORY_MAX: Final = 2 << 30
_FILE_MAX: Final = 4096


class KeyUnusable(AgentError):
    """A secret key cannot be read, or the password is not its."""


@dataclass(frozen=True, slots=True, repr=False)
class SecretKey:
    """The half of a key pair that signs."""

    key_id: bytes
    seed: bytes

    @property
    def public(self) -> PublicKey:
        return PublicKey(self.key_id, bytes(SigningKey(self.seed).verify_key))

    def sign(self, data: bytes, comment: str) -> bytes:
        """Return the `.minisig` file for `data`, with `comment` as its trusted comment."""
        signer = SigningKey(self.seed)
        signature = signer.sign(prehash(data)).signature
        over_comment = signer.sign(signature + comment.encode("ascii")).signature
        lines = (
            f"untrusted comment: signature by metalcast, key {self.public.name}",
            base64.b64encode(ALGORITHM + self.key_id + signature).decode(),
            f"trusted comment: {comment}",
            base64.b64encode(over_comment).decode(),
        )
        return "".join(f"{line}\n" for line in lines).encode()


def make_key() -> SecretKey:
    return SecretKey(secrets.token_bytes(8), secrets.token_bytes(32))


def render_secret_key(key: SecretKey, password: str | None) -> bytes:
    """Return the text of a `.key` file. Without a password the file is all that one needs."""
    secret = key.key_id + key.seed + key.public.key
    if password is None:
        head = KEY_ALGORITHM + _NONE + _CHECKSUM + bytes(32 + 16)
        body = secret + bytes(32)
    else:
        salt = secrets.token_bytes(32)
        sizes = _SCRYPT_OPERATIONS.to_bytes(8, "little") + _SCRYPT_BYTES.to_bytes(8, "little")
        head = KEY_ALGORITHM + _SCRYPT + _CHECKSUM + salt + sizes
        hidden = _stream(password, salt, _SCRYPT_OPERATIONS, _SCRYPT_BYTES)
        body = _xor(secret + _checksum(secret), hidden)
    text = base64.b64encode(head + body).decode()
    return f"untrusted comment: minisign secret key {key.public.name}\n{text}\n".encode()


def needs_password(data: bytes, what: str) -> bool:
    """Return whether the secret key in `data` is encrypted. Raises KeyUnusable."""
    return _decoded(data, what)[2:4] == _SCRYPT


def parse_secret_key(data: bytes, password: str | None, what: str) -> SecretKey:
    """Return the key in a `.key` file. Raises KeyUnusable."""
    blob = _decoded(data, what)
    salt = blob[6:38]
    operations, memory = (int.from_bytes(blob[n : n + 8], "little") for n in (38, 46))
    secret = blob[_BLOB_BYTES - _SECRET_BYTES :]
    if blob[2:4] == _SCRYPT:
        if password is None:
            raise KeyUnusable(f"{what} has a password", hint="give --password-file FILE")
        secret = _xor(secret, _stream(password, salt, operations, memory))
        if not hmac.compare_digest(secret[72:], _checksum(secret[:72])):
            raise KeyUnusable(f"wrong password for {what}")
    key = SecretKey(secret[:8], secret[8:40])
    if key.public.key != secret[40:72]:
        raise KeyUnusable(f"{what} is damaged: its two halves do not belong together")
    return key


def read_secret_key(path: Path, password: str | None = None) -> SecretKey:
    return parse_secret_key(read_key_file(path), password, str(path))


def read_key_file(path: Path) -> bytes:
    """Return what is in a key file. Raises UsageError."""
    try:
        with path.open("rb") as file:
            return file.read(_FILE_MAX + 1)
    except OSError as error:
        raise UsageError(f"cannot read the key {path}: {error.strerror}") from error


def write_key_pair(key: SecretKey, path: Path, password: str | None) -> Path:
    """Write NAME.key for its owner only, and NAME.pub beside it; return the path of the latter.

    Raises UsageError if there is a key already: it is never overwritten.
    """
    public = path.with_name(f"{path.name.removesuffix('.key')}.pub")
    if public.exists():
        raise UsageError(f"{public} exists already", hint="choose another --output")
    _write_new(path, render_secret_key(key, password), 0o600)
    _write_new(public, render_public_key(key.public).encode(), 0o644)
    return public


def open_server_key(folder: Path) -> SecretKey:
    """Return the key that signs this server's answers, from `server.key`; made at first start.

    Its public half is beside it, in `server.pub`. Raises KeyUnusable, UsageError.
    """
    path, public = folder / "server.key", folder / "server.pub"
    if not path.exists():
        public.unlink(missing_ok=True)  # of a key that is gone
        write_key_pair(make_key(), path, None)
    key = read_secret_key(path)
    if not public.exists():
        _write_new(public, render_public_key(key.public).encode(), 0o644)
    return key


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except FileExistsError as error:
        raise UsageError(f"{path} exists already", hint="choose another --output") from error
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _decoded(data: bytes, what: str) -> bytes:
    lines = [line.rstrip(b"\r") for line in data.rstrip(b"\r\n").split(b"\n")]
    if len(data) > _FILE_MAX or len(lines) != 2 or not lines[0].startswith(UNTRUSTED):
        raise KeyUnusable(f"{what} is no minisign secret key", hint="metalcast template keygen")
    try:
        blob = base64.b64decode(lines[1], validate=True)
    except (binascii.Error, ValueError) as error:
        raise KeyUnusable(f"{what}, line 2: not base64") from error
    known = (_SCRYPT, _NONE)
    head = (blob[:2], blob[4:6])
    if len(blob) != _BLOB_BYTES or head != (KEY_ALGORITHM, _CHECKSUM) or blob[2:4] not in known:
        raise KeyUnusable(f"{what} is no secret key of a kind that is known here")
    return blob


def _checksum(secret: bytes) -> bytes:
    return blake2b(KEY_ALGORITHM + secret, digest_size=32).digest()


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _stream(password: str, salt: bytes, operations: int, memory: int) -> bytes:
    """Return what hides a secret: scrypt with libsodium's way to choose its numbers."""
    cost, block, parallel = scrypt_numbers(operations, memory)
    needed = 128 * block * (cost + parallel + 2)
    if needed > _MEMORY_MAX:
        raise KeyUnusable(f"the key's password takes {needed} bytes of memory to check: too many")
    try:
        return hashlib.scrypt(
            password.encode(),
            salt=salt,
            n=cost,
            r=block,
            p=parallel,
            maxmem=min(needed + (1 << 20), (1 << 31) - 1),
            dklen=_SECRET_BYTES,
        )
    except (ValueError, MemoryError) as error:
        raise KeyUnusable(
            f"cannot check the key's password: {error}", hint="it takes 1 GiB of free memory"
        ) from error


def scrypt_numbers(operations: int, memory: int) -> tuple[int, int, int]:
    """Return N, r, p as crypto_pwhash_scryptsalsa208sha256 chooses them for its two limits."""
    operations = max(operations, 32768)
    block = 8
    if operations < memory // 32:
        return _power(operations // (block * 4)), block, 1
    cost = _power(memory // (block * 128))
    most = min(operations // 4 // cost, 0x3FFFFFFF)
    return cost, block, max(most // block, 1)


def _power(limit: int) -> int:
    """Return the smallest power of two, 2 or more, that is above half of `limit`."""
    exponent = 1
    while exponent < 63 and (1 << exponent) <= limit // 2:
        exponent += 1
    return 1 << exponent
