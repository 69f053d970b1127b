"""`metalcast template export/import/copy`: templates between stores, registries and folders."""

import argparse
from typing import Any

from agent.model.wire import Value
from agent.store.check import lost_bytes
from agent.store.template import open_template
from agent.store.transfer import Moved, copy_template
from agent.units import format_bytes
from netboot.cli.common import make_client
from netboot.cli.meter import Meter
from netboot.cli.show import clean, lost_line, say, say_json
from netboot.cli.template_places import (
    PLACES,
    Place,
    add_doors,
    open_to_read,
    open_to_write,
    parse_folder,
    parse_place,
    target_place,
)

_RESUMED = """\
Cut off, it goes on where it was when it is started again: blobs that are there are not sent twice.
Nothing is listed before all of it is there. The template's rules, every digest and what was
written are checked; signatures go along."""


class Copied(Value, frozen=True, kw_only=True):
    """What `--json` prints."""

    template: str
    to: str
    digest: str
    blobs: int
    moved_blobs: int
    moved_bytes: int
    kept_bytes: int
    signatures: bool
    lost_bytes: int
    """What could not be read on the source."""


def add_parsers(words: Any, common: argparse.ArgumentParser) -> None:
    export = words.add_parser(
        "export",
        parents=[common],
        help="write a template to a folder that any OCI tool, or a web server, can read",
        description="Write a template as an OCI image layout: `skopeo` reads it as oci:DIR:TAG, a "
        "web server serves it as it is, `deploy --source URL` and `import` read both.",
        epilog=_RESUMED,
    )
    export.add_argument("reference", metavar="REF", help="NAME, NAME:TAG or NAME@sha256:…")
    export.add_argument("folder", metavar="DIR[:TAG]", help="made if it is not there")
    export.set_defaults(call=export_template)

    imported = words.add_parser(
        "import",
        parents=[common],
        help="take a template from such a folder into the store",
        epilog=_RESUMED,
    )
    imported.add_argument("folder", metavar="DIR[:TAG]")
    imported.add_argument(
        "reference", nargs="?", metavar="NAME[:TAG]", help="default: as it was captured"
    )
    imported.set_defaults(call=import_template)

    copy = words.add_parser(
        "copy",
        parents=[common],
        help="copy a template between stores, registries and folders",
        description=PLACES,
        epilog=_RESUMED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    copy.add_argument("source", metavar="FROM")
    copy.add_argument("target", metavar="TO")
    add_doors(copy, "from", "what opens FROM, if it is a URL")
    add_doors(copy, "to", "what opens TO, if it is a URL")
    copy.set_defaults(call=copy_from_to)


def export_template(args: argparse.Namespace) -> int:
    source = parse_place(args.reference)
    target = parse_folder(args.folder)
    make_client(args)
    return _copy(args, source, target)


def import_template(args: argparse.Namespace) -> int:
    source = parse_folder(args.folder)
    if args.reference:
        return _copy(args, source, parse_place(args.reference))
    config = open_template(open_to_read(args, source), source.reference).config
    tag = "latest" if source.reference.startswith("sha256:") else source.reference
    return _copy(args, source, target_place(None, config, tag))


def copy_from_to(args: argparse.Namespace) -> int:
    return _copy(args, parse_place(args.source), parse_place(args.target))


def _copy(args: argparse.Namespace, source: Place, target: Place) -> int:
    read, tag = open_to_read(args, source), target.tag
    write = open_to_write(args, target)
    meter = Meter(f"copying {clean(source.text)}")
    try:
        moved = copy_template(read, source.reference, write, tag, meter)
    finally:
        meter.end()
        read.close()
    shown = target.text if target.text.endswith(f":{tag}") else f"{target.text}:{tag}"
    if args.json:
        say_json(_copied(source, shown, moved))
        return 0
    kept = f", {format_bytes(moved.kept_bytes)} were there" if moved.kept_bytes else ""
    signed = ", with its signatures" if moved.has_signatures else ""
    say(f"{clean(shown)} is {moved.digest}{signed}")
    if lost := lost_bytes(moved.config):
        say(f"DAMAGED: {lost_line(lost)}")
    say(f"{format_bytes(moved.moved_bytes)} sent in {moved.moved_blobs} blobs{kept}")
    return 0


def _copied(source: Place, shown: str, moved: Moved) -> Copied:
    return Copied(
        template=source.text,
        to=shown,
        digest=moved.digest,
        blobs=moved.blobs,
        moved_blobs=moved.moved_blobs,
        moved_bytes=moved.moved_bytes,
        kept_bytes=moved.kept_bytes,
        signatures=moved.has_signatures,
        lost_bytes=lost_bytes(moved.config),
    )
