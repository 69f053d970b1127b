"""The mirrors that deploy jobs are told of: read from the operator's file, chosen by name."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import msgspec

from agent.errors import UsageError
from agent.model.mirror import PEM_MAX_BYTES, Mirror, Secret, SourceUrl, split_source
from agent.model.wire import BadDocument, Value, convert

_FILE_MAX_BYTES: Final = 1024 * 1024
_PREFIX: Final = r"^[a-z0-9._/-]{0,128}$(?!\n)"

Prefix = Annotated[str, msgspec.Meta(pattern=_PREFIX)]


class MirrorEntry(Value, frozen=True, kw_only=True):
    """One `[[mirror]]` of the file."""

    url: SourceUrl
    """`https://HOST/v2` for a registry, else the folder that holds a folder for each template."""
    here: Prefix = ""
    """Only templates whose names begin so are there."""
    there: Prefix = ""
    """What stands in the mirror in place of `here`."""
    username: Secret | None = None
    password_file: str | None = None
    ca_file: str | None = None
    first: bool = True


class _File(Value, frozen=True, kw_only=True):
    mirror: tuple[MirrorEntry, ...]


@dataclass(frozen=True, slots=True)
class MirrorRule:
    """An entry with what its files say."""

    entry: MirrorEntry
    password: str | None = field(repr=False)
    ca: str | None = field(repr=False)

    def mirror_of(self, repository: str) -> Mirror | None:
        """Return where the mirror has `repository`, None if it has not."""
        entry = self.entry
        if not repository.startswith(entry.here):
            return None
        name = entry.there + repository.removeprefix(entry.here)
        return Mirror(
            url=f"{entry.url.rstrip('/')}/{name}",
            username=entry.username,
            password=self.password,
            ca=self.ca,
            first=entry.first,
        )


def mirrors_of(rules: Iterable[MirrorRule], repository: str) -> tuple[Mirror, ...]:
    found = (rule.mirror_of(repository) for rule in rules)
    return tuple(mirror for mirror in found if mirror is not None)


def read_mirrors(path: Path) -> tuple[MirrorRule, ...]:
    """Return what the file at `path` says. Raises UsageError, which says where it is wrong."""
    text = _read(path, _FILE_MAX_BYTES)
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: {error}") from error
    try:
        entries = convert(document, _File, str(path)).mirror
    except BadDocument as error:
        raise UsageError(str(error)) from error
    return tuple(
        _rule(entry, f"{path}: mirror[{n}]", path.parent) for n, entry in enumerate(entries)
    )


def _rule(entry: MirrorEntry, where: str, folder: Path) -> MirrorRule:
    if (entry.username is None) != (entry.password_file is None):
        raise UsageError(f"{where}: username and password_file belong together")
    if entry.username and ":" in entry.username:
        raise UsageError(f"{where}.username: a user name has no colon")
    password = ca = None
    if entry.password_file is not None:
        password = _read(folder / entry.password_file, 4096).rstrip("\r\n")
    if entry.ca_file is not None:
        ca = _read(folder / entry.ca_file, PEM_MAX_BYTES)
        if "-----BEGIN CERTIFICATE-----" not in ca:
            raise UsageError(f"{where}.ca_file: {entry.ca_file} holds no certificate (PEM)")
    rule = MirrorRule(entry, password, ca)
    try:
        split_source(entry.url)
        shown = rule.mirror_of(f"{entry.here}name")
        msgspec.convert(msgspec.to_builtins(shown), type=Mirror)
    except (msgspec.ValidationError, ValueError) as error:
        raise UsageError(f"{where}.url: {error}") from error
    return rule


def _read(path: Path, max_bytes: int) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(max_bytes + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    if len(text) > max_bytes:
        raise UsageError(f"{path} has more than {max_bytes} bytes")
    return text
