"""What must hold between the devices of a network configuration. Each check yields objections."""

import ipaddress
from collections import Counter
from collections.abc import Iterator

from agent.model.network_values import (
    AnyDevice,
    Bond,
    Bridge,
    Ethernet,
    NetworkConfig,
    Vlan,
    family_of,
)

GROUPS = {Ethernet: "ethernets", Bond: "bonds", Bridge: "bridges", Vlan: "vlans"}
WITH_PRIMARY = ("active-backup", "balance-tlb", "balance-alb")
WITH_HASH = ("balance-xor", "802.3ad", "balance-tlb")
WITHOUT_ARP = ("802.3ad", "balance-tlb", "balance-alb")


def path_of(device: AnyDevice) -> str:
    return f"network.{GROUPS[type(device)]}.{device.id}"


def check_network(config: NetworkConfig) -> Iterator[str]:
    """Yield each thing in `config` that is well-formed and cannot be right."""
    if not config.devices:
        yield "network: no device is configured"
    yield from _names(config)
    yield from _cards(config)
    broken = [*_references(config)]
    yield from broken
    if not broken:
        yield from _loops(config)
    for device in config.devices:
        yield from _addressing(config, device)
        yield from _mtu(config, device)
    for bond in config.bonds:
        yield from _bond(bond)
    for bridge in config.bridges:
        yield from _bridge(bridge)
    yield from _default_routes(config)
    yield from _addresses_once(config)


def _names(config: NetworkConfig) -> Iterator[str]:
    ids = Counter(device.id for device in config.devices)
    for name, count in ids.items():
        if count > 1:
            yield f"network: {count} devices are called {name}"
    taken: dict[str, str] = {}
    for device in config.devices:
        name = device.id
        if isinstance(device, Ethernet) and device.match:
            if not device.set_name:
                continue
            name = device.set_name
        if name in taken and taken[name] != device.id:
            yield f"{path_of(device)}: {taken[name]} has the name {name} already"
        taken[name] = device.id


def _cards(config: NetworkConfig) -> Iterator[str]:
    wanted: dict[str, str] = {}
    named: dict[str, str] = {}
    own: dict[str, str] = {}
    for card in config.ethernets:
        mac = card.matched_mac
        if mac and mac in wanted:
            yield f"{path_of(card)}.match: {wanted[mac]} matches {mac} already"
        elif mac:
            wanted[mac] = card.id
        name = card.match.name if card.match else card.id
        if name and not mac and name in named:
            yield f"{path_of(card)}.match: {named[name]} matches {name} already"
        elif name and not mac:
            named[name] = card.id
    for device in config.devices:
        if device.macaddress and device.macaddress in own:
            yield f"{path_of(device)}.macaddress: {own[device.macaddress]} takes it on already"
        elif device.macaddress:
            own[device.macaddress] = device.id


def _references(config: NetworkConfig) -> Iterator[str]:
    known = {device.id: device for device in config.devices}
    users: dict[str, str] = {}
    masters: tuple[Bond | Bridge, ...] = (*config.bonds, *config.bridges)
    for master in masters:
        if isinstance(master, Bond) and not master.interfaces:
            yield f"{path_of(master)}.interfaces: a bond needs a member"
        for index, member in enumerate(master.interfaces):
            at = f"{path_of(master)}.interfaces[{index}]"
            device = known.get(member)
            if device is None:
                yield f"{at}: {member} is not configured here"
            elif isinstance(master, Bond) and not isinstance(device, Ethernet):
                yield f"{at}: {member} is no ethernet; a bond takes nothing else"
            elif isinstance(device, Bridge):
                yield f"{at}: {member} is a bridge; a bridge takes none"
            elif member in users:
                yield f"{at}: {member} belongs to {users[member]} already"
            users.setdefault(member, master.id)
    tags: dict[tuple[str, int], str] = {}
    for vlan in config.vlans:
        at = f"{path_of(vlan)}.link"
        if vlan.link not in known:
            yield f"{at}: {vlan.link} is not configured here"
        elif vlan.link in users:
            yield f"{at}: {vlan.link} belongs to {users[vlan.link]}; put the vlan on that"
        tag = (vlan.link, vlan.vlan_id)
        if tag in tags:
            yield f"{path_of(vlan)}.id: {tags[tag]} has id {vlan.vlan_id} on {vlan.link} already"
        tags.setdefault(tag, vlan.id)


def _loops(config: NetworkConfig) -> Iterator[str]:
    below: dict[str, tuple[str, ...]] = {}
    for device in config.devices:
        if isinstance(device, Vlan):
            below[device.id] = (device.link,)
        elif isinstance(device, Bond | Bridge):
            below[device.id] = device.interfaces
    state: dict[str, bool] = {}
    for start in below:
        trail: list[tuple[str, int]] = [(start, 0)]
        while trail:
            name, index = trail.pop()
            if index == 0 and state.get(name):
                continue
            state[name] = False
            if index == len(below.get(name, ())):
                state[name] = True
                continue
            trail.append((name, index + 1))
            lower = below[name][index]
            if state.get(lower) is False:
                yield f"network: {name} and {lower} stand on each other"
                return
            trail.append((lower, 0))


def _addressing(config: NetworkConfig, device: AnyDevice) -> Iterator[str]:
    at = path_of(device)
    master = config.master_of(device.id)
    if master and (device.dhcp4 or device.dhcp6 or device.addresses or device.routes):
        yield f"{at}: belongs to {master.id}; addresses and routes go there"
        return
    if isinstance(device, Ethernet) and device.match and not device.match.macaddress:
        name = device.match.name or ""
        if ("*" in name or "?" in name) and device.addresses:
            yield f"{at}: {name} may match several cards, which cannot share addresses"
    hosts = {address.partition("/")[0] for address in device.addresses}
    for index, route in enumerate(device.routes):
        where = f"{at}: the route to {route.to} (number {index + 1})"
        if route.via in hosts:
            yield f"{where} goes via the interface's own address {route.via}"
        elif not device.is_configured(route.family) and not _learns(device, route.family):
            yield f"{where} needs an IPv{route.family} address on the interface"
        elif not _reaches(device, route.via, route.on_link):
            yield (
                f"{where} goes via {route.via}, which is in no network of the interface;"
                " correct it or add on-link: true"
            )
    if len(set(device.routes)) != len(device.routes):
        yield f"{at}.routes: one route is there twice"


def _learns(device: AnyDevice, family: int) -> bool:
    """Whether the interface can get an address of `family` that is not in the document."""
    return family == 6 and device.accept_ra is True


def _reaches(device: AnyDevice, via: str, on_link: bool) -> bool:
    family = family_of(via)
    gateway = ipaddress.ip_address(via)
    if on_link or gateway.is_link_local or _learns(device, family):
        return True
    if device.dhcp4 if family == 4 else device.dhcp6:
        return True
    networks = [ipaddress.ip_interface(text).network for text in device.addresses_of(family)]
    return any(gateway in network for network in networks)


def _mtu(config: NetworkConfig, device: AnyDevice) -> Iterator[str]:
    if device.mtu is None:
        return
    if device.mtu < 1280 and (device.dhcp6 or device.addresses_of(6)):
        yield f"{path_of(device)}.mtu: IPv6 needs at least 1280, not {device.mtu}"
    if isinstance(device, Vlan):
        link = next((lower for lower in config.devices if lower.id == device.link), None)
        if link and link.mtu is not None and link.mtu < device.mtu:
            yield f"{path_of(device)}.mtu: {device.mtu} is more than the {link.mtu} of {link.id}"


def _bond(bond: Bond) -> Iterator[str]:
    at = f"{path_of(bond)}.parameters"
    given = bond.parameters
    if given.primary and given.primary not in bond.interfaces:
        yield f"{at}.primary: {given.primary} is no member of {bond.id}"
    if given.primary and given.mode not in WITH_PRIMARY:
        yield f"{at}.primary: mode {given.mode} has none"
    if given.lacp_rate and given.mode != "802.3ad":
        yield f"{at}.lacp-rate: mode {given.mode} has none, 802.3ad has"
    if given.transmit_hash_policy and given.mode not in WITH_HASH:
        yield f"{at}.transmit-hash-policy: mode {given.mode} has none"
    if given.arp_interval_ms and given.mii_monitor_interval_ms:
        yield f"{at}: arp-interval and mii-monitor-interval exclude each other"
    if given.arp_interval_ms and given.mode in WITHOUT_ARP:
        yield f"{at}.arp-interval: mode {given.mode} needs mii-monitor-interval instead"
    if bool(given.arp_interval_ms) != bool(given.arp_ip_targets):
        yield f"{at}: arp-interval and arp-ip-targets need each other"
    if any(family_of(target) == 6 for target in given.arp_ip_targets):
        yield f"{at}.arp-ip-targets: takes IPv4 addresses"
    if len(given.arp_ip_targets) > 16:
        yield f"{at}.arp-ip-targets: at most 16"
    if (given.up_delay_ms or given.down_delay_ms) and not given.mii_monitor_interval_ms:
        yield f"{at}: up-delay and down-delay need mii-monitor-interval"


def _bridge(bridge: Bridge) -> Iterator[str]:
    at = f"{path_of(bridge)}.parameters"
    given = bridge.parameters
    limits = (
        ("forward-delay", given.forward_delay_s, 2 if given.stp else 0, 30),
        ("hello-time", given.hello_time_s, 1, 10),
        ("max-age", given.max_age_s, 6, 40),
        ("ageing-time", given.ageing_time_s, 0, 1_000_000),
    )
    for key, value, low, high in limits:
        if value is not None and not low <= value <= high:
            yield f"{at}.{key}: expected {low} to {high} seconds, got {value}"


def _default_routes(config: NetworkConfig) -> Iterator[str]:
    first: dict[tuple[str, int | None], str] = {}
    for device in config.devices:
        for route in device.routes:
            if not route.is_default:
                continue
            key = (route.to, route.metric)
            if key in first:
                yield (
                    f"{path_of(device)}: a second default route to {route.to} beside that of"
                    f" {first[key]}; give them different metrics"
                )
            first.setdefault(key, device.id)


def _addresses_once(config: NetworkConfig) -> Iterator[str]:
    first: dict[str, str] = {}
    for device in config.devices:
        for address in device.addresses:
            host = address.partition("/")[0]
            if host in first:
                yield f"{path_of(device)}.addresses: {first[host]} has {host} already"
            first.setdefault(host, device.id)
