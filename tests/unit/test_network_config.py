"""network-config v2 in: what is understood, and what is refused with its path."""

from typing import Any

import pytest

from agent.model.network import (
    BadNetworkConfig,
    Route,
    parse_network_config,
    parse_network_yaml,
)
from agent.model.wire import BadDocument

MAC_1, MAC_2 = "52:54:00:12:34:56", "52:54:00:12:34:57"


def network(**groups: Any) -> dict[str, Any]:
    return {"network": {"version": 2, **groups}}


def card(**keys: Any) -> dict[str, Any]:
    return network(ethernets={"eno1": {key.replace("_", "-"): v for key, v in keys.items()}})


def objections_to(document: Any) -> tuple[str, ...]:
    with pytest.raises(BadNetworkConfig) as caught:
        parse_network_config(document)
    return caught.value.objections


def test_the_top_level_key_may_be_left_out() -> None:
    inner = {"version": 2, "ethernets": {"eno1": {"dhcp4": True}}}
    assert parse_network_config(inner) == parse_network_config({"network": inner})


def test_values_come_in_one_normal_form() -> None:
    config = parse_network_config(
        network(
            ethernets={
                "lan": {
                    "match": {"macaddress": "52:54:00:AB:CD:EF"},
                    "addresses": ["2001:DB8:0:0::5/64", "192.0.2.5/24"],
                    "gateway4": "192.0.2.1",
                    "routes": [{"to": "default", "via": "2001:0db8::1", "metric": 5}],
                }
            }
        )
    )
    found = config.ethernets[0]
    assert found.matched_mac == "52:54:00:ab:cd:ef"
    assert found.addresses == ("2001:db8::5/64", "192.0.2.5/24")
    assert found.routes == (
        Route(to="0.0.0.0/0", via="192.0.2.1"),
        Route(to="::/0", via="2001:db8::1", metric=5),
    )


def test_yaml_reads_a_bare_mac_as_a_mac() -> None:
    text = f"version: 2\nethernets: {{a1: {{match: {{macaddress: {MAC_1}}}, dhcp4: on}}}}"
    assert parse_network_yaml(text).ethernets[0].matched_mac == MAC_1


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("version: 2\nversion: 2\n", "twice"),
        ("version: &a 2\nethernets: *a\n", "aliases are not allowed"),
        ("- version\n", "expected a mapping"),
        ("version: [\n", "not YAML"),
        ("!!python/object/apply:os.system ['true']\n", "not YAML"),
        ("[" * 5000, "not YAML"),
        ("version: 2\nethernets: {\n  ? [a]\n  : {}}\n", "no plain word"),
        ("#" * 300_000, "more than"),
        ("", "expected a mapping"),
        ("version: 2\x00", "not YAML"),
    ],
)
def test_yaml_that_plays_tricks_is_refused(text: str, what: str) -> None:
    with pytest.raises(BadDocument, match=what):
        parse_network_yaml(text)


def test_every_objection_comes_at_once_and_says_where() -> None:
    document = network(
        ethernets={"eno1": {"dhcp4": "yes", "mtu": 12, "color": "blue"}},
        bonds={"bond0": {"interfaces": ["eno1", "a;b"], "parameters": {"mode": "fast"}}},
        vlans={"v1": {"id": 4095}},
    )
    assert objections_to(document) == (
        "network.ethernets.eno1.dhcp4: expected true or false, got 'yes'",
        "network.ethernets.eno1.mtu: expected a number from 68 to 65535, got 12",
        "network.ethernets.eno1: we do not know the key 'color'",
        "network.bonds.bond0.parameters.mode: expected one of balance-rr, active-backup,"
        " balance-xor, broadcast, 802.3ad, balance-tlb, balance-alb, got 'fast'",
        "network.bonds.bond0.interfaces[1]: not a name for a device: 'a;b'",
        "network.vlans.v1.id: expected a number from 1 to 4094, got 4095",
        "network.vlans.v1.link: is missing",
    )


@pytest.mark.parametrize(
    ("document", "what"),
    [
        ({"network": {"version": 1}}, "network.version: expected 2, got 1"),
        ({"network": {"ethernets": {}}}, "network.version: expected 2, got None"),
        ({"network": {"version": True}}, "network.version"),
        ({"network": {"version": 2}, "storage": {}}, "'storage' beside network"),
        (network(), "no device"),
        (network(wifis={}), "we do not know the key 'wifis'"),
        (network(ethernets=[]), "network.ethernets: expected a mapping, got []"),
        (network(ethernets={"eno1": None}), "network.ethernets.'eno1': expected a mapping"),
        (network(ethernets={7: {}}), "network.ethernets.7: expected text"),
        (network(ethernets={"lo": {}}), "not the name of an interface: 'lo'"),
        (network(ethernets={"a234567890123456": {}}), "not the name of an interface"),
        (network(ethernets={"eth0:1": {}}), "not the name of an interface"),
        (card(dhcp4=None), "dhcp4: expected true or false, got None"),
        (card(addresses="192.0.2.1/24"), "addresses: expected a list"),
        (card(addresses=["192.0.2.1"]), "addresses[0]: not an address with a prefix length"),
        (card(addresses=["192.0.2.1/255.255.255.0"]), "addresses[0]"),
        (card(addresses=["192.0.2.1/33"]), "too long"),
        (card(addresses=["192.0.2.0/24"]), "the network 192.0.2.0/24 itself"),
        (card(addresses=["192.0.2.255/24"]), "broadcast address"),
        (card(addresses=["127.0.0.1/8"]), "loopback"),
        (card(addresses=["224.0.0.5/24"]), "not the address of one host"),
        (card(addresses=["fe80::1%eth0/64"]), "not an IP address"),
        (card(addresses=["192.0.2.1/24", "192.0.2.1/24"]), "addresses[1]: 192.0.2.1/24 is there"),
        (card(gateway4="192.0.2.1"), "needs an IPv4 address"),
        (card(addresses=["192.0.2.5/24"], gateway4="192.0.3.1"), "in no network"),
        (card(addresses=["192.0.2.5/24"], gateway4="192.0.2.5"), "own address"),
        (card(gateway4="2001:db8::1"), "gateway4: 2001:db8::1 is no IPv4 address"),
        (card(addresses=["192.0.2.5/24"], gateway6="2001:db8::1"), "needs an IPv6 address"),
        (card(routes=[{"to": "10.0.0.0/8"}]), "routes[0].via: is missing"),
        (card(routes=[{"to": "10.0.0.1/8", "via": "10.0.0.9"}]), "did you mean 10.0.0.0/8"),
        (card(routes=[{"to": "10.0.0.0/8", "via": "::1:1"}]), "not of the family"),
        (card(routes=["default"]), "routes[0]: expected a mapping"),
        (card(macaddress="01:00:5e:00:00:01"), "group address"),
        (card(macaddress="00:00:00:00:00:00"), "nobody's MAC"),
        (card(nameservers={"addresses": ["dns.example"]}), "nameservers.addresses[0]"),
        (card(nameservers={"search": ["-a.example"]}), "nameservers.search[0]"),
        (card(mtu=1000, dhcp6=True), "IPv6 needs at least 1280"),
        (card(match={}), "needs macaddress or name"),
        (card(match={"macaddress": MAC_1, "name": "eno1"}), "not both"),
        (card(set_name="lan0"), "needs match.macaddress"),
        (card(dhcp4_overrides={"use-dns": False}), "without dhcp4: true"),
        (network(ethernets={"eno1": {}}, bonds={"eno1": {"interfaces": []}}), "are called eno1"),
        (network(bonds={"bond0": {"interfaces": []}}), "a bond needs a member"),
        (
            network(bonds={"bond0": {"interfaces": ["eno1"]}}),
            "network.bonds.bond0.interfaces[0]: eno1 is not configured here",
        ),
    ],
)
def test_a_bad_document_says_where_it_is_bad(document: Any, what: str) -> None:
    assert any(what in objection for objection in objections_to(document))


TWO: dict[str, Any] = {"eno1": {}, "eno2": {}}


def bond(**parameters: Any) -> dict[str, Any]:
    named = {key.replace("_", "-"): value for key, value in parameters.items()}
    return network(
        ethernets=TWO, bonds={"bond0": {"interfaces": ["eno1", "eno2"], "parameters": named}}
    )


@pytest.mark.parametrize(
    ("document", "what"),
    [
        (bond(mode="802.3ad", primary="eno1"), "primary: mode 802.3ad has none"),
        (bond(mode="active-backup", primary="eno3"), "eno3 is no member"),
        (bond(lacp_rate="fast"), "lacp-rate: mode balance-rr has none"),
        (bond(mode="active-backup", transmit_hash_policy="layer2"), "transmit-hash-policy"),
        (bond(mode="802.3ad", arp_interval=100, arp_ip_targets=["192.0.2.1"]), "needs mii"),
        (bond(arp_interval=100), "need each other"),
        (bond(up_delay=100), "need mii-monitor-interval"),
        (bond(mii_monitor_interval="fast"), "a time in milliseconds"),
        (bond(mii_monitor_interval=-1), "a time in milliseconds"),
        (bond(mii_monitor_interval=True), "a time in milliseconds"),
        (
            network(
                ethernets={"a1": {"match": {"macaddress": MAC_1}, "dhcp4": True}, "eno2": {}}
                | {"a2": {"match": {"macaddress": MAC_1.upper()}}}
            ),
            f"network.ethernets.a2.match: a1 matches {MAC_1} already",
        ),
        (
            network(ethernets={"eno1": {"macaddress": MAC_1}, "eno2": {"macaddress": MAC_1}}),
            "eno1 takes it on already",
        ),
        (
            network(
                ethernets={
                    "a1": {"match": {"macaddress": MAC_1}, "set-name": "lan0"},
                    "a2": {"match": {"macaddress": MAC_2}, "set-name": "lan0"},
                }
            ),
            "a1 has the name lan0 already",
        ),
        (
            network(ethernets={"eno1": {"dhcp4": True}}, bonds={"bond0": {"interfaces": ["eno1"]}}),
            "network.ethernets.eno1: belongs to bond0",
        ),
        (
            network(
                ethernets={"eno1": {}},
                bonds={"bond0": {"interfaces": ["eno1"]}},
                bridges={"br0": {"interfaces": ["eno1"]}},
            ),
            "network.bridges.br0.interfaces[0]: eno1 belongs to bond0 already",
        ),
        (
            network(
                ethernets={"eno1": {}},
                bonds={"bond0": {"interfaces": ["eno1"]}},
                vlans={"v1": {"id": 1, "link": "eno1"}},
            ),
            "network.vlans.v1.link: eno1 belongs to bond0",
        ),
        (
            network(ethernets=TWO, vlans={n: {"id": 5, "link": "eno1"} for n in ("v1", "v2")}),
            "network.vlans.v2.id: v1 has id 5 on eno1 already",
        ),
        (network(vlans={"v1": {"id": 1, "link": "v1"}}), "stand on each other"),
        (
            network(
                bridges={"br0": {"interfaces": ["v1"]}}, vlans={"v1": {"id": 1, "link": "br0"}}
            ),
            "stand on each other",
        ),
        (
            network(
                ethernets={"eno1": {"mtu": 1500}},
                vlans={"v1": {"id": 1, "link": "eno1", "mtu": 9000}},
            ),
            "9000 is more than the 1500 of eno1",
        ),
        (network(bridges={"br0": {"parameters": {"forward-delay": 1}}}), "forward-delay"),
        (
            network(
                ethernets={
                    "eno1": {"addresses": ["192.0.2.5/24"], "gateway4": "192.0.2.1"},
                    "eno2": {"addresses": ["192.0.3.5/24"], "gateway4": "192.0.3.1"},
                }
            ),
            "network.ethernets.eno2: a second default route",
        ),
        (
            network(ethernets={name: {"addresses": ["192.0.2.5/24"]} for name in TWO}),
            "network.ethernets.eno2.addresses: eno1 has 192.0.2.5 already",
        ),
    ],
)
def test_devices_that_do_not_fit_together_are_refused(document: Any, what: str) -> None:
    assert any(what in objection for objection in objections_to(document))


def test_a_gateway_may_be_outside_where_that_is_meant() -> None:
    on_link = [{"to": "default", "via": "203.0.113.1", "on-link": True}]
    for document in (
        card(addresses=["192.0.2.5/32"], routes=on_link),
        card(addresses=["2001:db8::5/64"], gateway6="fe80::1"),
        card(dhcp4=True, routes=[{"to": "10.0.0.0/8", "via": "192.0.2.9"}]),
    ):
        assert parse_network_config(document).ethernets[0].routes


def test_two_default_routes_with_metrics_are_fine() -> None:
    def routes(via: str, metric: int) -> list[dict[str, Any]]:
        return [{"to": "default", "via": via, "metric": metric}]

    config = parse_network_config(
        network(
            ethernets={
                "eno1": {"addresses": ["192.0.2.5/24"], "routes": routes("192.0.2.1", 100)},
                "eno2": {"addresses": ["192.0.3.5/24"], "routes": routes("192.0.3.1", 200)},
            }
        )
    )
    assert [device.routes[0].metric for device in config.devices] == [100, 200]
