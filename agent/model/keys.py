"""Keys of encrypted disks, as a job carries them: for the claiming agent alone, shown to nobody."""

import base64
import binascii
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from agent.model.wire import Value

KeyTarget = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(?:\*|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[a-z][a-z0-9-]{0,63})$(?!\n)"
    ),
]
"""A LUKS UUID, a node of the layout, or `*`: any."""
ANY = "*"


class KeyKind(StrEnum):
    PASSPHRASE = "passphrase"  # noqa: S105
    KEY_FILE = "key-file"


class DiskKey(Value, frozen=True, kw_only=True):
    """What opens one encrypted device: a passphrase, or the bytes of a key file.

    Where a job is shown, the secret is gone and `given` says what kind it was.
    """

    device: KeyTarget = ANY
    passphrase: Annotated[str, msgspec.Meta(min_length=1, max_length=512)] | None = None
    """As a person types it, without a line's end."""
    key_file_base64: Annotated[str, msgspec.Meta(min_length=4, max_length=16384)] | None = None
    given: KeyKind | None = None

    def __post_init__(self) -> None:
        if sum(one is not None for one in (self.passphrase, self.key_file_base64, self.given)) != 1:
            raise ValueError("a key is one of passphrase and key_file_base64")
        if self.key_file_base64 is not None:
            try:
                base64.b64decode(self.key_file_base64, validate=True)
            except binascii.Error:
                # from None: the cause would quote what it could not read
                raise ValueError("key_file_base64 is not base64") from None

    def __repr__(self) -> str:
        return f"DiskKey(device={self.device!r}, given={self.kind.value!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("device", self.device), ("given", self.kind.value)]

    @property
    def kind(self) -> KeyKind:
        if self.given is not None:
            return self.given
        return KeyKind.KEY_FILE if self.passphrase is None else KeyKind.PASSPHRASE

    @property
    def shown(self) -> "DiskKey":
        """The key without its secret."""
        return DiskKey(device=self.device, given=self.kind)

    def secret(self) -> bytes:
        """Return what cryptsetup is to be fed. Raises ValueError for a key that was shown."""
        if self.passphrase is not None:
            return self.passphrase.encode()
        if self.key_file_base64 is not None:
            return base64.b64decode(self.key_file_base64, validate=True)
        raise ValueError("this key has no secret in it: it was made to be shown")


def keys_for(keys: Sequence[DiskKey], *, uuid: str | None, node: str | None) -> tuple[DiskKey, ...]:
    """Return the keys to try on one device: those that name it, then those for any."""
    named = [key for key in keys if key.device != ANY and key.device in (uuid, node)]
    return (*named, *(key for key in keys if key.device == ANY))
