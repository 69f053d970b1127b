"""Where a template is, as a person writes it: in our store, in a registry, in a folder."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import ServerError, UsageError
from agent.model.mirror import split_source
from agent.model.template import DIGEST_PATTERN, NAME_PATTERN, TAG_PATTERN, Digest, TemplateConfig
from agent.store.auth import Login
from agent.store.layout import LayoutFolder
from agent.store.registry import RegistryClient
from agent.store.retry import Retry
from agent.store.source import BlobSource
from agent.store.sources import open_source
from agent.store.target import FolderTarget, RegistryTarget, Target
from netboot.cli.common import make_client

DEFAULT_TAG: Final = "latest"
PLACES: Final = """\
A place is one of
  NAME, NAME:TAG, NAME@sha256:…       in the store of --server
  https://HOST/v2/NAME[:TAG]          a repository of any registry
  https://HOST/FOLDER[:TAG]           a web folder with an exported template (to read only)
  ./DIR[:TAG], /DIR[:TAG], oci:DIR    a folder with an OCI image layout, here
"""
_EXAMPLES: Final = "write NAME:TAG, https://HOST/v2/NAME:TAG, https://HOST/FOLDER:TAG or ./DIR:TAG"
_URL_TARGET: Final = re.compile(r"(https?://[^/]+/.*?)(?:@(sha256:[0-9a-f]{64})|:([^/:@]+))?")


@dataclass(frozen=True, slots=True)
class Place:
    """A place, split up: what opens it is added when it is opened."""

    text: str
    kind: str
    """`store`, `url` or `folder`."""
    where: str
    """A repository, a URL or a path."""
    reference: str
    """A tag or a digest."""

    @property
    def tag(self) -> str:
        if self.reference.startswith("sha256:"):
            raise UsageError(f"{self.text}: give a tag there, not a digest")
        return self.reference


def parse_place(text: str) -> Place:
    """Return what `text` means. Raises UsageError."""
    if re.match("https?:", text):
        found = _URL_TARGET.fullmatch(text)
        try:
            if not found:
                raise ValueError("expected a host and a path")
            split_source(found[1])
        except ValueError as error:
            raise UsageError(f"{text[:200]!a}: {error}", hint=_EXAMPLES) from error
        return Place(text, "url", found[1], _reference(text, found[2] or found[3]))
    if text.startswith(("/", "./", "../", "oci:")) or text in (".", ".."):
        return parse_folder(text)
    rest, _, digest = text.partition("@")
    name, _, tag = rest.partition(":")
    if not re.match(NAME_PATTERN, name):
        raise UsageError(f"not a template, a URL or a folder: {text[:200]!a}", hint=_EXAMPLES)
    return Place(text, "store", name, _reference(text, digest or tag))


def parse_folder(text: str) -> Place:
    """Return a folder with a layout: `DIR`, `DIR:TAG`, `oci:DIR:TAG`."""
    path, colon, tag = text.removeprefix("oci:").rpartition(":")
    if not colon or not re.match(TAG_PATTERN, tag):
        path, tag = text.removeprefix("oci:"), ""
    return Place(text, "folder", path, _reference(text, tag))


def _reference(text: str, found: str | None) -> str:
    if not found:
        return DEFAULT_TAG
    if not re.match(TAG_PATTERN, found) and not re.match(DIGEST_PATTERN, found):
        raise UsageError(f"{text[:200]!a}: neither a tag nor a digest: {found[:100]!a}")
    return found


def add_doors(parser: argparse.ArgumentParser, side: str, text: str) -> None:
    """Add the options that open a registry on one side, `from` or `to`."""
    group = parser.add_argument_group(text)
    group.add_argument(f"--{side}-user", metavar="NAME")
    group.add_argument(f"--{side}-password-file", metavar="FILE", type=Path)
    group.add_argument(f"--{side}-ca", metavar="FILE", type=Path, help="whom to trust for its TLS")


def open_to_read(
    args: argparse.Namespace, place: Place, side: str = "from", retry: Retry | None = None
) -> BlobSource:
    match place.kind:
        case "store":
            return store_client(args, place.where, retry)
        case "url":
            ca = getattr(args, f"{side}_ca", None)
            return open_source(place.where, login=_login(args, side), ca=ca, retry=retry)
        case _:
            return LayoutFolder(Path(place.where))


def open_to_write(args: argparse.Namespace, place: Place) -> Target:
    """Return `place` as a target. Raises UsageError if nothing can be written there."""
    if place.kind == "folder":
        return FolderTarget(LayoutFolder(Path(place.where)))
    source = open_to_read(args, place, "to")
    if not isinstance(source, RegistryClient):
        raise UsageError(
            f"{place.text}: a web folder cannot be written to",
            hint="export to a folder, and put that on the web server",
        )
    return RegistryTarget(source)


def store_client(
    args: argparse.Namespace, repository: str, retry: Retry | None = None
) -> RegistryClient:
    """Return the client of one repository of our own store."""
    client = make_client(args)
    return RegistryClient(client.server, repository, client.token, retry=retry)


def digest_of(source: BlobSource, reference: str) -> Digest:
    return source.manifest(reference)[1]


def target_place(text: str | None, config: TemplateConfig, tag: str) -> Place:
    """Return where an import goes if nobody says: under the name of its capture."""
    return parse_place(text) if text else Place(config.name, "store", config.name, tag)


def _login(args: argparse.Namespace, side: str) -> Login | None:
    user = getattr(args, f"{side}_user", None)
    path: Path | None = getattr(args, f"{side}_password_file", None)
    if bool(user) != bool(path):
        raise UsageError(f"--{side}-user and --{side}-password-file belong together")
    if not user or not path:
        return None
    try:
        return Login(user, path.read_text().rstrip("\r\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise ServerError(f"cannot read {path}: {error}") from error
