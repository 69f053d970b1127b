"""The grammar of what names things in a store. Nothing else reaches a path or a table."""

import re
from dataclasses import dataclass
from typing import Final

from agent.model.template import DIGEST_PATTERN, NAME_PATTERN, TAG_PATTERN
from netboot.store_errors import DigestInvalid, NameInvalid

NAME_MAX: Final = 128
DEFAULT_TAG: Final = "latest"

_NAME: Final = re.compile(NAME_PATTERN)
_TAG: Final = re.compile(TAG_PATTERN)
_DIGEST: Final = re.compile(DIGEST_PATTERN)


def parse_name(text: str) -> str:
    """Return `text` if it can name a repository. Raises NameInvalid."""
    if len(text) > NAME_MAX or not _NAME.fullmatch(text):
        raise NameInvalid(f"not the name of a repository: {text[:NAME_MAX]!r}")
    return text


def parse_tag(text: str) -> str:
    """Return `text` if it can be a tag. Raises NameInvalid."""
    if not _TAG.fullmatch(text):
        raise NameInvalid(f"not a tag: {text[:NAME_MAX]!r}")
    return text


def parse_digest(text: str) -> str:
    """Return `text` if it is `sha256:` and 64 digits. Raises DigestInvalid."""
    if not _DIGEST.fullmatch(text):
        raise DigestInvalid(f"not a sha256 digest: {text[:NAME_MAX]!r}")
    return text


def is_digest(text: str) -> bool:
    """Say whether `text` is meant as a digest; a tag has no colon."""
    return ":" in text


@dataclass(frozen=True, slots=True)
class Reference:
    """What a person calls a template: `web`, `web:2026-11`, `web@sha256:…`."""

    repository: str
    target: str
    """A digest, else a tag."""

    def __str__(self) -> str:
        return f"{self.repository}{'@' if is_digest(self.target) else ':'}{self.target}"


def parse_reference(text: str) -> Reference:
    """Return what `text` names; without tag and digest the tag is `latest`, a digest beats a tag.

    Raises NameInvalid or DigestInvalid.
    """
    rest, at, digest = text.partition("@")
    repository, colon, tag = rest.partition(":")
    parse_name(repository)
    if colon:
        parse_tag(tag)
    if at:
        return Reference(repository, parse_digest(digest))
    return Reference(repository, tag if colon else DEFAULT_TAG)
