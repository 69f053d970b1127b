"""`metalcast template ls/show/rm`, and the other words of `template`."""

import argparse
from typing import Any

from agent.model.template import TemplateConfig
from agent.store.check import lost_bytes
from agent.trust.templates import SignatureFact, check_signatures
from agent.units import format_bytes
from netboot.cli import signing, template_check, template_move
from netboot.cli.common import make_client
from netboot.cli.show import clean, format_age, lost_line, say, say_facts, say_json, say_table
from netboot.cli.template_places import store_client
from netboot.values import TemplateSummary


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser("template", help="templates in the store")
    words = parser.add_subparsers(metavar="WORD", required=True)
    ls = words.add_parser("ls", parents=[common], help="list them")
    ls.set_defaults(call=list_templates)
    for word, call, text in (
        ("show", show_template, "what was captured"),
        ("rm", remove_template, "remove a template from the store"),
    ):
        one = words.add_parser(word, parents=[common], help=text)
        one.add_argument("reference", metavar="REF", help="NAME, NAME:TAG or NAME@sha256:…")
        one.set_defaults(call=call)
    template_move.add_parsers(words, common)
    template_check.add_parsers(words, common)
    signing.add_parsers(words, common)


def list_templates(args: argparse.Namespace) -> int:
    found = make_client(args).templates()
    if args.json:
        say_json(found)
        return 0
    rows = [
        (
            f"{one.name}:{one.tag}",
            one.os,
            "+".join(mode.value for mode in one.boots),
            format_bytes(one.disk_bytes),
            format_bytes(one.used_bytes),
            format_bytes(one.stored_bytes),
            f"{format_age(one.captured_at)} ago" + (" DAMAGED" if one.lost_bytes else ""),
        )
        for one in found
    ]
    head = ("TEMPLATE", "SYSTEM", "BOOTS", "DISK", "USED", "STORED", "CAPTURED")
    say_table(head, rows, "the store has no templates; capture one: metalcast job create capture")
    return 0


def show_template(args: argparse.Namespace) -> int:
    shown = make_client(args).template(args.reference)
    one, config = shown.summary, shown.config
    source = store_client(args, one.name)
    try:
        signatures = check_signatures(source, one.digest, one.name, ())
    finally:
        source.close()
    if args.json:
        say_json({"summary": one, "config": config, "signatures": signatures})
        return 0
    system = config.os
    if one.lost_bytes:
        say_lost(config)
    say_facts(
        (
            ("template", _reference(one)),
            ("digest", one.digest),
            ("signed", ", ".join(_signer(fact) for fact in signatures) or "by nobody"),
            ("captured", f"{one.captured_at} by {config.captured_by}"),
            ("compared with", config.parent),
            ("system", one.os),
            ("kernel", system.kernel if system else None),
            ("boot loader", system.bootloader if system else None),
            ("network", system.network_stack.value if system and system.network_stack else None),
            ("firmware", f"{one.firmware.value}; boots {', '.join(b.value for b in one.boots)}"),
            ("disk", format_bytes(one.disk_bytes)),
            ("used", format_bytes(one.used_bytes)),
            ("stored", format_bytes(one.stored_bytes)),
        )
    )
    say()
    rows = [
        (
            volume.id,
            volume.on,
            volume.content.__struct_config__.tag,
            volume.mount,
            format_bytes(volume.size_bytes),
            format_bytes(volume.used_bytes),
            format_bytes(volume.minimum_bytes),
        )
        for volume in config.layout.volumes
    ]
    head = ("VOLUME", "ON", "HOLDS", "MOUNT", "SIZE", "USED", "LEAST")
    say_table(head, rows, "no volumes")
    if config.redactions:
        say(f"\n{len(config.redactions)} personal files were left out")
    return 0


def say_lost(config: TemplateConfig) -> None:
    """Say loudly what the template lacks."""
    say(f"DAMAGED: {lost_line(lost_bytes(config))}:")
    for hole in config.holes[:20]:
        say(f"  {clean(hole.volume)}: {format_bytes(hole.size)} at {hole.offset}")
    if len(config.holes) > 20:
        say(f"  and {len(config.holes) - 20} more")
    say()


def _signer(fact: SignatureFact) -> str:
    """Return who signed, unproved: `verify --key` proves it."""
    return f"by {fact.key or 'nobody known'} (not checked; verify --key FILE does)"


def _reference(one: TemplateSummary) -> str:
    return f"{one.name}:{one.tag}" if one.tag else f"{one.name}@{one.digest}"


def remove_template(args: argparse.Namespace) -> int:
    make_client(args).remove_template(args.reference)
    if args.json:
        say_json({"removed": args.reference})
    else:
        say(f"removed {args.reference}")
    return 0
