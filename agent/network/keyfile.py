"""NetworkManager keyfiles: one connection for each device, UUIDs made from the device's id."""

import uuid
from collections.abc import Iterator

from agent.model.network import AnyDevice, Bond, Bridge, Ethernet, NetworkConfig, Route, Vlan
from agent.network.bonding import kernel_options
from agent.network.names import link_files, pins_for
from agent.network.text import fill
from agent.network.tree import File

Pairs = list[tuple[str, str | int]]
FOLDER = "/etc/NetworkManager/system-connections"
NAMESPACE = uuid.UUID("6d657461-6c63-5173-b470-6e6574776f72")
KINDS = {Ethernet: "ethernet", Bond: "bond", Bridge: "bridge", Vlan: "vlan"}


def object_to_keyfile(config: NetworkConfig) -> Iterator[str]:
    """Yield what NetworkManager would not take."""
    for device in config.devices:
        for family in (4, 6):
            servers = device.nameservers.of_family(family)
            if servers and _method(device, family) in ("disabled", "link-local"):
                yield (
                    f"{device.id}: NetworkManager takes the nameserver {servers[0]}"
                    f" only where the interface has IPv{family}"
                )


def render_keyfiles(config: NetworkConfig, names: dict[str, str]) -> dict[str, File]:
    primaries = {bond.parameters.primary for bond in config.bonds}
    renamed = [card for card in config.ethernets if card.set_name or card.id in primaries]
    files = link_files(pins_for(renamed, names))
    for device in config.devices:
        sections = tuple(_connection(config, device, names))
        text = fill("nmconnection.j2", {"sections": sections})
        files[f"{FOLDER}/metalcast-{device.id}.nmconnection"] = File(text, mode=0o600)
    return files


def uuid_of(device_id: str) -> str:
    return str(uuid.uuid5(NAMESPACE, device_id))


def _connection(
    config: NetworkConfig, device: AnyDevice, names: dict[str, str]
) -> Iterator[tuple[str, Pairs]]:
    kind = KINDS[type(device)]
    head: Pairs = [("id", f"metalcast-{device.id}"), ("uuid", uuid_of(device.id)), ("type", kind)]
    by_name = not isinstance(device, Ethernet) or not device.match
    if by_name:
        head.append(("interface-name", device.id))
    head += [("autoconnect", "true"), ("autoconnect-priority", 10)]
    master = config.master_of(device.id)
    if master:
        head += [("master", uuid_of(master.id)), ("slave-type", KINDS[type(master)])]
    yield "connection", head
    wired = _wired(device)
    if wired:
        yield "ethernet", wired
    if isinstance(device, Ethernet) and device.match and not device.match.macaddress:
        yield "match", [("interface-name", f"{device.match.name};")]
    if isinstance(device, Bond):
        yield "bond", list(kernel_options(device, names))
    elif isinstance(device, Bridge):
        yield "bridge", _bridge(device)
    elif isinstance(device, Vlan):
        yield "vlan", [("id", device.vlan_id), ("parent", uuid_of(device.link))]
    if not master:
        yield "ipv4", _ipv4(device)
        yield "ipv6", _ipv6(device)


def _wired(device: AnyDevice) -> Pairs:
    pairs: Pairs = []
    if isinstance(device, Ethernet):
        if device.matched_mac:
            pairs.append(("mac-address", device.matched_mac))
        if device.wakeonlan:
            pairs.append(("wake-on-lan", 64))  # NM_SETTING_WIRED_WAKE_ON_LAN_MAGIC
    if device.macaddress:
        pairs.append(("cloned-mac-address", device.macaddress))
    if device.mtu:
        pairs.append(("mtu", device.mtu))
    return pairs


def _bridge(device: Bridge) -> Pairs:
    given = device.parameters
    wanted: tuple[tuple[str, str | int | None], ...] = (
        ("stp", "true" if given.stp else "false"),
        ("forward-delay", given.forward_delay_s),
        ("hello-time", given.hello_time_s),
        ("max-age", given.max_age_s),
        ("ageing-time", given.ageing_time_s),
        ("priority", given.priority),
    )
    return [(key, value) for key, value in wanted if value is not None]


def _method(device: AnyDevice, family: int) -> str:
    if family == 4:
        if device.dhcp4:
            return "auto"
        return "manual" if device.addresses_of(4) else "disabled"
    if device.accept_ra is True:
        return "auto"
    if device.dhcp6:
        return "dhcp" if device.accept_ra is False else "auto"
    if device.addresses_of(6):
        return "manual"
    # Waiting for an advertisement may fail, which must not take a bond down with it.
    return "auto" if device.accept_ra is None and device.is_configured(4) else "link-local"


def _ipv4(device: AnyDevice) -> Pairs:
    method = _method(device, 4)
    pairs: Pairs = [("method", method)]
    if method != "disabled":
        pairs += _addresses(device, 4)
        if device.dhcp4 and device.dhcp_identifier:
            pairs.append(("dhcp-client-id", device.dhcp_identifier))
    return pairs


def _ipv6(device: AnyDevice) -> Pairs:
    method = _method(device, 6)
    pairs: Pairs = [("method", method)]
    if method != "link-local":
        pairs += _addresses(device, 6)
    return pairs


def _addresses(device: AnyDevice, family: int) -> Pairs:
    pairs: Pairs = []
    for number, address in enumerate(device.addresses_of(family), start=1):
        pairs.append((f"address{number}", address))
    for number, route in enumerate(device.routes_of(family), start=1):
        pairs.append((f"route{number}", _route(route)))
        if route.on_link:
            pairs.append((f"route{number}_options", "onlink=true"))
    servers = device.nameservers.of_family(family)
    if servers:
        pairs.append(("dns", "".join(f"{server};" for server in servers)))
    if device.nameservers.search:
        pairs.append(("dns-search", "".join(f"{name};" for name in device.nameservers.search)))
    overrides = device.dhcp4_overrides if family == 4 else device.dhcp6_overrides
    if overrides.route_metric is not None:
        pairs.append(("route-metric", overrides.route_metric))
    if overrides.use_dns is False:
        pairs.append(("ignore-auto-dns", "true"))
    if overrides.use_routes is False:
        pairs.append(("ignore-auto-routes", "true"))
    return pairs


def _route(route: Route) -> str:
    words = [route.to, route.via]
    if route.metric is not None:
        words.append(str(route.metric))
    return ",".join(words)
