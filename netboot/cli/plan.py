"""`metalcast plan`: what a deployment would do to a machine, before anybody touches it."""

import argparse
from pathlib import Path
from typing import Any

from agent.errors import UsageError
from agent.model.inventory import Inventory
from agent.model.job import DeploySpec
from agent.model.template import CONFIG_MAX_BYTES, TemplateConfig
from agent.model.wire import decode
from agent.planning.deploy import plan_deploy
from agent.planning.drawing import draw_layout
from agent.planning.review import render_plan
from agent.planning.targets import target_disks
from agent.store.source import BlobSource
from agent.store.template import read_config, read_manifest
from netboot.cli.common import make_client, parse_mac
from netboot.cli.jobs import add_deploy_options, add_keys, disk_parser, make_spec
from netboot.cli.show import say, say_json
from netboot.cli.template_places import add_doors, open_to_read, parse_place

_INVENTORY_MAX_BYTES = 16 * 1024 * 1024


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "plan",
        parents=[common, disk_parser()],
        help="what a deployment would do, drawn; nothing is touched",
    )
    parser.add_argument(
        "template", metavar="PLACE", help="of the store, or a folder or URL of an export"
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--machine", metavar="MAC", help="one that the server knows")
    which.add_argument(
        "--inventory", type=Path, metavar="FILE", help="what `agent inspect --json` said"
    )
    add_deploy_options(parser)
    add_keys(parser)
    add_doors(parser, "from", "the template's place, if it is a URL")
    parser.set_defaults(call=show_plan, kind="deploy")


def show_plan(args: argparse.Namespace) -> int:
    """Say the plan with a picture of before and after. Raises PlanRefused with every reason."""
    place = parse_place(args.template)
    template = _config(open_to_read(args, place), place.reference)
    args.template = template.name
    spec = make_spec(args)
    assert isinstance(spec, DeploySpec)
    inventory = _inventory(args)
    drives = target_disks(spec, template, inventory.disks)
    plan = plan_deploy(inventory, template, spec, drives)
    if args.json:
        say_json(plan)
        return 0
    say(f"The template's disks:\n\n{draw_layout(template.layout)}")
    say(f"This machine's disks afterwards:\n\n{draw_layout(plan.layout)}")
    say(render_plan(plan))
    return 0


def _config(source: BlobSource, reference: str) -> TemplateConfig:
    """Return what the template records; nothing of its data is looked at."""
    data, digest = source.manifest(reference)
    config = read_manifest(data, f"manifest {digest[:19]}").config
    return read_config(source.blob(config, CONFIG_MAX_BYTES), config.digest)


def _inventory(args: argparse.Namespace) -> Inventory:
    if args.machine:
        return make_client(args).inventory(parse_mac(args.machine))
    try:
        with args.inventory.open("rb") as file:
            data = file.read(_INVENTORY_MAX_BYTES)
    except OSError as error:
        raise UsageError(f"cannot read {args.inventory}: {error.strerror}") from error
    return decode(data, Inventory, str(args.inventory))
