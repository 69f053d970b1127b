"""Which kernel name each device has, and which names must be pinned to a card."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from agent.model.inventory import Nic
from agent.model.network import Ethernet, Match, NetworkConfig
from agent.network.text import fill
from agent.network.tree import File

KERNEL_OWN: Final = re.compile(r"eth\d+", re.ASCII)
"""Names that the kernel hands out as cards appear: no name to give to another card."""


@dataclass(frozen=True, slots=True)
class Pin:
    """The card with this MAC is to be called `name`."""

    device: str
    mac: str
    name: str
    wake: bool


def bind_to_cards(config: NetworkConfig, nics: Iterable[Nic]) -> NetworkConfig:
    """Return `config` with each card that is named like one of `nics` matched by that one's MAC.

    Whoever writes `ens3` has read it in the inventory of this machine; the captured system may call
    the card otherwise (older naming scheme, net.ifnames=0).
    """
    macs = {nic.name: nic.mac.lower() for nic in nics}
    taken = {card.matched_mac for card in config.ethernets}

    def bound(card: Ethernet) -> Ethernet:
        name = card.match.name if card.match else card.id
        if card.matched_mac or name not in macs or macs[name] in taken:
            return card
        return msgspec.structs.replace(
            card, match=Match(macaddress=macs[name]), set_name=card.set_name or name
        )

    cards = tuple(bound(card) for card in config.ethernets)
    return msgspec.structs.replace(config, ethernets=cards)


def missing_cards(config: NetworkConfig, nics: Iterable[Nic]) -> tuple[str, ...]:
    """Return an objection for each MAC in `config` that no card of this machine has."""
    known = {nic.mac.lower(): nic.name for nic in nics}
    has = ", ".join(f"{name} {mac}" for mac, name in sorted(known.items())) or "no card"
    return tuple(
        f"network.ethernets.{card.id}: the machine has no card {card.matched_mac}; it has {has}"
        for card in config.ethernets
        if card.matched_mac and card.matched_mac not in known
    )


def kernel_names(config: NetworkConfig, nics: Iterable[Nic]) -> dict[str, str]:
    """Return the name of each device on the booted system, by id, for stacks that need one.

    A card known by MAC alone gets the name that it has now, if that is a lasting one, else
    `enx` and its MAC, which udev would make of it too.
    """
    now = {nic.mac.lower(): nic.name for nic in nics}
    reserved = {device.id for device in config.devices}
    reserved |= {card.set_name for card in config.ethernets if card.set_name}
    names = {device.id: device.id for device in config.devices}
    for card in config.ethernets:
        if card.set_name:
            names[card.id] = card.set_name
        elif card.matched_mac:
            name = now.get(card.matched_mac, "")
            usable = name and not KERNEL_OWN.fullmatch(name)
            if not usable or (name in reserved and name != card.id):
                name = "enx" + card.matched_mac.replace(":", "")
            names[card.id] = name
        elif card.match and card.match.name:
            names[card.id] = card.match.name
    return names


def link_files(pins: Iterable[Pin]) -> dict[str, File]:
    """Return the systemd.link(5) files with which udev gives each pinned card its name."""
    return {
        f"/etc/systemd/network/10-metalcast-{pin.device}.link": File(
            fill("systemd.link.j2", {"mac": pin.mac, "link": _link(pin)})
        )
        for pin in pins
    }


def _link(pin: Pin) -> tuple[tuple[str, str], ...]:
    wake = (("WakeOnLan", "magic"),) if pin.wake else ()
    return (("Name", pin.name), *wake)


def pins_for(cards: Iterable[Ethernet], names: dict[str, str]) -> tuple[Pin, ...]:
    """Return a pin for each of `cards` that is known by its MAC."""
    return tuple(
        Pin(card.id, card.matched_mac, names[card.id], card.wakeonlan)
        for card in cards
        if card.matched_mac
    )
