"""systemd-networkd: one .network for each device, one .netdev for each that is made.

Cards are matched by PermanentMACAddress (systemd 245): MACAddress would also match the VLANs and
bridges on a card, and every member of a bond once it has taken on the bond's MAC.
"""

from collections.abc import Iterator

from agent.model.network import (
    AnyDevice,
    Bond,
    Bridge,
    DhcpOverrides,
    Ethernet,
    NetworkConfig,
    Vlan,
)
from agent.network.names import link_files, pins_for
from agent.network.text import fill
from agent.network.tree import File

Pairs = list[tuple[str, str | int]]
FOLDER = "/etc/systemd/network"


def object_to_networkd(config: NetworkConfig) -> Iterator[str]:
    """Yield what networkd's files cannot say."""
    for card in config.ethernets:
        if card.wakeonlan and not card.matched_mac:
            yield f"{card.id}: systemd-networkd needs match.macaddress for wakeonlan"


def render_networkd(config: NetworkConfig, names: dict[str, str]) -> dict[str, File]:
    renamed = [card for card in config.ethernets if card.set_name or card.wakeonlan]
    files = link_files(pins_for(renamed, names))
    for device in config.devices:
        stem = f"{FOLDER}/10-metalcast-{device.id}"
        sections = tuple(_network(config, device))
        files[f"{stem}.network"] = File(fill("networkd.network.j2", {"sections": sections}))
        if not isinstance(device, Ethernet):
            made = tuple(_netdev(device))
            files[f"{stem}.netdev"] = File(fill("networkd.netdev.j2", {"sections": made}))
    return files


def _section(title: str, pairs: Pairs) -> Iterator[tuple[str, Pairs]]:
    if pairs:
        yield title, pairs


def _network(config: NetworkConfig, device: AnyDevice) -> Iterator[tuple[str, Pairs]]:
    yield from _section("Match", _match(device))
    link: Pairs = []
    if device.mtu:
        link.append(("MTUBytes", device.mtu))
    if device.macaddress and isinstance(device, Ethernet):
        link.append(("MACAddress", device.macaddress))
    if device.optional:
        link.append(("RequiredForOnline", "no"))
    yield from _section("Link", link)
    yield from _section("Network", _addressing(config, device))
    for route in device.routes:
        pairs: Pairs = [("Destination", route.to), ("Gateway", route.via)]
        if route.metric is not None:
            pairs.append(("Metric", route.metric))
        if route.on_link:
            pairs.append(("GatewayOnLink", "yes"))
        yield from _section("Route", pairs)
    v4 = _lease(device.dhcp4_overrides) if device.dhcp4 else []
    if device.dhcp4 and device.dhcp_identifier:
        v4.append(("ClientIdentifier", device.dhcp_identifier))
    yield from _section("DHCPv4", v4)
    yield from _lease6(device)


def _match(device: AnyDevice) -> Pairs:
    if not isinstance(device, Ethernet) or not device.match:
        return [("Name", device.id)]
    match = device.match
    pairs: Pairs = []
    if match.macaddress:
        pairs.append(("PermanentMACAddress", match.macaddress))
    elif match.name:
        pairs.append(("Name", match.name))
    return pairs


def _addressing(config: NetworkConfig, device: AnyDevice) -> Pairs:
    pairs: Pairs = []
    master = config.master_of(device.id)
    if master:
        pairs += [("LinkLocalAddressing", "no"), ("IPv6AcceptRA", "no")]
        pairs.append(("Bond" if isinstance(master, Bond) else "Bridge", master.id))
        if isinstance(master, Bond) and master.parameters.primary == device.id:
            pairs.append(("PrimarySlave", "yes"))
        if not isinstance(device, Ethernet):
            pairs.append(("ConfigureWithoutCarrier", "yes"))
        return pairs
    both = {(True, True): "yes", (True, False): "ipv4", (False, True): "ipv6"}
    pairs.append(("DHCP", both.get((device.dhcp4, device.dhcp6), "no")))
    pairs.append(("LinkLocalAddressing", "ipv6"))
    if device.accept_ra is not None:
        pairs.append(("IPv6AcceptRA", "yes" if device.accept_ra else "no"))
    pairs += [("Address", address) for address in device.addresses]
    pairs += [("DNS", address) for address in device.nameservers.addresses]
    if device.nameservers.search:
        pairs.append(("Domains", " ".join(device.nameservers.search)))
    if isinstance(device, Bond | Bridge | Vlan):
        pairs.append(("ConfigureWithoutCarrier", "yes"))
    pairs += [("VLAN", vlan.id) for vlan in config.vlans_on(device.id)]
    return pairs


def _lease(given: DhcpOverrides) -> Pairs:
    pairs: Pairs = []
    if given.route_metric is not None:
        pairs.append(("RouteMetric", given.route_metric))
    if given.use_dns is not None:
        pairs.append(("UseDNS", "yes" if given.use_dns else "no"))
    if given.use_routes is not None:
        pairs.append(("UseRoutes", "yes" if given.use_routes else "no"))
    return pairs


def _lease6(device: AnyDevice) -> Iterator[tuple[str, Pairs]]:
    """DHCPv6 hands out no routes: those come with the router advertisement."""
    given = device.dhcp6_overrides
    if given.use_dns is not None:
        use = "yes" if given.use_dns else "no"
        yield from _section("DHCPv6", [("UseDNS", use)])
    advertised = [(key, value) for key, value in _lease(given) if key != "UseRoutes"]
    if given.use_routes is not None:
        use = "yes" if given.use_routes else "no"
        advertised += [("UseGateway", use), ("UseRoutePrefix", use)]
    yield from _section("IPv6AcceptRA", advertised)


def _netdev(device: AnyDevice) -> Iterator[tuple[str, Pairs]]:
    kind = {Bond: "bond", Bridge: "bridge", Vlan: "vlan"}[type(device)]
    head: Pairs = [("Name", device.id), ("Kind", kind)]
    if device.macaddress:
        head.append(("MACAddress", device.macaddress))
    if device.mtu:
        head.append(("MTUBytes", device.mtu))
    yield "NetDev", head
    if isinstance(device, Bond):
        yield "Bond", _bond(device)
    elif isinstance(device, Bridge):
        yield "Bridge", _bridge(device)
    elif isinstance(device, Vlan):
        yield "VLAN", [("Id", device.vlan_id)]


def _bond(device: Bond) -> Pairs:
    given = device.parameters
    wanted: tuple[tuple[str, str | int | None], ...] = (
        ("Mode", given.mode),
        ("MIIMonitorSec", _ms(given.mii_monitor_interval_ms)),
        ("LACPTransmitRate", given.lacp_rate),
        ("TransmitHashPolicy", given.transmit_hash_policy),
        ("MinLinks", given.min_links),
        ("UpDelaySec", _ms(given.up_delay_ms)),
        ("DownDelaySec", _ms(given.down_delay_ms)),
        ("ARPIntervalSec", _ms(given.arp_interval_ms)),
        ("ARPIPTargets", " ".join(given.arp_ip_targets) or None),
    )
    return [(key, value) for key, value in wanted if value is not None]


def _bridge(device: Bridge) -> Pairs:
    given = device.parameters
    wanted: tuple[tuple[str, str | int | None], ...] = (
        ("STP", "yes" if given.stp else "no"),
        ("ForwardDelaySec", given.forward_delay_s),
        ("HelloTimeSec", given.hello_time_s),
        ("MaxAgeSec", given.max_age_s),
        ("AgeingTimeSec", given.ageing_time_s),
        ("Priority", given.priority),
    )
    return [(key, value) for key, value in wanted if value is not None]


def _ms(value: int | None) -> str | None:
    return None if value is None else f"{value}ms"
