"""Every golden tree before the parser of the stack that it is for."""

import ipaddress
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.model.template import NetworkStack
from tests.golden.network.oracles import (
    Sections,
    net_convert,
    nmcli,
    parse_ini,
    program,
    run,
)
from tests.golden.network.trees import CASES, REFUSED, config_of, lay_out, nics_of, stored

IFUPDOWN = [c for c in CASES if REFUSED not in stored(c, NetworkStack.IFUPDOWN)]
IFCFG = [c for c in CASES if REFUSED not in stored(c, NetworkStack.IFCFG)]
NOT_IN_CLOUD_INIT = {"bond-active-backup"}  # it has no arp-ip-targets
SAME_IN_IFCFG = (
    "BOOTPROTO",
    "BRIDGE",
    "DEFROUTE",
    "DOMAIN",
    "DNS1",
    "ETHTOOL_OPTS",
    "GATEWAY",
    "IPADDR",
    "IPADDR1",
    "IPV6ADDR",
    "MASTER",
    "MTU",
    "ONBOOT",
    "SLAVE",
    "STP",
    "VLAN",
)


def netplan_generate(root: Path) -> None:
    done = run([program("netplan"), "generate", "--root-dir", str(root)])
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    assert "Permissions" not in done.stderr


@pytest.mark.parametrize("renderer", ["networkd", "NetworkManager"])
@pytest.mark.parametrize("case", CASES)
def test_netplan_takes_the_tree(case: str, renderer: str, tmp_path: Path) -> None:
    lay_out(case, NetworkStack.NETPLAN, tmp_path)
    (tmp_path / "etc/netplan/00-renderer.yaml").write_text(
        f"network: {{version: 2, renderer: {renderer}}}\n"
    )
    (tmp_path / "etc/netplan/00-renderer.yaml").chmod(0o600)
    netplan_generate(tmp_path)
    made = list((tmp_path / "run").rglob("*.nmconnection" if "M" in renderer else "*.network"))
    assert len(made) == len(config_of(case).devices)


def test_netplan_would_refuse_a_bad_tree(tmp_path: Path) -> None:
    lay_out("dhcp", NetworkStack.NETPLAN, tmp_path)
    path = tmp_path / "etc/netplan/90-metalcast.yaml"
    path.write_text(path.read_text().replace("dhcp4: true", "dhcp4: perhaps"))
    with pytest.raises(AssertionError, match="perhaps"):
        netplan_generate(tmp_path)


@pytest.mark.parametrize("case", CASES)
def test_networkd_is_told_what_netplan_would_tell_it(case: str, tmp_path: Path) -> None:
    lay_out(case, NetworkStack.NETPLAN, tmp_path / "theirs")
    lay_out(case, NetworkStack.NETWORKD, tmp_path / "ours")
    netplan_generate(tmp_path / "theirs")
    ours = {p.name: p for p in (tmp_path / "ours/etc/systemd/network").iterdir()}
    renamed = {card.id for card in config_of(case).ethernets if card.set_name}
    for device in config_of(case).devices:
        for kind in ("network", "netdev"):
            mine = ours.pop(f"10-metalcast-{device.id}.{kind}", None)
            folder = tmp_path / "theirs/run/systemd/network"
            their = folder / f"10-netplan-{device.id}.{kind}"
            assert (mine is not None) == their.exists()
            if mine:
                assert neutral(mine.read_text(), device.id in renamed) == neutral(
                    their.read_text(), True
                ), mine.name
    assert all(name.endswith(".link") for name in ours)


def neutral(text: str, renamed: bool) -> dict[str, list[tuple[str, str]]]:
    """Return a networkd file's sections in one normal form, without what says nothing.

    netplan adds MTU by lease and a metric of 100 to every DHCP section, writes link-layer settings
    of a card into the .link file, repeats a bridge's MAC, and leaves DHCP=no out.
    """
    words = {"true": "yes", "false": "no"}
    found: dict[str, list[tuple[str, str]]] = {}
    sections: Sections = parse_ini(text)
    by_mac = any(key == "PermanentMACAddress" for key, _ in sections.get("Match", []))
    for title, pairs in sections.items():
        title = re.sub(r"^DHCP$", "DHCPv4", title)
        title = re.sub(r"^Route \d+$", "Route", title)
        kept = []
        for key, value in pairs:
            value = words.get(value, value)
            if (key, value) in (("DHCP", "no"), ("UseMTU", "yes"), ("RouteMetric", "100")):
                continue
            if key == "Name" and title == "Match" and by_mac and renamed:
                continue
            if key in ("MACAddress", "MTUBytes") and title in ("Link", "NetDev"):
                continue
            # netplan 1.1 says this to systemd-networkd-wait-online instead.
            if key == "RequiredForOnline":
                continue
            # A member hears no advertisements without a link-local address anyway.
            if key == "IPv6AcceptRA" and ("LinkLocalAddressing", "no") in sections["Network"]:
                continue
            # One section for both protocols there, one each here: they say the same.
            kept.append((key, value))
        if kept and title not in ("DHCPv6", "IPv6AcceptRA"):
            found[title] = sorted(found.get(title, []) + kept)
    return found


def test_ifup_would_refuse_a_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "interfaces"
    path.write_text("auto x\niface x inet static\n  adress 192.0.2.1\n")
    assert ifup(path, tmp_path).returncode != 0


def ifup(interfaces: Path, state: Path) -> subprocess.CompletedProcess[str]:
    words = ["--no-act", "--force", "--all", "--interfaces", str(interfaces)]
    return run([program("ifup"), *words, "--state-dir", str(state)])


@pytest.mark.parametrize("case", IFUPDOWN)
def test_ifup_takes_the_tree(case: str, tmp_path: Path) -> None:
    lay_out(case, NetworkStack.IFUPDOWN, tmp_path)
    path = tmp_path / "etc/network/interfaces"
    # The host's own interfaces.d is none of ours.
    path.write_text(re.sub(r"(?m)^source .*\n", "", path.read_text()))
    state = tmp_path / "state"
    state.mkdir()
    done = ifup(path, state)
    assert done.returncode == 0, done.stderr
    for device in config_of(case).devices:
        for address in device.addresses:
            host = address.partition("/")[0]
            assert re.search(rf"ip (-6 )?addr add {re.escape(host)}/", done.stderr), host
        for route in device.routes:
            assert f"via {route.via} " in done.stderr
        if device.dhcp4:
            assert re.search(r"(dhclient -4|udhcpc|dhcpcd|No DHCP client)", done.stderr)


@pytest.mark.parametrize("case", IFUPDOWN)
def test_ifquery_lists_every_device(case: str, tmp_path: Path) -> None:
    program("ifquery")
    lay_out(case, NetworkStack.IFUPDOWN, tmp_path)
    path = tmp_path / "etc/network/interfaces"
    path.write_text(re.sub(r"(?m)^source .*\n", "", path.read_text()))
    listed = run([program("ifquery"), "--list", "--interfaces", str(path), "--all"]).stdout.split()
    config = config_of(case)
    later = {member for bond in config.bonds for member in bond.interfaces}
    later |= {device.id for device in config.devices if device.optional}
    assert len(listed) == 1 + len(config.devices) - len(later)


@pytest.mark.parametrize("case", CASES)
def test_networkmanager_reads_every_line(case: str, tmp_path: Path) -> None:
    for path in lay_out(case, NetworkStack.NETWORK_MANAGER, tmp_path):
        if path.suffix != ".nmconnection":
            continue
        done = nmcli(path.read_text())
        assert done.returncode == 0, f"{path.name}: {done.stderr}"
        assert not done.stderr, f"{path.name}: {done.stderr}"
        again = parse_ini(newer_words(done.stdout))
        for title, pairs in parse_ini(path.read_text()).items():
            for key, value in pairs:
                if (title, key, value) in NM_DEFAULTS:
                    continue
                assert (key, value) in [
                    (k, v.lower() if "mac" in k else v) for k, v in again[title]
                ]


def newer_words(text: str) -> str:
    """Return a keyfile with the words of NetworkManager 1.46 in their old form, which it reads."""
    return text.replace("\ncontroller=", "\nmaster=").replace("\nport-type=", "\nslave-type=")


NM_DEFAULTS = (
    ("connection", "autoconnect", "true"),
    ("bridge", "stp", "true"),
    ("bridge", "forward-delay", "15"),
    ("bridge", "hello-time", "2"),
    ("bridge", "max-age", "20"),
)
"""What NetworkManager leaves out when it writes."""


def test_networkmanager_would_refuse_a_bad_keyfile() -> None:
    bad = "[connection]\nid=a\ntype=ethernet\n[ipv4]\nmethod=manual\n"
    assert nmcli(bad).returncode != 0


@pytest.mark.parametrize("case", [c for c in IFCFG if c not in NOT_IN_CLOUD_INIT])
def test_cloud_init_writes_the_same_ifcfg(case: str, tmp_path: Path) -> None:
    """Where both write one of `SAME_IN_IFCFG`. cloud-init forgets the metric of a default route."""
    lay_out(case, NetworkStack.NETPLAN, tmp_path / "netplan")
    lay_out(case, NetworkStack.IFCFG, tmp_path / "ours")
    document = tmp_path / "netplan/etc/netplan/90-metalcast.yaml"
    net_convert(document, tmp_path / "theirs", {nic.name: nic.mac for nic in nics_of(case)})
    folder = "etc/sysconfig/network-scripts"
    ours = {key(pairs): pairs for pairs in map(ifcfg, (tmp_path / "ours" / folder).glob("ifcfg-*"))}
    compared = 0
    for path in (tmp_path / "theirs" / folder).glob("ifcfg-*"):
        theirs = ifcfg(path)
        mine = ours[key(theirs)]
        for name in SAME_IN_IFCFG:
            if name in mine and name in theirs:
                assert mine[name] == theirs[name], f"{path.name} {name}"
                compared += 1
        if "NETMASK" in theirs:
            prefix = ipaddress.ip_network(f"0.0.0.0/{theirs['NETMASK']}").prefixlen
            assert mine["PREFIX"] == str(prefix)
        for number in ("", "1"):
            assert (f"IPADDR{number}" in mine) == (f"IPADDR{number}" in theirs)
    assert compared >= 2 * len(config_of(case).devices)


def key(pairs: dict[str, str]) -> str:
    return pairs.get("HWADDR", pairs.get("DEVICE", "")).lower()


def ifcfg(path: Path) -> dict[str, str]:
    lines = (line for line in path.read_text().splitlines() if "=" in line and line[0] != "#")
    return {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}


def test_a_shell_reads_every_ifcfg_file_as_plain_words(tmp_path: Path) -> None:
    """network-scripts source these files: nothing in them may be more than an assignment."""
    shell = shutil.which("sh") or "/bin/sh"
    for case in IFCFG:
        for path in lay_out(case, NetworkStack.IFCFG, tmp_path / case):
            if not path.name.startswith("ifcfg-"):
                continue
            done = run([shell, "-eu", "-c", f"set -a; . {path}; env"])
            assert done.returncode == 0, done.stderr
            for name, value in ifcfg(path).items():
                assert f"{name}={value}\n" in done.stdout
