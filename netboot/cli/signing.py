"""`metalcast template keygen/sign`."""

import argparse
import getpass
import re
import sys
from pathlib import Path
from typing import Any, Final

from agent.errors import TemplateError, UsageError
from agent.model.template import MANIFEST_TYPE, NAME_PATTERN, Descriptor
from agent.model.wire import Value
from agent.report import now
from agent.store.source import BlobSource, blob_digest
from agent.store.target import Target
from agent.store.template import open_template
from agent.trust.minisign import TrustError, parse_signature
from agent.trust.templates import (
    EMPTY_CONFIG,
    EMPTY_CONFIG_TYPE,
    SIGNATURE_ARTIFACT,
    SIGNATURE_LAYER,
    SIGNATURES_MAX,
    read_signatures,
    render_signature_list,
    signature_tag,
    template_comment,
)
from netboot.cli.show import clean, say, say_json
from netboot.cli.template_places import PLACES, add_doors, open_to_read, open_to_write, parse_place
from netboot.signing import (
    SecretKey,
    make_key,
    needs_password,
    parse_secret_key,
    read_key_file,
    write_key_pair,
)

DEFAULT_NAME: Final = "metalcast"


class KeyMade(Value, frozen=True, kw_only=True):
    key: str
    secret_file: str
    public_file: str
    has_password: bool


class TemplateSigned(Value, frozen=True, kw_only=True):
    template: str
    """The name that the signature is for."""
    digest: str
    key: str
    comment: str
    signatures: int
    """How many the template has now."""


def add_parsers(words: Any, common: argparse.ArgumentParser) -> None:
    keygen = words.add_parser(
        "keygen",
        help="make a key pair that signs templates",
        description="Write NAME.key, which signs and is secret, and NAME.pub, which checks: give "
        "it to `build-image --template-key`. Both are minisign's.",
    )
    keygen.add_argument(
        "--output", metavar="NAME", default=DEFAULT_NAME, help=f"default: {DEFAULT_NAME}"
    )
    _add_password(keygen)
    keygen.add_argument(
        "--no-password", action="store_true", help="the file alone is enough to sign"
    )
    keygen.add_argument("--json", action="store_true", help="print JSON")
    keygen.set_defaults(call=make_keys)

    sign = words.add_parser(
        "sign",
        parents=[common],
        help="vouch for a template, so that machines that ask for it deploy it",
        description="Sign the template's manifest, and keep the signature beside the template. "
        f"Others' signatures stay; one of the same key is replaced.\n\n{PLACES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sign.add_argument("reference", metavar="PLACE")
    sign.add_argument("--key", required=True, type=Path, metavar="FILE", help="the secret key")
    _add_password(sign)
    sign.add_argument(
        "--name",
        metavar="NAME",
        help="what deployments will call it (default: its name in the store, or at its capture)",
    )
    add_doors(sign, "to", "what opens PLACE, if it is a registry's URL")
    sign.set_defaults(call=sign_template)


def _add_password(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--password-file", type=Path, metavar="FILE", help="else it is asked at the terminal"
    )


def make_keys(args: argparse.Namespace) -> int:
    if args.no_password and args.password_file:
        raise UsageError("--no-password and --password-file: one or the other")
    path = Path(f"{args.output.removesuffix('.key')}.key")
    if path.exists():
        raise UsageError(f"{path} exists already", hint="choose another --output")
    password = None if args.no_password else _password(args.password_file, path, twice=True)
    key = make_key()
    public = write_key_pair(key, path, password)
    made = KeyMade(
        key=key.public.name,
        secret_file=str(path),
        public_file=str(public),
        has_password=password is not None,
    )
    if args.json:
        say_json(made)
        return 0
    say(f"key {made.key}")
    say(f"  {clean(path)}  signs: keep it secret, and keep a copy")
    say(f"  {clean(public)}  checks: metalcast build-image --template-key {clean(public)}")
    return 0


def sign_template(args: argparse.Namespace) -> int:
    place = parse_place(args.reference)
    if args.name and not _is_name(args.name):
        raise UsageError(f"not the name of a template: {args.name[:128]!a}")
    key = load_key(args.key, args.password_file)
    source = open_to_read(args, place, "to")
    try:
        template = open_template(source, place.reference)
        name = args.name or (place.where if place.kind == "store" else template.config.name)
        manifest, digest = source.manifest(template.digest)
        comment = template_comment(name, digest, f"{now()[:19]}Z")
        signatures = (*others_signatures(source, digest, key), key.sign(manifest, comment))
        if len(signatures) > SIGNATURES_MAX:
            raise TrustError(f"{name} has {len(signatures) - 1} signatures: no more may be")
        subject = Descriptor(media_type=MANIFEST_TYPE, digest=digest, size=len(manifest))
        put_signatures(open_to_write(args, place), subject, signatures)
    finally:
        source.close()
    done = TemplateSigned(
        template=name,
        digest=digest,
        key=key.public.name,
        comment=comment,
        signatures=len(signatures),
    )
    if args.json:
        say_json(done)
        return 0
    say(f"signed {name}@{digest} with {done.key}")
    if done.signatures > 1:
        say(f"  it has {done.signatures} signatures now")
    return 0


def others_signatures(source: BlobSource, digest: str, key: SecretKey) -> tuple[bytes, ...]:
    """Return the signatures that stay: all that can be read, and are not by `key`."""
    kept: list[bytes] = []
    for file in read_signatures(source, digest):
        try:
            found = parse_signature(file, "a signature")
        except TrustError:
            continue  # never worth anything
        if found.key_id != key.key_id:
            kept.append(file)
    return tuple(kept)


def put_signatures(target: Target, template: Descriptor, signatures: tuple[bytes, ...]) -> None:
    """Keep `signatures` beside the template, in place of those that were there."""
    with target.at_work():
        config = _put(target, EMPTY_CONFIG_TYPE, EMPTY_CONFIG)
        digests = [_put(target, SIGNATURE_LAYER, data).digest for data in signatures]
        data = render_signature_list(template, signatures, digests, config.digest)
        put = target.put_manifest(data, signature_tag(template.digest), SIGNATURE_ARTIFACT)
    if put != blob_digest(data):
        raise TemplateError(f"the list of signatures became {put} on its way")


def _put(target: Target, media_type: str, data: bytes) -> Descriptor:
    blob = Descriptor(media_type=media_type, digest=blob_digest(data), size=len(data))
    if not target.has(blob):
        writer = target.writer(blob)
        writer.append(data)
        writer.finish(blob.digest)
    return blob


def load_key(path: Path, password_file: Path | None) -> SecretKey:
    """Return a secret key, its password from a file or asked for. Raises KeyUnusable."""
    data = read_key_file(path)
    password = _password(password_file, path) if needs_password(data, str(path)) else None
    return parse_secret_key(data, password, str(path))


def _password(file: Path | None, key: Path, *, twice: bool = False) -> str:
    if file:
        try:
            return file.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read {file}") from error
    if not sys.stdin.isatty():
        raise UsageError(
            f"{key} needs a password, and there is no terminal to ask at",
            hint="--password-file FILE" + (", or --no-password" if twice else ""),
        )
    password = getpass.getpass(f"Password for {key}: ")
    if twice and getpass.getpass("Once more: ") != password:
        raise UsageError("the two passwords differ")
    return password


def _is_name(text: str) -> bool:
    return re.match(NAME_PATTERN, text) is not None
