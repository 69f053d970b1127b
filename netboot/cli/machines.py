"""`metalcast machine ls/show/rm`."""

import argparse
from typing import Any, Literal

from agent.errors import ServerError
from agent.model.inventory import Inventory
from agent.model.job import ImageKeys
from agent.units import format_bytes
from netboot.cli.common import make_client, parse_mac
from netboot.cli.show import clean, format_age, say, say_facts, say_json, say_table


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser("machine", help="machines that booted or have a job")
    words = parser.add_subparsers(metavar="WORD", required=True)
    ls = words.add_parser("ls", parents=[common], help="list them, the one seen last first")
    ls.set_defaults(call=list_machines)
    for word, call, text in (
        ("show", show_machine, "what the machine is"),
        ("rm", remove_machine, "forget the machine and its ended jobs"),
    ):
        one = words.add_parser(word, parents=[common], help=text)
        one.add_argument("mac", metavar="MAC")
        one.set_defaults(call=call)


def list_machines(args: argparse.Namespace) -> int:
    client = make_client(args)
    found = client.machines()
    if args.json:
        say_json(found)
        return 0
    jobs = {job.id: job for job in client.jobs()}
    rows = []
    for machine in found:
        job = jobs.get(machine.job or "")
        doing = f"{job.spec.__struct_config__.tag} {job.state.value}" if job else None
        doing = "cannot work: see `machine show`" if machine.trouble else doing
        seen = f"{format_age(machine.last_seen_at)} ago"
        rows.append((machine.id, machine.name, machine.firmware, seen, machine.job, doing))
    say_table(
        ("MACHINE", "NAME", "FIRMWARE", "SEEN", "JOB", "STATE"),
        rows,
        "no machine has booted yet, and none has a job",
    )
    return 0


def show_machine(args: argparse.Namespace) -> int:
    client = make_client(args)
    machine = client.machine(parse_mac(args.mac))
    inventory = None
    if machine.inventory_at:
        try:
            inventory = client.inventory(machine.id)
        except ServerError:
            inventory = None  # forgotten in this moment
    if args.json:
        say_json({"machine": machine, "inventory": inventory})
        return 0
    say_facts(
        (
            ("machine", machine.id),
            ("name", machine.name),
            ("uuid", machine.uuid),
            ("firmware", machine.firmware),
            ("first seen", machine.first_seen_at),
            ("last seen", machine.last_seen_at),
            ("job", machine.job),
            ("cannot work", machine.trouble),
            ("templates", keys_line(machine.keys, "templates")),
            ("jobs", keys_line(machine.keys, "server")),
        )
    )
    if inventory:
        _say_inventory(inventory)
    else:
        say("it has not told yet what it is")
    return 0


def keys_line(keys: ImageKeys | None, kind: Literal["templates", "server"]) -> str | None:
    """Return whom the machine's boot image trusts, as it said last."""
    if keys is None:
        return None
    if names := getattr(keys, kind):
        return f"must be signed by {' or '.join(names)}"
    return "UNSIGNED ones are taken: its image has no keys for them"


def _say_inventory(inventory: Inventory) -> None:
    board = inventory.board
    say_facts(
        (
            ("board", " ".join(filter(None, (board.vendor, board.product))) or None),
            ("serial", board.serial),
            ("cpu", f"{inventory.cpus} × {inventory.cpu_model}"),
            ("memory", format_bytes(inventory.memory_bytes)),
            ("secure boot", inventory.secure_boot.value),
        )
    )
    say()
    rows = [
        (
            disk.path,
            format_bytes(disk.size_bytes),
            disk.transport.value,
            disk.model,
            disk.serial,
            disk.wwn,
            ", ".join(sorted({one.what for one in disk.contents})) or None,
        )
        for disk in inventory.disks
    ]
    head = ("DISK", "SIZE", "BUS", "MODEL", "SERIAL", "WWN", "HOLDS")
    say_table(head, rows, "no disks")
    say()
    nics = [
        (nic.name, nic.mac, nic.driver, "up" if nic.link else "down", " ".join(nic.addresses))
        for nic in inventory.nics
    ]
    say_table(("NIC", "MAC", "DRIVER", "LINK", "ADDRESSES"), nics, "no network interfaces")
    for controller in inventory.raid_controllers:
        say(clean(f"RAID controller {controller.address} {controller.name or ''}"))
    if inventory.imsm:
        say("Intel's RAID is in the firmware")


def remove_machine(args: argparse.Namespace) -> int:
    machine = parse_mac(args.mac)
    make_client(args).remove_machine(machine)
    if args.json:
        say_json({"removed": machine})
    else:
        say(f"forgot {machine}")
    return 0
