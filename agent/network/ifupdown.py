"""ifupdown: /etc/network/interfaces. It knows interfaces by name only, so every MAC is pinned.

Bonds are for the hooks of the package ifenslave, bridges for those of bridge-utils. VLANs are made
by ifupdown itself (`bond0.10`), or by `ip link` where the name says nothing.
"""

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from agent.model.network import AnyDevice, Bond, Bridge, Ethernet, NetworkConfig, Route, Vlan
from agent.network.bonding import kernel_options
from agent.network.names import link_files, pins_for
from agent.network.text import fill
from agent.network.tree import File

INTERFACES = "/etc/network/interfaces"
RESOLV_CONF = "/etc/resolv.conf"
IFENSLAVE = "/etc/network/if-pre-up.d/ifenslave"
BRIDGE_UTILS = "/etc/network/if-pre-up.d/bridge"


@dataclass
class Stanza:
    """One `iface` paragraph; `start` is the line before it that says when it is brought up."""

    name: str
    family: str
    method: str
    start: str = ""
    options: list[tuple[str, str | int]] = field(default_factory=list)

    @property
    def before(self) -> tuple[str, ...]:
        return (f"{self.start} {self.name}",) if self.start else ()

    def add(self, key: str, value: str | int) -> None:
        self.options.append((key, value))


def object_to_ifupdown(config: NetworkConfig) -> Iterator[str]:
    """Yield what /etc/network/interfaces cannot say."""
    for card in config.ethernets:
        if card.match and not card.match.macaddress and re.search(r"[*?]", card.match.name or ""):
            yield f"{card.id}: ifupdown cannot match by the pattern {card.match.name}"
    for device in config.devices:
        if device.dhcp_identifier == "duid":
            yield f"{device.id}: ifupdown cannot ask for dhcp-identifier: duid"
        for client, given in (("4", device.dhcp4_overrides), ("6", device.dhcp6_overrides)):
            if given.use_dns is False or given.use_routes is False:
                yield f"{device.id}: ifupdown cannot leave out parts of a dhcp{client} lease"
            if client == "6" and given.route_metric is not None:
                yield f"{device.id}: ifupdown cannot set the metric of dhcp6"


def needs_of_ifupdown(config: NetworkConfig) -> Iterator[tuple[str, str]]:
    for bond in config.bonds:
        yield IFENSLAVE, f"{bond.id} needs the package ifenslave"
    for bridge in config.bridges:
        yield BRIDGE_UTILS, f"{bridge.id} needs the package bridge-utils"


def render_ifupdown(config: NetworkConfig, names: dict[str, str]) -> dict[str, File]:
    files = link_files(pins_for(config.ethernets, names))
    stanzas = [
        stanza for device in config.bottom_up() for stanza in _stanzas(config, device, names)
    ]
    files[INTERFACES] = File(fill("interfaces.j2", {"stanzas": stanzas}))
    servers = _once(name for device in config.devices for name in device.nameservers.addresses)
    search = _once(name for device in config.devices for name in device.nameservers.search)
    if servers:
        # dns-nameservers is read by resolvconf or systemd-resolved alone; where one of them is at
        # work, the path is a symbolic link.
        values = {"servers": servers, "searches": [" ".join(search)] if search else []}
        files[RESOLV_CONF] = File(fill("resolv.conf.j2", values), keep_link=True)
    return files


def _once(words: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(words))


def _stanzas(config: NetworkConfig, device: AnyDevice, names: dict[str, str]) -> list[Stanza]:
    name = names[device.id]
    master = config.master_of(device.id)
    stanzas = [*_inet(device, name), *_inet6(device, name)]
    if not stanzas:
        stanzas = [Stanza(name, "inet", "manual")]
    first = stanzas[0]
    if isinstance(master, Bond):
        first.start = f"allow-{master.id}"
    else:
        first.start = "allow-hotplug" if device.optional else "auto"
    for key, value in _own(device, name, names):
        first.add(key, value)
    if device.macaddress:
        first.add("hwaddress", device.macaddress)
    if device.mtu and first.method in ("static", "manual") and first.family == "inet":
        first.add("mtu", device.mtu)
    elif device.mtu:
        first.add("up", f"ip link set dev {name} mtu {device.mtu}")
    if not master and device.accept_ra is False and not any(s.family == "inet6" for s in stanzas):
        # Slashes: the name of a VLAN has a dot, at which sysctl would split it.
        first.add("up", f"sysctl -q -w net/ipv6/conf/{name}/accept_ra=0")
    if device.nameservers.addresses:
        first.add("dns-nameservers", " ".join(device.nameservers.addresses))
    if device.nameservers.search:
        first.add("dns-search", " ".join(device.nameservers.search))
    for route in device.routes:
        _add_route(stanzas, route, name)
    return stanzas


def _inet(device: AnyDevice, name: str) -> Iterator[Stanza]:
    if device.dhcp4:
        stanza = Stanza(name, "inet", "dhcp")
        if device.dhcp4_overrides.route_metric is not None:
            stanza.add("metric", device.dhcp4_overrides.route_metric)
        yield stanza
    for address in device.addresses_of(4):
        yield Stanza(name, "inet", "static", options=[("address", address)])


def _inet6(device: AnyDevice, name: str) -> Iterator[Stanza]:
    hears: list[tuple[str, str | int]] = []
    if device.accept_ra is not None:
        hears.append(("accept_ra", int(device.accept_ra)))
    if device.dhcp6:
        yield Stanza(name, "inet6", "dhcp", options=[*hears])
    elif device.accept_ra and not device.addresses_of(6):
        yield Stanza(name, "inet6", "auto", options=[*hears])
    if device.accept_ra:
        hears.append(("autoconf", 1))
    for address in device.addresses_of(6):
        yield Stanza(name, "inet6", "static", options=[("address", address), *hears])


def _own(device: AnyDevice, name: str, names: dict[str, str]) -> Iterator[tuple[str, str | int]]:
    """Yield what makes the device: it goes into its first stanza only."""
    if isinstance(device, Bond):
        yield "bond-slaves", " ".join(names[member] for member in device.interfaces)
        for key, value in kernel_options(device, names):
            yield f"bond-{key.replace('_', '-')}", value.replace(",", " ")
    elif isinstance(device, Bridge):
        yield "bridge_ports", " ".join(names[member] for member in device.interfaces) or "none"
        given = device.parameters
        yield "bridge_stp", "on" if given.stp else "off"
        wanted = (
            ("bridge_fd", given.forward_delay_s),
            ("bridge_hello", given.hello_time_s),
            ("bridge_maxage", given.max_age_s),
            ("bridge_ageing", given.ageing_time_s),
            ("bridge_bridgeprio", given.priority),
        )
        for option, number in wanted:
            if number is not None:
                yield option, number
    elif isinstance(device, Vlan):
        link = names[device.link]
        if name != f"{link}.{device.vlan_id}":
            make = f"ip link add link {link} name {name} type vlan id {device.vlan_id}"
            yield "pre-up", f"ip link set dev {link} up"
            yield "pre-up", f"test -e /sys/class/net/{name} || {make}"
            yield "post-down", f"test ! -e /sys/class/net/{name} || ip link delete dev {name}"
        yield "vlan-raw-device", link
    elif isinstance(device, Ethernet) and device.wakeonlan:
        yield "ethernet-wol", "g"


def _add_route(stanzas: list[Stanza], route: Route, name: str) -> None:
    """Add `route` to the paragraph that brings up what it needs."""
    family = "inet6" if route.family == 6 else "inet"
    own = [stanza for stanza in stanzas if stanza.family == family]
    gateway = ipaddress.ip_address(route.via)
    for stanza in own:
        options = dict(stanza.options)
        if stanza.method != "static" or "gateway" in options or not route.is_default:
            continue
        network = ipaddress.ip_interface(str(options["address"])).network
        if gateway in network and not route.on_link:
            stanza.add("gateway", route.via)
            if route.metric is not None:
                stanza.add("metric", route.metric)
            return
    words = f"ip -{route.family} route replace {route.to} via {route.via} dev {name}"
    if route.metric is not None:
        words += f" metric {route.metric}"
    if route.on_link:
        words += " onlink"
    (own or stanzas)[-1].add("up", words)
