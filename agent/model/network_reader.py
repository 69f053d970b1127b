"""From a network-config v2 document to the neutral model, one kind of device a function."""

from collections.abc import Mapping
from typing import Any, Final

from agent.model import network_grammar as grammar
from agent.model.network_grammar import Section
from agent.model.network_values import (
    IPV4_DEFAULT,
    IPV6_DEFAULT,
    Bond,
    BondParameters,
    Bridge,
    BridgeParameters,
    DhcpOverrides,
    Ethernet,
    Match,
    Nameservers,
    NetworkConfig,
    Route,
    Vlan,
    family_of,
)

MAX_DEVICES: Final = 512
MAX_METRIC: Final = 2**32 - 1
RENDERERS: Final = ("networkd", "NetworkManager")
BOND_MODES: Final = (
    "balance-rr",
    "active-backup",
    "balance-xor",
    "broadcast",
    "802.3ad",
    "balance-tlb",
    "balance-alb",
)
HASH_POLICIES: Final = ("layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4", "vlan+srcmac")


def read_network(document: Mapping[str, Any], objections: list[str]) -> NetworkConfig:
    """Return what `document` says; add what is bad in it, word by word, to `objections`."""
    body: Any = document
    if "network" in document:
        for key in document:
            if key != "network":
                objections.append(f"we do not know the key {grammar.shown(key)} beside network")
        body = document["network"]
    if not isinstance(body, Mapping):
        objections.append(f"network: expected a mapping, got {grammar.shown(body)}")
        return NetworkConfig()
    network = Section("network", body, objections)
    version = network.take("version", lambda value: value, None)
    if isinstance(version, bool) or version != 2:
        network.object_to("version", f"expected 2, got {grammar.shown(version)}")
    renderer = network.choice("renderer", RENDERERS)
    config = NetworkConfig(
        renderer=renderer,
        ethernets=tuple(_ethernet(name, at) for name, at in _devices(network, "ethernets")),
        bonds=tuple(_bond(name, at) for name, at in _devices(network, "bonds")),
        bridges=tuple(_bridge(name, at) for name, at in _devices(network, "bridges")),
        vlans=tuple(_vlan(name, at) for name, at in _devices(network, "vlans")),
    )
    network.finish()
    return config


def _devices(network: Section, kind: str) -> list[tuple[str, Section]]:
    """Return the devices of one kind, each with its name; a bad name is left out."""
    found: list[tuple[str, Section]] = []
    group = network.section(kind)
    if group is None:
        return found
    if len(group.data) > MAX_DEVICES:
        group.object_to("", f"{len(group.data)} devices, at most {MAX_DEVICES} are allowed")
        return found
    for key, value in group.data.items():
        try:
            # The id of a matched card is only a word; every other id becomes a kernel name.
            is_word = kind == "ethernets" and isinstance(value, Mapping) and "match" in value
            name = (grammar.device_id if is_word else grammar.interface_name)(grammar.a_string(key))
            data = grammar.a_mapping(value) or {}
        except ValueError as error:
            # ascii() keeps what a name must not hold out of the message, too.
            group.objections.append(f"{group.path}.{grammar.shown(key)}: {error}")
            continue
        found.append((name, Section(f"{group.path}.{name}", data, group.objections)))
    return found


def _ethernet(name: str, at: Section) -> Ethernet:
    match = _match(at)
    set_name = at.text("set-name", grammar.interface_name)
    if set_name and not (match and match.macaddress):
        at.object_to("set-name", "needs match.macaddress, to know which card gets the name")
    wakeonlan = bool(at.flag("wakeonlan"))
    return Ethernet(
        match=match, set_name=set_name, wakeonlan=wakeonlan, **_common(name, at, at.finish)
    )


def _match(at: Section) -> Match | None:
    section = at.section("match")
    if section is None:
        return None
    match = Match(
        macaddress=section.text("macaddress", grammar.mac),
        name=section.text("name", grammar.name_pattern),
    )
    if not section.has("macaddress") and not section.has("name"):
        section.object_to("", "needs macaddress or name; an empty match would take every card")
    if section.has("macaddress") and section.has("name"):
        section.object_to("", "takes macaddress or name, not both")
    section.finish()
    return match


def _bond(name: str, at: Section) -> Bond:
    parameters = BondParameters()
    section = at.section("parameters")
    if section is not None:
        parameters = BondParameters(
            mode=section.choice("mode", BOND_MODES) or "balance-rr",
            mii_monitor_interval_ms=section.take(
                "mii-monitor-interval", grammar.milliseconds, None
            ),
            lacp_rate=section.choice("lacp-rate", ("slow", "fast")),
            transmit_hash_policy=section.choice("transmit-hash-policy", HASH_POLICIES),
            primary=section.text("primary", grammar.device_id),
            min_links=section.number("min-links", 0, 64),
            up_delay_ms=section.take("up-delay", grammar.milliseconds, None),
            down_delay_ms=section.take("down-delay", grammar.milliseconds, None),
            arp_interval_ms=section.take("arp-interval", grammar.milliseconds, None),
            arp_ip_targets=section.texts("arp-ip-targets", grammar.ip_address),
        )
        section.finish()
    interfaces = at.texts("interfaces", grammar.device_id)
    return Bond(interfaces=interfaces, parameters=parameters, **_common(name, at, at.finish))


def _bridge(name: str, at: Section) -> Bridge:
    parameters = BridgeParameters()
    section = at.section("parameters")
    if section is not None:
        stp = section.flag("stp")
        parameters = BridgeParameters(
            stp=True if stp is None else stp,
            forward_delay_s=section.take("forward-delay", grammar.seconds, None),
            hello_time_s=section.take("hello-time", grammar.seconds, None),
            max_age_s=section.take("max-age", grammar.seconds, None),
            ageing_time_s=section.take("ageing-time", grammar.seconds, None),
            priority=section.number("priority", 0, 65535),
        )
        section.finish()
    interfaces = at.texts("interfaces", grammar.device_id)
    return Bridge(interfaces=interfaces, parameters=parameters, **_common(name, at, at.finish))


def _vlan(name: str, at: Section) -> Vlan:
    vlan_id = at.number("id", 1, 4094)
    link = at.text("link", grammar.device_id)
    for key, value in (("id", vlan_id), ("link", link)):
        if value is None and not at.has(key):
            at.object_to(key, "is missing")
    return Vlan(vlan_id=vlan_id or 1, link=link or name, **_common(name, at, at.finish))


def _common(name: str, at: Section, finish: Any) -> dict[str, Any]:
    """Return the fields of every device; `finish` is called when all keys have been read."""
    routes = [*_old_gateways(at), *(_route(section) for section in at.sections("routes"))]
    fields: dict[str, Any] = {
        "id": name,
        "dhcp4": bool(at.flag("dhcp4")),
        "dhcp6": bool(at.flag("dhcp6")),
        "accept_ra": at.flag("accept-ra"),
        "addresses": at.texts("addresses", grammar.interface_address),
        "routes": tuple(route for route in routes if route),
        "nameservers": _nameservers(at),
        "mtu": at.number("mtu", 68, 65535),
        "macaddress": at.text("macaddress", grammar.mac),
        "optional": bool(at.flag("optional")),
        "dhcp_identifier": at.choice("dhcp-identifier", ("mac", "duid")),
        "dhcp4_overrides": _overrides(at, "dhcp4"),
        "dhcp6_overrides": _overrides(at, "dhcp6"),
    }
    finish()
    return fields


def _old_gateways(at: Section) -> list[Route]:
    """Return the default routes that gateway4 and gateway6, long deprecated, stand for."""
    found: list[Route] = []
    for key, family, to in (("gateway4", 4, IPV4_DEFAULT), ("gateway6", 6, IPV6_DEFAULT)):
        via = at.text(key, grammar.ip_address)
        if via and family_of(via) != family:
            at.object_to(key, f"{via} is no IPv{family} address")
        elif via:
            found.append(Route(to=to, via=via))
    return found


def _route(section: Section) -> Route | None:
    to = section.text("to", grammar.destination)
    via = section.text("via", grammar.ip_address)
    for key in ("to", "via"):
        if not section.has(key):
            section.object_to(key, "is missing")
    metric = section.number("metric", 0, MAX_METRIC)
    on_link = bool(section.flag("on-link"))
    section.finish()
    if to is None or via is None:
        return None
    if to == "default":
        to = IPV6_DEFAULT if family_of(via) == 6 else IPV4_DEFAULT
    if family_of(to) != family_of(via):
        section.object_to("via", f"{via} is not of the family of {to}")
        return None
    return Route(to=to, via=via, metric=metric, on_link=on_link)


def _nameservers(at: Section) -> Nameservers:
    section = at.section("nameservers")
    if section is None:
        return Nameservers()
    found = Nameservers(
        addresses=section.texts("addresses", grammar.ip_address),
        search=section.texts("search", grammar.domain),
    )
    section.finish()
    return found


def _overrides(at: Section, client: str) -> DhcpOverrides:
    section = at.section(f"{client}-overrides")
    if section is None:
        return DhcpOverrides()
    found = DhcpOverrides(
        route_metric=section.number("route-metric", 0, MAX_METRIC),
        use_dns=section.flag("use-dns"),
        use_routes=section.flag("use-routes"),
    )
    section.finish()
    if at.data.get(client) is not True:
        section.object_to("", f"makes no sense without {client}: true")
    return found
