"""`metalcast build-image`: words in, exit status out."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from agent.errors import AgentError, ExitStatus, exit_status, hint_of, reasons
from agent.trust.keyring import Keyring, read_key
from agent.units import format_bytes
from images.base import COMPRESSION, Wanted
from images.build import build_image
from images.iso import parse_cmdline, write_iso
from images.packages import Source
from images.recipe import SHIPPED, read_recipe
from images.repeat import check_reproducible

DEFAULT_CACHE = Path("~/.cache/metalcast")


def add_parser(subparsers: Any) -> None:
    """Add `build-image` to the commands of `metalcast`."""
    parser = subparsers.add_parser(
        "build-image",
        help="build the kernel and the image that machines boot",
        description="Build the boot image from Debian packages; see docs/boot-image.md.",
    )
    _add_arguments(parser)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the image goes")
    parser.add_argument("--iso", type=Path, metavar="FILE", help="also write a CD/USB image")
    parser.add_argument("--recipe", type=Path, metavar="FILE", default=SHIPPED)
    parser.add_argument(
        "--compression", choices=sorted(COMPRESSION), default="release", help="default: release"
    )
    parser.add_argument(
        "--firmware-blobs", action="store_true", help="with device firmware (non-free)"
    )
    parser.add_argument(
        "--overlay",
        type=Path,
        metavar="DIR",
        help="files to put over the image, such as vendor tools",
    )
    parser.add_argument(
        "--template-key",
        type=Path,
        action="append",
        default=[],
        metavar="FILE.pub",
        help="deploy only templates signed by this key, or another one given so",
    )
    parser.add_argument(
        "--server-key",
        type=Path,
        action="append",
        default=[],
        metavar="FILE.pub",
        help="take jobs only from a server with this key: its DATA/server.pub",
    )
    parser.add_argument("--cache", type=Path, metavar="DIR", default=DEFAULT_CACHE)
    parser.add_argument("--mirror", metavar="URL", help="Debian mirror (default: mmdebstrap's)")
    parser.add_argument("--keyring", type=Path, metavar="FILE", help="Debian's archive keys")
    parser.add_argument("--refresh", action="store_true", help="look for newer Debian packages")
    parser.add_argument(
        "--cmdline", metavar="ARGS", default="", help="kernel arguments for the menu of --iso"
    )
    parser.add_argument(
        "--check-reproducible", action="store_true", help="build twice; fail unless the same bytes"
    )
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")


def run(args: argparse.Namespace) -> int:
    """Carry out `build-image` and return its exit status."""
    try:
        return _run(args)
    except AgentError as error:
        first, *causes = reasons(error)
        print(f"error: {first}", file=sys.stderr)
        for cause in causes:
            print(f"  because  {cause}", file=sys.stderr)
        if hint := hint_of(error):
            print(f"  try      {hint}", file=sys.stderr)
        return exit_status(error)


def _run(args: argparse.Namespace) -> int:
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {text}", file=sys.stderr, flush=True)

    recipe = read_recipe(args.recipe)
    blobs = recipe.firmware if args.firmware_blobs else None
    source = Source(
        suite=recipe.suite,
        components=(*recipe.components, *(blobs.components if blobs else ())),
        packages=(*recipe.packages, *(blobs.packages if blobs else ())),
        mirror=args.mirror,
        keyring=args.keyring,
    )
    arguments = parse_cmdline(args.cmdline)
    keyring = Keyring(
        tuple(read_key(path) for path in args.template_key),
        tuple(read_key(path) for path in args.server_key),
    )
    wanted = Wanted(recipe, source, args.compression, args.firmware_blobs, args.overlay)
    cache = args.cache.expanduser()
    output = args.output or cache / "image"
    built = build_image(wanted, cache, output, say, keyring, refresh=args.refresh)
    if args.iso:
        say("rescue medium")
        write_iso(output, args.iso, arguments)
    if args.check_reproducible:
        say("once more, from nothing")
        check_reproducible(wanted, keyring, cache, built, args.iso, arguments, say)
        say("the same bytes")
    for line in keyring.lines():
        say(line)
    say(f"done: {output}")
    if args.json:
        print(json.dumps(built.manifest, indent=1, sort_keys=True))
    else:
        for name in ("vmlinuz", "initrd.img", "base.img", "agent.img"):
            print(f"{name:12} {format_bytes((output / name).stat().st_size)}")
        if args.iso:
            print(f"{args.iso.name:12} {format_bytes(args.iso.stat().st_size)}")
    return ExitStatus.DONE


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m images", description=__doc__)
    _add_arguments(parser)
    return run(parser.parse_args())
