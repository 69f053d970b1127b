"""No DHCP here: the technician says which address this machine has."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

from agent.bootargs import BootArgs
from agent.flows.questions import NotAnAnswer, Questions
from agent.system.cmdline_network import parse_ip


def ask_network(questions: Questions, args: BootArgs) -> BootArgs:
    """Return `args` with the address and gateway that the technician typed."""
    interface = questions.ask(
        "No address by DHCP. This machine's address and prefix, such as 192.0.2.7/24?",
        _interface,
        argument="ip",
    )
    gateway = questions.ask("Its gateway? (Enter if there is none)", _gateway, argument="ip")
    setting = f"{interface.ip}::{gateway}:{interface.netmask}:::none"
    return replace(args, ip=(parse_ip(setting),))


def _interface(text: str) -> IPv4Interface:
    try:
        found = IPv4Interface(text)
    except ValueError as error:
        raise NotAnAnswer("please type an IPv4 address and its prefix: 192.0.2.7/24") from error
    if "/" not in text:
        raise NotAnAnswer("please type an IPv4 address and its prefix: 192.0.2.7/24")
    return found


def _gateway(text: str) -> str:
    if not text:
        return ""
    try:
        return str(IPv4Address(text))
    except ValueError as error:
        raise NotAnAnswer("please type an IPv4 address, or just Enter") from error
