"""`metalcast pass create`: let a technician capture one machine."""

import argparse
from typing import Any

from agent.model.job import PassRequest
from agent.model.wire import convert
from netboot.cli.common import make_client
from netboot.cli.show import say, say_json


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser("pass", help="let a technician capture a machine, once")
    words = parser.add_subparsers(metavar="WORD", required=True)
    create = words.add_parser("create", parents=[common], help="make a pass and show it")
    create.add_argument("--name", required=True, help="the template that may be made")
    create.add_argument("--minutes", type=int, default=120, help="how long it is good (120)")
    create.set_defaults(call=create_pass)


def create_pass(args: argparse.Namespace) -> int:
    asked = convert({"name": args.name, "minutes": args.minutes}, PassRequest, "arguments")
    made = make_client(args).make_pass(asked)
    if args.json:
        say_json(made)
    else:
        say(f"{made.code}")
        say(f"good once, for one capture as {made.name}, until {made.expires_at}")
    return 0
