"""From the neutral model back to a network-config v2 document."""

from typing import Any

from agent.model.network_values import (
    AnyDevice,
    Bond,
    BondParameters,
    Bridge,
    BridgeParameters,
    DhcpOverrides,
    Ethernet,
    NetworkConfig,
    Route,
    Vlan,
)


def network_document(config: NetworkConfig) -> dict[str, Any]:
    """Return `config` as a network-config v2 document; parsing that gives `config` again.

    A default route is written as 0.0.0.0/0 or ::/0, which every netplan reads; `to: default` needs
    a new one.
    """
    network: dict[str, Any] = {"version": 2}
    if config.renderer:
        network["renderer"] = config.renderer
    groups: tuple[tuple[str, tuple[AnyDevice, ...]], ...] = (
        ("ethernets", config.ethernets),
        ("bonds", config.bonds),
        ("bridges", config.bridges),
        ("vlans", config.vlans),
    )
    for group, devices in groups:
        if devices:
            network[group] = {device.id: _device(device) for device in devices}
    return {"network": network}


def _given(pairs: dict[str, Any]) -> dict[str, Any]:
    """Return what is said at all: no None, no empty list or mapping."""
    return {key: value for key, value in pairs.items() if value not in (None, [], {})}


def _device(device: AnyDevice) -> dict[str, Any]:
    own: dict[str, Any] = {}
    if isinstance(device, Ethernet):
        match = device.match
        own = {
            "match": _given({"macaddress": match.macaddress, "name": match.name}) if match else {},
            "set-name": device.set_name,
            "wakeonlan": device.wakeonlan or None,
        }
    elif isinstance(device, Bond):
        own = {"interfaces": list(device.interfaces), "parameters": _bond(device.parameters)}
    elif isinstance(device, Bridge):
        own = {"parameters": _bridge(device.parameters)}
    elif isinstance(device, Vlan):
        own = {"id": device.vlan_id, "link": device.link}
    common = {
        "dhcp4": device.dhcp4,
        "dhcp6": device.dhcp6,
        "dhcp-identifier": device.dhcp_identifier,
        "dhcp4-overrides": _overrides(device.dhcp4_overrides),
        "dhcp6-overrides": _overrides(device.dhcp6_overrides),
        "accept-ra": device.accept_ra,
        "addresses": list(device.addresses),
        "routes": [_route(route) for route in device.routes],
        "nameservers": _given(
            {
                "addresses": list(device.nameservers.addresses),
                "search": list(device.nameservers.search),
            }
        ),
        "mtu": device.mtu,
        "macaddress": device.macaddress,
        "optional": device.optional or None,
    }
    found = _given(own | common)
    if isinstance(device, Bridge):
        # An empty list stays: netplan wants to see that a bridge has no port.
        found = {"interfaces": list(device.interfaces)} | found
    return found


def _bond(given: BondParameters) -> dict[str, Any]:
    return _given(
        {
            "mode": given.mode,
            "mii-monitor-interval": given.mii_monitor_interval_ms,
            "lacp-rate": given.lacp_rate,
            "transmit-hash-policy": given.transmit_hash_policy,
            "primary": given.primary,
            "min-links": given.min_links,
            "up-delay": given.up_delay_ms,
            "down-delay": given.down_delay_ms,
            "arp-interval": given.arp_interval_ms,
            "arp-ip-targets": list(given.arp_ip_targets),
        }
    )


def _bridge(given: BridgeParameters) -> dict[str, Any]:
    return _given(
        {
            "stp": given.stp,
            "forward-delay": given.forward_delay_s,
            "hello-time": given.hello_time_s,
            "max-age": given.max_age_s,
            "ageing-time": given.ageing_time_s,
            "priority": given.priority,
        }
    )


def _overrides(given: DhcpOverrides) -> dict[str, Any]:
    return _given(
        {
            "route-metric": given.route_metric,
            "use-dns": given.use_dns,
            "use-routes": given.use_routes,
        }
    )


def _route(route: Route) -> dict[str, Any]:
    return _given(
        {
            "to": route.to,
            "via": route.via,
            "metric": route.metric,
            "on-link": route.on_link or None,
        }
    )
