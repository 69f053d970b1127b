"""From model to files: names, refusals, fences. The trees are in tests/golden/network."""

from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import agent
from agent.errors import AgentError, PlanRefused
from agent.model import places
from agent.model.inventory import Nic
from agent.model.network import (
    Ethernet,
    Match,
    Nameservers,
    NetworkConfig,
    parse_network_config,
    parse_network_yaml,
)
from agent.model.places import find_templates
from agent.model.template import NetworkStack
from agent.network import (
    default_network,
    is_stale,
    missing_cards,
    render_network,
    stale_paths,
)
from agent.network.text import fill

MAC = "52:54:00:12:34:56"


def make_nic(name: str = "enp1s0", mac: str = MAC, **more: Any) -> Nic:
    given: dict[str, Any] = {"name": name, "mac": mac, "driver": "virtio_net", "link": True}
    return Nic(**(given | more))


def by_mac(**keys: Any) -> NetworkConfig:
    card = {"match": {"macaddress": MAC}, "dhcp4": True, **keys}
    return parse_network_config({"version": 2, "ethernets": {"lan": card}})


def text_of(config: NetworkConfig, stack: NetworkStack, *nics: Nic) -> str:
    files = render_network(config, stack, nics).files
    return "\n".join(f"## {path}\n{file.text}" for path, file in files.items())


def test_the_default_is_dhcp_on_the_card_that_booted() -> None:
    other = make_nic("enp9s0", "52:54:00:00:00:09")
    config = default_network([other, make_nic(boot=True, link=False)])
    assert config.ethernets == (
        Ethernet(id="boot", match=Match(macaddress=MAC), dhcp4=True, accept_ra=True),
    )
    assert default_network([make_nic(link=False), other]).ethernets[0].matched_mac == other.mac


def test_there_is_no_default_without_a_card() -> None:
    with pytest.raises(AgentError, match="no network card"):
        default_network([])


@pytest.mark.parametrize("stack", NetworkStack)
def test_the_default_names_the_mac_in_every_stack(stack: NetworkStack) -> None:
    assert MAC in text_of(default_network([make_nic()]), stack, make_nic()).lower()


def test_ifupdown_pins_the_name_that_the_card_has() -> None:
    text = text_of(by_mac(), NetworkStack.IFUPDOWN, make_nic("ens7"))
    assert "iface ens7 inet dhcp" in text
    assert "Name=ens7" in text


@pytest.mark.parametrize("nics", [(), (make_nic("eth0"),)])
def test_ifupdown_names_a_card_by_its_mac_when_it_has_no_lasting_name(nics: tuple[Nic]) -> None:
    assert "iface enx525400123456 inet dhcp" in text_of(by_mac(), NetworkStack.IFUPDOWN, *nics)


def test_a_name_of_the_inventory_means_that_card() -> None:
    config = parse_network_yaml("version: 2\nethernets: {ens7: {dhcp4: true}}")
    text = text_of(config, NetworkStack.NETWORKD, make_nic("ens7"))
    assert f"PermanentMACAddress={MAC}" in text
    assert "PermanentMACAddress" not in text_of(config, NetworkStack.NETWORKD, make_nic("ens8"))


def test_a_card_that_the_machine_lacks_is_named() -> None:
    assert missing_cards(by_mac(), [make_nic()]) == ()
    (objection,) = missing_cards(by_mac(), [make_nic(mac="52:54:00:00:00:01")])
    assert objection == (
        f"network.ethernets.lan: the machine has no card {MAC}; it has enp1s0 52:54:00:00:00:01"
    )


@pytest.mark.parametrize(
    ("stack", "keys", "what"),
    [
        (NetworkStack.IFUPDOWN, {"dhcp4-overrides": {"use-dns": False}}, "leave out parts"),
        (NetworkStack.IFUPDOWN, {"dhcp-identifier": "duid"}, "duid"),
        (
            NetworkStack.IFUPDOWN,
            {"dhcp6": True, "dhcp6-overrides": {"route-metric": 1}},
            "metric of dhcp6",
        ),
        (NetworkStack.IFUPDOWN, {"match": {"name": "en*"}}, "pattern en*"),
        (NetworkStack.IFCFG, {"match": {"name": "en*"}}, "pattern en*"),
        (NetworkStack.IFCFG, {"dhcp-identifier": "duid"}, "duid"),
        (NetworkStack.NETWORKD, {"match": {"name": "en1"}, "wakeonlan": True}, "wakeonlan"),
        (NetworkStack.NETWORK_MANAGER, {"dhcp4": False, "dhcp6": True}, "192.0.2.53"),
        (NetworkStack.NETPLAN, {"dhcp6": True, "dhcp4-overrides": {"use-dns": False}}, "the same"),
    ],
)
def test_what_a_stack_cannot_say_is_refused(
    stack: NetworkStack, keys: dict[str, Any], what: str
) -> None:
    config = by_mac(nameservers={"addresses": ["192.0.2.53"]}, **keys)
    with pytest.raises(PlanRefused, match=what.replace("*", r"\*")):
        render_network(config, stack, ())


@pytest.mark.parametrize("stack", NetworkStack)
def test_secrets_and_cloud_init(stack: NetworkStack) -> None:
    files = render_network(by_mac(), stack, (make_nic(),)).files
    disabled = files["/etc/cloud/cloud.cfg.d/99-metalcast-network.cfg"]
    assert disabled.text.endswith("network: {config: disabled}\n")
    assert disabled.only_if == "/etc/cloud/cloud.cfg.d"
    for path, file in files.items():
        private = path.startswith(("/etc/netplan/", "/etc/NetworkManager/"))
        assert file.mode == (0o600 if private else 0o644)


def test_resolv_conf_is_written_for_ifupdown_alone_and_not_through_a_link() -> None:
    config = by_mac(nameservers={"addresses": ["192.0.2.53"], "search": ["a.example", "b.example"]})
    file = render_network(config, NetworkStack.IFUPDOWN, ()).files["/etc/resolv.conf"]
    assert file.text.endswith("search a.example b.example\nnameserver 192.0.2.53\n")
    assert file.keep_link
    for stack in set(NetworkStack) - {NetworkStack.IFUPDOWN}:
        assert "/etc/resolv.conf" not in render_network(config, stack, ()).files


def test_what_the_captured_system_must_hold_is_said() -> None:
    config = parse_network_yaml(
        "version: 2\nethernets: {eno1: {}}\nbonds: {bond0: {interfaces: [eno1]}}"
        "\nbridges: {br0: {}}"
    )
    needs = dict(render_network(config, NetworkStack.IFUPDOWN, ()).needs)
    assert needs["/etc/network/if-pre-up.d/ifenslave"] == "bond0 needs the package ifenslave"
    assert "/etc/network/if-pre-up.d/bridge" in needs


@pytest.mark.parametrize("stack", NetworkStack)
def test_what_we_write_would_be_stale_on_the_next_target(stack: NetworkStack) -> None:
    """A template made of a deployed system must not carry its addresses on."""
    ours = render_network(by_mac(), stack, (make_nic(),)).files
    for path, file in ours.items():
        if file.only_if is None:
            assert is_stale(path, stack), path


@pytest.mark.parametrize(
    ("path", "stack", "stale"),
    [
        ("/etc/sysconfig/network-scripts/ifcfg-eth0", NetworkStack.IFCFG, True),
        ("/etc/sysconfig/network-scripts/ifcfg-lo", NetworkStack.IFCFG, False),
        ("/etc/sysconfig/network-scripts/ifup-eth", NetworkStack.IFCFG, False),
        ("/etc/sysconfig/network-scripts/ifcfg-eth0", NetworkStack.NETWORK_MANAGER, True),
        ("/etc/network/interfaces.d/50-cloud-init", NetworkStack.IFUPDOWN, True),
        ("/etc/network/if-up.d/ip", NetworkStack.IFUPDOWN, False),
        ("/etc/network/interfaces.d/sub/file", NetworkStack.IFUPDOWN, False),
        ("/etc/netplan/50-cloud-init.yaml", NetworkStack.NETPLAN, True),
        ("/etc/systemd/network/99-default.link", NetworkStack.NETWORKD, False),
        ("/etc/systemd/network/10-lan.link", NetworkStack.IFCFG, True),
    ],
)
def test_stale_files(path: str, stack: NetworkStack, stale: bool) -> None:
    assert is_stale(path, stack) is stale
    assert all(glob.startswith("/etc/") for glob in stale_paths(stack))


@settings(deadline=None)
@given(poison=st.characters(categories=["Cc", "Zl", "Zp", "Cf"]))
def test_no_template_prints_a_value_that_starts_a_line(poison: str) -> None:
    """The last fence, for a model that did not come from the parser."""
    servers = Nameservers(search=(f"a{poison}b",))
    config = NetworkConfig(ethernets=(Ethernet(id="eno1", dhcp4=True, nameservers=servers),))
    for stack in NetworkStack:
        with pytest.raises(ValueError):
            render_network(config, stack, ())


def test_a_value_is_never_a_template() -> None:
    assert fill("ifcfg.j2", {"pairs": [("KEY", "{{ 7 * 7 }}")]}).endswith("KEY={{ 7 * 7 }}\n")


def test_a_missing_name_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        fill("ifcfg.j2", {})


def test_templates_are_found_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "network").mkdir()
    monkeypatch.setenv("METALCAST_TEMPLATES", str(tmp_path))
    assert find_templates() == tmp_path
    monkeypatch.setenv("METALCAST_TEMPLATES", str(tmp_path / "nowhere"))
    with pytest.raises(AgentError, match="the text that we render is not in"):
        find_templates()


def test_templates_are_found_beside_the_package_and_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("METALCAST_TEMPLATES", raising=False)
    assert (find_templates() / "network/netplan.yaml.j2").is_file()
    monkeypatch.setattr(agent, "__file__", str(tmp_path / "agent/__init__.py"))
    (tmp_path / "share/network").mkdir(parents=True)
    monkeypatch.setattr(places, "INSTALLED", tmp_path / "share")
    assert find_templates() == tmp_path / "share"
