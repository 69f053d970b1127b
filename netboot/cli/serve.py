"""`metalcast serve`."""

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path
from typing import Any, Final

from agent.errors import ExitStatus, UsageError
from netboot.context import Context, Settings
from netboot.ipxe import HOST, parse_url, parse_word
from netboot.server import close_context, open_context, serve

DEFAULT_DATA: Final = Path.home() / ".local" / "share" / "metalcast"
SYSTEM_DATA: Final = Path("/var/lib/metalcast")


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "serve", help="run the server: store, jobs, boot files, dashboard"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="where everything is kept")
    parser.add_argument("--image", type=Path, metavar="DIR", help="what build-image made")
    parser.add_argument("--listen", default="0.0.0.0:8470", metavar="HOST:PORT")
    parser.add_argument("--public-url", metavar="URL", help="how machines reach this server")
    parser.add_argument(
        "--kernel-arg", action="append", default=[], metavar="WORD", help="also for the agent"
    )
    parser.add_argument("--dhcp", choices=("proxy", "full"), help="run dnsmasq beside the server")
    parser.add_argument("--interface", metavar="IF", help="where dnsmasq answers")
    parser.set_defaults(call=run)


def run(args: argparse.Namespace) -> int:
    host, port = parse_listen(args.listen)
    if bool(args.dhcp) != bool(args.interface):
        raise UsageError("--dhcp and --interface belong together")
    settings = Settings(
        data=(args.data or data_folder()).absolute(),
        host=host,
        port=port,
        image=args.image.absolute() if args.image else None,
        public_url=parse_url(args.public_url) if args.public_url else None,
        kernel_args=tuple(parse_word(word) for word in args.kernel_arg),
    )
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    context, new_token = open_context(settings)
    try:
        if new_token:
            _say(f"operator token: {new_token}")
            _say(f"  kept in {settings.data / 'operator-token'}; it is not shown again")
        asyncio.run(_serve(context, args))
    finally:
        close_context(context)
    return ExitStatus.DONE


async def _serve(context: Context, args: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def ready(host: str, port: int) -> None:
        shown = f"[{host}]" if ":" in host else host
        _say(f"listening on http://{shown}:{port}")
        if context.settings.image is None:
            _say("no --image: machines cannot boot the agent from here")

    del args
    await serve(context, ready, stop)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def data_folder() -> Path:
    """Return where the server keeps its data by default: of the system, or of the user."""
    return SYSTEM_DATA if SYSTEM_DATA.is_dir() else DEFAULT_DATA


def parse_listen(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT` or `[V6]:PORT`. Raises UsageError."""
    host, _, port = text.rpartition(":")
    is_port = port.isascii() and port.isdigit() and int(port) < 65536
    if not is_port or not HOST.fullmatch(host.lower()):
        raise UsageError(f"not HOST:PORT: {text[:80]!a}", hint="write 0.0.0.0:8470")
    return host.strip("[]"), int(port)
