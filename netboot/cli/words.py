"""The words of `metalcast`: which command does what. The only place of netboot that exits."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from agent.errors import AgentError, ExitStatus, exit_status, hint_of, reasons
from netboot.cli import jobs, machines, passes, plan, serve, templates
from netboot.cli.common import common_parser
from netboot.cli.show import clean


def make_parser(*, with_images: bool = True) -> argparse.ArgumentParser:
    """Return the parser of all commands; `with_images` loads what builds images."""
    parser = argparse.ArgumentParser(
        prog="metalcast",
        description="Templates from servers, and servers from templates.",
        epilog="exit status: 0 done · 1 bug · 2 usage · 3 refused, no disk changed · "
        "4 failed, a disk is partly written",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    common = common_parser()
    serve.add_parser(commands)
    templates.add_parser(commands, common)
    jobs.add_parser(commands, common)
    plan.add_parser(commands, common)
    machines.add_parser(commands, common)
    passes.add_parser(commands, common)
    if with_images:
        _add_images(commands)
    return parser


def _add_images(commands: Any) -> None:
    from images import cli

    cli.add_parser(commands)
    commands.choices["build-image"].set_defaults(call=cli.run)


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    ours = ("serve", "template", "job", "plan", "machine", "pass")
    args = make_parser(with_images=not (words and words[0] in ours)).parse_args(words)
    try:
        return int(args.call(args))
    except AgentError as error:
        first, *rest = reasons(error)
        sys.stderr.write(f"error: {clean(first)}\n")
        for reason in rest:
            sys.stderr.write(f"  because  {clean(reason)}\n")
        if hint := hint_of(error):
            sys.stderr.write(f"  try      {clean(hint)}\n")
        return exit_status(error)
    except BrokenPipeError:
        return ExitStatus.DONE
    except KeyboardInterrupt:
        return ExitStatus.REFUSED
