"""Another place that has a template: a registry's repository, or a folder of a web server."""

import re
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec

from agent.model.template import NAME_PATTERN
from agent.model.wire import Value

URL_PATTERN = r"^https?://[!-~]{1,1000}$(?!\n)"
PEM_MAX_BYTES: Final = 64 * 1024
_REPOSITORY: Final = re.compile(r"(.*?)/v2/(.+)")

SourceUrl = Annotated[str, msgspec.Meta(pattern=URL_PATTERN)]
"""Ends in `/v2/NAME`: a repository of a registry. Anything else: a folder with an OCI layout."""
Secret = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f]{1,4096}$(?!\n)")]
Pem = Annotated[str, msgspec.Meta(min_length=1, max_length=PEM_MAX_BYTES)]


class Mirror(Value, frozen=True, kw_only=True):
    """Where else a job's template can be read, and what opens that door."""

    url: SourceUrl
    username: Secret | None = None
    password: Secret | None = None
    ca: Pem | None = None
    """The certificates to trust there, and no others; None: those that the image trusts."""
    first: bool = True
    """Asked before the server that gave the job, not after it."""


def split_source(url: str) -> tuple[str, str | None]:
    """Return what a source's URL means: a registry's address and the repository there, or a
    folder's address and None.

    Raises ValueError if it is not one: another scheme, no host, a password in it, a query.
    """
    parts = urlsplit(url)
    if not re.match(URL_PATTERN, url) or not parts.hostname:
        raise ValueError("expected http:// or https:// and a host")
    if "@" in parts.netloc:
        raise ValueError("no user and no password belong into it")
    if parts.query or parts.fragment:
        raise ValueError("no ? and no # may be in it")
    found = _REPOSITORY.fullmatch(url)
    if found and re.match(NAME_PATTERN, found[2]):
        return found[1], found[2]
    return url.rstrip("/"), None
