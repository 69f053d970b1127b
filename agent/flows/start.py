"""From the kernel command line to work: consoles, network, then the mode that was asked for."""

import argparse
import os
from pathlib import Path

from agent.bootargs import BootArgs, parse_bootargs
from agent.client import ServerClient
from agent.console import Console, failure_page, machine_console, standard_console
from agent.errors import AgentError, ExitStatus, UsageError, exit_status
from agent.flows.ask_network import ask_network
from agent.flows.boot import NetbootedAgent, new_agent_id
from agent.flows.failures import failure_of, traceback_of
from agent.flows.questions import Questions
from agent.flows.rescue import Rescue
from agent.flows.version import version
from agent.model.job import Finish
from agent.probe import probe_interfaces, probe_inventory
from agent.probe.page import render_inventory
from agent.system.command import Run
from agent.system.memory import give_back_memory
from agent.system.netup import NetworkDown, bring_network_up
from agent.system.power import finish_machine
from agent.trust.keyring import Keyring, read_keyring


def boot(args: argparse.Namespace) -> int:
    """Be the boot image's agent. Comes back only when the machine is to stay as it is."""
    give_back_memory()
    names = os.environ.get("METALCAST_CONSOLES", "").split()
    console = machine_console(names) if names else standard_console()
    console.say(f"\nMetalcast {version()}")
    on_error = "stay"
    try:
        bootargs = read_bootargs(args.cmdline)
        on_error = bootargs.on_error
        keyring = read_keyring()
        console.lack = keyring.lack
        for line in keyring.lines():
            console.say(line)
        finish = work(bootargs, console, keyring)
    except Exception as error:
        bug = not isinstance(error, AgentError)
        console.show(traceback_of(error) if bug else failure_page(failure_of(error)))
        status = exit_status(error)
        console.drain()
        tell_trouble(args.cmdline, console, error)
        if on_error in ("reboot", "poweroff"):
            finish_machine(Finish(on_error), console.say)
        return status
    console.drain()
    finish_machine(finish, console.say)
    return ExitStatus.DONE


def tell_trouble(cmdline: Path, console: Console, error: Exception) -> None:
    """Tell the server why this agent cannot work, as far as server and network can be found."""
    known = ("metalcast.server=", "ip=", "BOOTIF=", "vlan=", "bond=", "nameserver=")
    words = [word for word in cmdline.read_text().split() if word.startswith(known)]
    run = Run()
    try:
        args = parse_bootargs(" ".join(words))
        if args.server is None:
            return
        inventory = probe_inventory(run, boot_mac=args.bootif)
        if not any(nic.addresses for nic in inventory.nics):
            network_up(run, args, console)
        server = ServerClient(args.server)
        agent = NetbootedAgent(run, console, server, Keyring(), args.bootif, new_agent_id())
        failure = failure_of(error)
        trouble = "; ".join((failure.summary, *failure.because))[:2000]
        agent.hello(inventory, patient=False, trouble=trouble)
    except AgentError as lost:
        console.say(f"The server was not told: {lost}")
    else:
        console.say("The server was told.")
    console.drain()


def network(args: argparse.Namespace) -> int:
    """Bring the network up from a shell of the boot image."""
    console = standard_console()
    network_up(Run(), read_bootargs(args.cmdline), console)
    console.drain()
    return ExitStatus.DONE


def rescue_by_hand(args: argparse.Namespace) -> int:
    """Ask the technician's questions on this terminal; the network is as it is."""
    console, keyring = standard_console(), read_keyring()
    console.lack = keyring.lack
    bootargs = read_bootargs(args.cmdline, strict=False)
    Rescue(Run(), console, bootargs, Questions(console), keyring).work()
    console.drain()
    return ExitStatus.DONE


def read_bootargs(path: Path, *, strict: bool = True) -> BootArgs:
    """Return the kernel's arguments; ours alone on a machine that we did not boot."""
    words = path.read_text()
    if not strict:
        words = " ".join(word for word in words.split() if word.startswith("metalcast."))
    return parse_bootargs(words)


def work(args: BootArgs, console: Console, keyring: Keyring) -> Finish:
    """Do what the mode says; return how the machine goes on."""
    run = Run()
    if args.mode == "inspect" and args.server is None:
        console.show(render_inventory(probe_inventory(run, lldp_seconds=args.lldp_seconds)))
        return args.finish or Finish.STAY
    if args.mode in ("rescue", "capture"):
        questions = Questions(console, unattended=not console.inputs)
        try:
            network_up(run, args, console)
        except NetworkDown as error:
            if questions.unattended or args.ip:
                raise
            console.say(f"{error}")
            network_up(run, ask_network(questions, args), console)
        return Rescue(run, console, args, questions, keyring).work()
    if args.server is None:
        raise UsageError(
            f"mode {args.mode} needs a server", hint="add metalcast.server=http://ADDRESS:8470"
        )
    network_up(run, args, console)
    server, bootif = ServerClient(args.server), args.bootif
    agent = NetbootedAgent(run, console, server, keyring, bootif, new_agent_id(), args.lldp_seconds)
    return agent.work()


def network_up(run: Run, args: BootArgs, console: Console) -> None:
    ups = bring_network_up(
        run,
        args,
        lambda: probe_interfaces(args.bootif),
        note=console.say,
    )
    for up in ups:
        console.say(f"Network: {up.device} has {up.lease.address}")
