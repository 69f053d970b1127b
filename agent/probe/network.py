"""Network interfaces that are hardware: MAC, driver, link, bus address."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from agent.model.inventory import LldpNeighbour, Nic
from agent.model.wire import BadDocument
from agent.probe.tree import Tree

_ETHERNET = "1"
_PCI_ADDRESS = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


@dataclass(frozen=True, slots=True)
class Link:
    """What netlink knows of an interface and sysfs does not."""

    name: str
    permanent_mac: str | None = None
    """The one in the hardware, whatever is set now."""
    addresses: tuple[str, ...] = ()
    """CIDR, IPv4 first."""


def probe_links() -> tuple[Link, ...]:
    """Return what netlink knows of each interface."""
    from pyroute2 import IPRoute  # half a second to import

    with IPRoute() as netlink:
        addresses: dict[int, list[str]] = {}
        for message in netlink.get_addr():
            local = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            if local:
                addresses.setdefault(message["index"], []).append(f"{local}/{message['prefixlen']}")
        return tuple(
            Link(
                name=message.get_attr("IFLA_IFNAME"),
                permanent_mac=message.get_attr("IFLA_PERM_ADDRESS"),
                addresses=_sorted(addresses.get(message["index"], ())),
            )
            for message in netlink.get_links()
        )


def parse_ip_json(text: str) -> tuple[Link, ...]:
    """Return the same from `ip -json address`."""
    try:
        return tuple(
            Link(
                name=entry["ifname"],
                permanent_mac=entry.get("permaddr"),
                addresses=_sorted(f"{a['local']}/{a['prefixlen']}" for a in entry["addr_info"]),
            )
            for entry in json.loads(text)
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BadDocument(f"ip: cannot read its answer: {error!r}") from error


def probe_nics(
    tree: Tree,
    links: Iterable[Link],
    boot_mac: str | None = None,
    lldp: dict[str, LldpNeighbour] | None = None,
) -> tuple[Nic, ...]:
    """Return the Ethernet interfaces that have a device behind them, in the order of the bus.

    `boot_mac` (lower case, colons) marks the one that the machine was booted from. A link
    reads as down while the interface itself is down: netup brings it up first.
    """
    known = {link.name: link for link in links}
    found = []
    for name in tree.names("/sys/class/net"):
        at = f"/sys/class/net/{name}"
        where = tree.target(f"{at}/device")
        mac = (tree.text(f"{at}/address") or "").lower()
        if where is None or not mac or tree.text(f"{at}/type") != _ETHERNET:
            continue
        link = known.get(name, Link(name))
        mac = (link.permanent_mac or mac).lower()
        speed = tree.number(f"{at}/speed")
        pci = _PCI_ADDRESS.findall(str(where))
        found.append(
            Nic(
                name=name,
                mac=mac,
                driver=tree.target_name(f"{at}/device/driver"),
                link=tree.flag(f"{at}/carrier"),
                speed_mbps=speed if speed and speed > 0 else None,
                address=pci[-1] if pci else where.name,
                addresses=link.addresses,
                boot=mac == boot_mac,
                lldp=(lldp or {}).get(name),
            )
        )
    return tuple(sorted(found, key=lambda nic: (nic.address or "", nic.name)))


def _sorted(addresses: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(addresses, key=lambda address: (":" in address, address)))
