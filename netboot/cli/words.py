"""The words of `metalcast`: which command does what. The only place of netboot that exits."""

import argparse
import sys
from collections.abc import Sequence

from agent.errors import AgentError, ExitStatus, exit_status, hint_of, reasons
from netboot.cli import serve


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="metalcast", description="Templates from servers, and servers from templates."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    serve.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    try:
        return int(args.call(args))
    except AgentError as error:
        first, *rest = reasons(error)
        sys.stderr.write(f"error: {first}\n")
        for reason in rest:
            sys.stderr.write(f"  because  {reason}\n")
        if hint := hint_of(error):
            sys.stderr.write(f"  try      {hint}\n")
        return exit_status(error)
    except KeyboardInterrupt:
        return ExitStatus.REFUSED
