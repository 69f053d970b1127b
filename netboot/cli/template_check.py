"""`metalcast template verify/diff/gc`: is it whole, what changed, what can go."""

import argparse
from pathlib import Path
from typing import Any, Final

from agent.errors import ExitStatus, UsageError
from agent.model.wire import Value
from agent.store.check import Checked, check_template
from agent.store.compare import Change, Count, Difference, VolumeDifference, compare
from agent.store.retry import Retry
from agent.store.source import BlobSource
from agent.store.template import open_template
from agent.trust.keyring import read_key
from agent.trust.templates import SignatureFact, SignatureState, check_signatures
from agent.units import format_bytes
from netboot.cli.common import make_client
from netboot.cli.meter import Meter
from netboot.cli.show import clean, lost_line, say, say_json, say_table
from netboot.cli.template_places import PLACES, add_doors, open_to_read, parse_place
from netboot.values import GcRequest

LEAST_MINUTES: Final = 10
BRIEF: Final = Retry(attempts=3, first_s=0.3, longest_s=1.0)


class Verified(Value, frozen=True, kw_only=True):
    """What `verify --json` prints."""

    template: str
    checked: Checked
    signatures: tuple[SignatureFact, ...]
    is_good: bool


def add_parsers(words: Any, common: argparse.ArgumentParser) -> None:
    verify = words.add_parser(
        "verify",
        parents=[common],
        help="check that a template is whole, and who signed it",
        description="Check manifest, config and indexes against their rules, and that every blob "
        "is there with its size. With --deep, read it all: every chunk is compared with its "
        f"digests before and after decompression.\n\n{PLACES}",
        epilog="exit status 3 if something is wrong, or if --key is given and no signature is good",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verify.add_argument("reference", metavar="PLACE")
    verify.add_argument("--deep", action="store_true", help="read and compare every chunk")
    verify.add_argument(
        "--key",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a public key (minisign's); one of those given must have signed it",
    )
    add_doors(verify, "from", "what opens PLACE, if it is a URL")
    verify.set_defaults(call=verify_template)

    diff = words.add_parser(
        "diff",
        parents=[common],
        help="what changed between two templates",
        description="Compare facts of the system, the layout, and each volume's chunks by the "
        f"digest of their content. Only the indexes are read, no data.\n\n{PLACES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    diff.add_argument("before", metavar="A")
    diff.add_argument("after", metavar="B")
    add_doors(diff, "from", "what opens A and B, if they are URLs")
    diff.set_defaults(call=diff_templates)

    gc = words.add_parser(
        "gc",
        parents=[common],
        help="have the store free what no template needs, now",
        description="The store does this by itself every hour, sparing what was pushed within a "
        "day. What a template needs is never removed, nor anything of a repository that a job, a "
        "copy or an upload is at work on.",
    )
    gc.add_argument("--dry-run", action="store_true", help="only say what would be freed")
    gc.add_argument(
        "--keep-minutes",
        type=int,
        default=60,
        metavar="N",
        help="spare repositories to which something was pushed so recently (default 60)",
    )
    gc.set_defaults(call=sweep)


def verify_template(args: argparse.Namespace) -> int:
    place = parse_place(args.reference)
    keys = tuple(read_key(path) for path in args.key)
    source = open_to_read(args, place, retry=BRIEF)
    meter = Meter(f"reading {clean(place.text)}")
    try:
        checked = check_template(source, place.reference, deep=args.deep, tell=meter)
        name = place.where if place.kind == "store" else _name(source, checked.digest)
        signatures = check_signatures(source, checked.digest, name, keys)
    finally:
        meter.end()
        source.close()
    is_signed = any(one.state is SignatureState.GOOD for one in signatures)
    is_good = not checked.damage and (is_signed or not keys)
    if args.json:
        found = Verified(
            template=place.text, checked=checked, signatures=signatures, is_good=is_good
        )
        say_json(found)
    else:
        _say_checked(place.text, checked, signatures, deep=args.deep)
    return ExitStatus.DONE if is_good else ExitStatus.REFUSED


def _name(source: BlobSource, digest: str) -> str:
    """Return what a template calls itself where its place does not say."""
    return open_template(source, digest).config.name


def _say_checked(
    text: str, checked: Checked, signatures: tuple[SignatureFact, ...], *, deep: bool
) -> None:
    say(f"{clean(text)} is {checked.digest}")
    for line in checked.damage:
        say(f"DAMAGED    {clean(line)}")
    if checked.lost_bytes:
        say(f"LOST       {lost_line(checked.lost_bytes)}")
    for one in signatures:
        say(f"signature  {clean(one.text)}")
    if not signatures:
        say("signature  none: it is unsigned")
    if checked.damage:
        return
    if deep:
        read = format_bytes(checked.bytes_read)
        say(f"whole      {checked.blobs} blobs, {checked.chunks} chunks, {read} read and compared")
    else:
        say(f"whole      {checked.blobs} blobs are there; --deep reads them as well")


def diff_templates(args: argparse.Namespace) -> int:
    before, after = parse_place(args.before), parse_place(args.after)
    sources = open_to_read(args, before), open_to_read(args, after)
    try:
        found = compare(
            open_template(sources[0], before.reference), open_template(sources[1], after.reference)
        )
    finally:
        for source in sources:
            source.close()
    if args.json:
        say_json(found)
    else:
        _say_difference(found)
    return ExitStatus.DONE


def _say_difference(found: Difference) -> None:
    if found.is_same:
        say("the two are the same")
        return
    for title, changes in (("SYSTEM", found.facts), ("LAYOUT", found.layout)):
        if changes:
            say_table((title, "BEFORE", "AFTER"), [_row(change) for change in changes], "")
            say()
    rows = [_volume_row(volume) for volume in found.volumes]
    head = ("VOLUME", "IS", "SAME", "CHANGED", "ADDED", "REMOVED")
    say_table(head, rows, "no volumes")
    details = [
        (f"{volume.volume}.{change.what}", *_row(change)[1:])
        for volume in found.volumes
        if volume.state == "changed"
        for change in volume.changes
    ]
    if details:
        say()
        say_table(("VOLUME FACT", "BEFORE", "AFTER"), details, "")


def _row(change: Change) -> tuple[str, str, str]:
    return (change.what, _value(change.what, change.before), _value(change.what, change.after))


def _value(what: str, value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and what.endswith("_bytes"):
        return f"{format_bytes(value)} ({value})"
    if isinstance(value, dict):
        return "there"
    if isinstance(value, list):
        return ", ".join(str(one) for one in value)
    return str(value)


def _volume_row(volume: VolumeDifference) -> tuple[str, ...]:
    if volume.chunks is None:
        counts = ("–",) * 4
    else:
        chunks = volume.chunks
        counts = (
            _count(chunks.same),
            _count(chunks.changed),
            _count(chunks.added),
            _count(chunks.removed),
        )
    return (volume.volume, volume.state, *counts)


def _count(count: Count) -> str:
    return f"{count.chunks} ({format_bytes(count.bytes)})" if count.chunks else "0"


def sweep(args: argparse.Namespace) -> int:
    if args.keep_minutes < LEAST_MINUTES:
        raise UsageError(
            f"--keep-minutes is at least {LEAST_MINUTES}",
            hint="a copy by some other tool may be under way, between two of its blobs",
        )
    asked = GcRequest(dry_run=args.dry_run, grace_s=args.keep_minutes * 60)
    report = make_client(args).sweep(asked)
    if args.json:
        say_json(report)
        return 0
    verb = "would free" if report.dry_run else "freed"
    say(f"{verb} {format_bytes(report.bytes)}: {_many(report.blobs, 'blob')}")
    if report.uploads:
        say(f"{verb} {_many(report.uploads, 'upload')} that nobody went on with")
    if report.busy:
        say(f"kept for now: {clean(', '.join(report.busy))}, at work or pushed to just now")
    return 0


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
