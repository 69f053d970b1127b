"""`metalcast serve`."""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.errors import ExitStatus, UsageError
from netboot.cli.common import data_folder
from netboot.grammar import HOST, parse_url, parse_word

if TYPE_CHECKING:
    from netboot.context import Context

DEFAULT_IMAGE: Final = Path.home() / ".cache" / "metalcast" / "image"


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "serve",
        help="run the server: store, jobs, boot files, dashboard",
        epilog="The first start makes the operator's token (DIR/operator-token) and the server's "
        "own key (DIR/server.key), which signs every job; give its public half, DIR/server.pub, to "
        "build-image --server-key, and that image takes jobs from this server only.",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="where everything is kept")
    parser.add_argument(
        "--image", type=Path, metavar="DIR", help="what build-image made; default: where it puts it"
    )
    parser.add_argument("--listen", default="0.0.0.0:8470", metavar="HOST:PORT")
    parser.add_argument("--public-url", metavar="URL", help="how machines reach this server")
    parser.add_argument(
        "--kernel-arg", action="append", default=[], metavar="WORD", help="also for the agent"
    )
    parser.add_argument("--dhcp", choices=("proxy", "full"), help="run dnsmasq beside the server")
    parser.add_argument("--interface", metavar="IF", help="where dnsmasq answers")
    parser.add_argument(
        "--dhcp-range", metavar="FIRST,LAST", help="the addresses that --dhcp full gives out"
    )
    parser.add_argument(
        "--mirrors", type=Path, metavar="FILE", help="where else deployments may read templates"
    )
    parser.set_defaults(call=run)


def run(args: argparse.Namespace) -> int:
    # Loaded here: the other commands need no server, and must start fast.
    from netboot.context import Settings
    from netboot.mirrors import read_mirrors
    from netboot.server import close_context, open_context

    host, port = parse_listen(args.listen)
    if bool(args.dhcp) != bool(args.interface):
        raise UsageError("--dhcp and --interface belong together")
    if args.dhcp_range and args.dhcp != "full":
        raise UsageError("--dhcp-range is for --dhcp full")
    settings = Settings(
        data=(args.data or data_folder()).absolute(),
        host=host,
        port=port,
        image=find_image(args.image),
        public_url=parse_url(args.public_url) if args.public_url else None,
        kernel_args=tuple(parse_word(word) for word in args.kernel_arg),
        mirrors=read_mirrors(args.mirrors) if args.mirrors else (),
    )
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    context, new_token = open_context(settings)
    try:
        if new_token:
            _say(f"operator token: {new_token}")
            _say(f"  kept in {settings.data / 'operator-token'}; it is not shown again")
        key = context.signer.public.name
        _say(f"jobs are signed by {key}; for images: --server-key {settings.data / 'server.pub'}")
        if settings.image and (warning := image_warning(settings.image, key)):
            _say(warning)
        asyncio.run(_serve(context, args))
    finally:
        close_context(context)
    return ExitStatus.DONE


async def _serve(context: "Context", args: argparse.Namespace) -> None:
    from netboot.dnsmasq import Dnsmasq, plan_dhcp, running_dnsmasq
    from netboot.server import serve

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def ready(host: str, port: int) -> None:
        shown = f"[{host}]" if ":" in host else host
        _say(f"listening on http://{shown}:{port}")
        if context.settings.image is None:
            _say("no --image: machines cannot boot the agent from here")

    def companion(port: int) -> AbstractAsyncContextManager[asyncio.Task[None]]:
        plan = plan_dhcp(
            args.dhcp,
            args.interface,
            port,
            range_text=args.dhcp_range,
            url=context.settings.public_url,
        )
        _say(f"dnsmasq answers on {plan.interface} ({plan.mode.value}), pointing to {plan.url}")
        return running_dnsmasq(Dnsmasq(plan, context.settings.data))

    await serve(context, ready, stop, companion if args.dhcp else None)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def image_warning(image: Path, key: str) -> str | None:
    """Return what is wrong with an image for a server with that key; None if nothing is."""
    try:
        trusted = json.loads((image / "manifest.json").read_text()).get("server_keys", [])
    except (OSError, ValueError, AttributeError):
        return None  # of another make; the machines will tell
    if not trusted or key in trusted:
        return None
    return (
        f"warning: the image in {image} takes jobs signed by {' or '.join(trusted)}, not by {key}: "
        "machines will refuse this server's jobs"
    )


def find_image(given: Path | None) -> Path | None:
    """Return the folder of kernel and image. Raises UsageError if it lacks one of them."""
    if given is None:
        return DEFAULT_IMAGE if os.access(DEFAULT_IMAGE / "vmlinuz", os.R_OK) else None
    if not (given / "vmlinuz").is_file() or not (given / "initrd.img").is_file():
        raise UsageError(
            f"{given} has no vmlinuz and initrd.img", hint="metalcast build-image --output DIR"
        )
    return given.absolute()


def parse_listen(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT` or `[V6]:PORT`. Raises UsageError."""
    host, _, port = text.rpartition(":")
    is_port = port.isascii() and port.isdigit() and int(port) < 65536
    if not is_port or not HOST.fullmatch(host.lower()):
        raise UsageError(f"not HOST:PORT: {text[:80]!a}", hint="write 0.0.0.0:8470")
    return host.strip("[]"), int(port)
