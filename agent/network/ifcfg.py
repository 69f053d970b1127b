"""ifcfg files of RHEL and its kin, for network-scripts and for NetworkManager's ifcfg plug-in.

A card known by its MAC gets HWADDR. It gets a name (DEVICE, and a .link file) only where something
must speak of it by name: NetworkManager demands that both fit.
"""

import ipaddress
import re
from collections.abc import Iterator
from typing import Final

from agent.model.network import (
    AnyDevice,
    Bond,
    Bridge,
    Ethernet,
    NetworkConfig,
    Route,
    Vlan,
)
from agent.network.bonding import kernel_options
from agent.network.names import link_files, pins_for
from agent.network.text import fill
from agent.network.tree import File

Pairs = list[tuple[str, str | int]]
FOLDER: Final = "/etc/sysconfig/network-scripts"
BARE: Final = re.compile(r"[A-Za-z0-9_.:/,+=-]*", re.ASCII)
QUOTED: Final = re.compile(r"[A-Za-z0-9_.:/,+= -]*", re.ASCII)


def object_to_ifcfg(config: NetworkConfig, names: dict[str, str]) -> Iterator[str]:
    """Yield what ifcfg files cannot say."""
    for vlan in config.vlans:
        link = names[vlan.link]
        if vlan.id not in (f"vlan{vlan.vlan_id}", f"{link}.{vlan.vlan_id}"):
            yield (
                f"{vlan.id}: network-scripts know a VLAN only by the name vlan{vlan.vlan_id}"
                f" or {link}.{vlan.vlan_id}"
            )
    for card in config.ethernets:
        if card.match and not card.match.macaddress and re.search(r"[*?]", card.match.name or ""):
            yield f"{card.id}: ifcfg cannot match by the pattern {card.match.name}"
    for device in config.devices:
        if device.dhcp_identifier == "duid":
            yield f"{device.id}: ifcfg cannot ask for dhcp-identifier: duid"


def render_ifcfg(config: NetworkConfig, names: dict[str, str]) -> dict[str, File]:
    named = [card for card in config.ethernets if _needs_name(config, card)]
    files = link_files(pins_for(named, names))
    known = {device.id for device in config.devices}
    known -= {card.id for card in config.ethernets if card.matched_mac and card not in named}
    for device in config.devices:
        suffix = names[device.id] if device.id in known else device.id
        name = names[device.id] if device.id in known else None
        lines = [(key, _quoted(value)) for key, value in _settings(config, device, name, names)]
        files[f"{FOLDER}/ifcfg-{suffix}"] = File(fill("ifcfg.j2", {"pairs": lines}))
        for family, prefix in ((4, "route"), (6, "route6")):
            routes = [
                route for route in device.routes_of(family) if route != _gateway(device, family)
            ]
            if routes:
                rows = [_route(route, name) for route in routes]
                files[f"{FOLDER}/{prefix}-{suffix}"] = File(fill("routes.j2", {"rows": rows}))
    return files


def _needs_name(config: NetworkConfig, card: Ethernet) -> bool:
    return bool(
        card.set_name
        or config.vlans_on(card.id)
        or any(bond.parameters.primary == card.id for bond in config.bonds)
        or any(ipaddress.ip_address(route.via).is_link_local for route in card.routes)
    )


def _quoted(value: str | int) -> str:
    """Return `value` for a file that a shell reads. Raises ValueError for what it would expand."""
    text = str(value)
    if BARE.fullmatch(text):
        return text
    if QUOTED.fullmatch(text):
        return f'"{text}"'
    raise ValueError(f"not a word for a shell: {text!a}")


def _gateway(device: AnyDevice, family: int) -> Route | None:
    """Return the default route that fits into GATEWAY or IPV6_DEFAULTGW, if there is one."""
    for route in device.routes_of(family):
        plain = route.is_default and not route.on_link
        if family == 6:
            plain = plain and route.metric is None
            plain = plain and not ipaddress.ip_address(route.via).is_link_local
        if plain and not (device.dhcp4 if family == 4 else device.dhcp6):
            return route
    return None


def _settings(
    config: NetworkConfig, device: AnyDevice, name: str | None, names: dict[str, str]
) -> Iterator[tuple[str, str | int]]:
    yield "NAME", device.id
    if name:
        yield "DEVICE", name
    if isinstance(device, Ethernet):
        yield "TYPE", "Ethernet"
        if device.matched_mac:
            yield "HWADDR", device.matched_mac.upper()
        if device.wakeonlan:
            yield "ETHTOOL_OPTS", "wol g"
    elif isinstance(device, Bond):
        yield "TYPE", "Bond"
        yield "BONDING_MASTER", "yes"
        options = (f"{key}={value}" for key, value in kernel_options(device, names))
        yield "BONDING_OPTS", " ".join(options)
    elif isinstance(device, Bridge):
        yield from _bridge(device)
    elif isinstance(device, Vlan):
        yield "TYPE", "Vlan"
        yield "VLAN", "yes"
        yield "VLAN_ID", device.vlan_id
        yield "PHYSDEV", names[device.link]
        if device.id.startswith("vlan"):
            yield "VLAN_NAME_TYPE", "VLAN_PLUS_VID_NO_PAD"
    yield "ONBOOT", "yes"
    if device.macaddress:
        yield "MACADDR", device.macaddress
    if device.mtu:
        yield "MTU", device.mtu
    master = config.master_of(device.id)
    if isinstance(master, Bond):
        yield "MASTER", master.id
        yield "SLAVE", "yes"
    elif isinstance(master, Bridge):
        yield "BRIDGE", master.id
    if master:
        yield "BOOTPROTO", "none"
        return
    yield from _ipv4(device)
    yield from _ipv6(device)
    for number, server in enumerate(device.nameservers.addresses, start=1):
        yield f"DNS{number}", server
    if device.nameservers.search:
        yield "DOMAIN", " ".join(device.nameservers.search)


def _bridge(device: Bridge) -> Iterator[tuple[str, str | int]]:
    given = device.parameters
    yield "TYPE", "Bridge"
    yield "STP", "yes" if given.stp else "no"
    if given.forward_delay_s is not None:
        yield "DELAY", given.forward_delay_s
    # BRIDGING_OPTS reach sysfs, which counts in hundredths of a second.
    rest: tuple[tuple[str, int | None, int], ...] = (
        ("hello_time", given.hello_time_s, 100),
        ("max_age", given.max_age_s, 100),
        ("ageing_time", given.ageing_time_s, 100),
        ("priority", given.priority, 1),
    )
    words = [f"{key}={value * factor}" for key, value, factor in rest if value is not None]
    if words:
        yield "BRIDGING_OPTS", " ".join(words)


def _ipv4(device: AnyDevice) -> Iterator[tuple[str, str | int]]:
    yield "BOOTPROTO", "dhcp" if device.dhcp4 else "none"
    for number, address in enumerate(device.addresses_of(4)):
        host, _, prefix = address.partition("/")
        suffix = str(number) if number else ""
        yield f"IPADDR{suffix}", host
        yield f"PREFIX{suffix}", prefix
    gateway = _gateway(device, 4)
    if gateway:
        yield "GATEWAY", gateway.via
        yield "DEFROUTE", "yes"
    metric = gateway.metric if gateway else device.dhcp4_overrides.route_metric
    if metric is not None:
        yield "METRIC", metric
        yield "IPV4_ROUTE_METRIC", metric
    if device.dhcp4_overrides.use_dns is False:
        yield "PEERDNS", "no"
    if device.dhcp4_overrides.use_routes is False:
        yield "PEERROUTES", "no"


def _ipv6(device: AnyDevice) -> Iterator[tuple[str, str | int]]:
    addresses = device.addresses_of(6)
    hears = device.accept_ra
    if hears is None:
        hears = device.dhcp6 or (not addresses and device.is_configured(4))
    if not (hears or addresses or device.dhcp6):
        yield "IPV6INIT", "no"
        return
    yield "IPV6INIT", "yes"
    yield "IPV6_AUTOCONF", "yes" if hears else "no"
    if device.dhcp6:
        yield "DHCPV6C", "yes"
    if addresses:
        yield "IPV6ADDR", addresses[0]
    if addresses[1:]:
        yield "IPV6ADDR_SECONDARIES", " ".join(addresses[1:])
    gateway = _gateway(device, 6)
    if gateway:
        yield "IPV6_DEFAULTGW", gateway.via
    overrides = device.dhcp6_overrides
    if overrides.route_metric is not None:
        yield "IPV6_ROUTE_METRIC", overrides.route_metric
    if overrides.use_dns is False:
        yield "IPV6_PEERDNS", "no"
    if overrides.use_routes is False:
        yield "IPV6_PEERROUTES", "no"


def _route(route: Route, name: str | None) -> str:
    words = [route.to, "via", route.via]
    if name:
        words += ["dev", name]
    if route.metric is not None:
        words += ["metric", str(route.metric)]
    if route.on_link:
        words.append("onlink")
    return " ".join(words)
