"""The options that every command has, and the client that they make."""

import argparse
import os
import re
from pathlib import Path
from typing import Final

from agent.errors import UsageError
from netboot.client import Client, read_token

DEFAULT_DATA: Final = Path.home() / ".local" / "share" / "metalcast"
SYSTEM_DATA: Final = Path("/var/lib/metalcast")
SERVER: Final = "http://127.0.0.1:8470"
_MAC: Final = re.compile(r"[0-9a-f]{2}([:-]?[0-9a-f]{2}){5}")


def common_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--server",
        metavar="URL",
        default=os.environ.get("METALCAST_SERVER", SERVER),
        help=f"the server (METALCAST_SERVER; default {SERVER})",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        type=Path,
        default=os.environ.get("METALCAST_TOKEN_FILE"),
        help="file with the operator token (METALCAST_TOKEN_FILE; default in the data directory)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def make_client(args: argparse.Namespace) -> Client:
    token = None
    path = data_folder() / "operator-token"
    if args.token_file:
        token = read_token(Path(args.token_file))
    elif os.access(path, os.R_OK):
        token = read_token(path)
    return Client(args.server, token)


def parse_mac(text: str) -> str:
    """Return a MAC as machines are named: `52-54-00-12-34-56`. Raises UsageError."""
    lower = text.strip().lower()
    if not _MAC.fullmatch(lower):
        raise UsageError(f"not a MAC address: {text[:60]!a}", hint="write 52-54-00-12-34-56")
    digits = re.sub("[:-]", "", lower)
    return "-".join(digits[n : n + 2] for n in range(0, 12, 2))


def data_folder() -> Path:
    """Return where the server keeps its data by default: of the system, or of the user."""
    return SYSTEM_DATA if SYSTEM_DATA.is_dir() else DEFAULT_DATA
