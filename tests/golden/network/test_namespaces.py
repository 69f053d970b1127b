"""ifup and systemd-networkd themselves, on cards of a network namespace."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from agent.model.network import Device
from agent.model.template import NetworkStack
from agent.network import render_network
from tests.golden.network.oracles import missing, program, run
from tests.golden.network.trees import CASES, config_of

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace"),
]
NETWORKD = "/lib/systemd/systemd-networkd"
# Where only addresses and routes matter: not every kernel that runs tests has bonds and VLANs.
PLAIN = ("routes-metrics", "static-v4", "static-v4-v6")

CARDS = """
set -e
mount --make-rprivate /
mount -t tmpfs none /run
# Of this namespace; read-only, it also tells networkd that it need not wait for udev.
mount -t sysfs -o ro none /sys
ip link set lo up
peer=0
for card in $CARDS; do
    peer=$((peer + 1))
    ip link add $card type veth peer name peer$peer
    ip link set peer$peer up
done
"""
IFUP = """
sed '/^source /d' $TREE/etc/network/interfaces > /run/interfaces
mkdir /run/state
ifup --all --interfaces /run/interfaces --state-dir /run/state >&2
"""
NETWORKD_STARTS = """
mkdir -p /run/systemd/network /run/none
if test -d /etc/systemd/network; then mount --bind /run/none /etc/systemd/network; fi
cp $TREE/etc/systemd/network/*.net* /run/systemd/network/
export SYSTEMD_LOG_TARGET=console SYSTEMD_LOG_LEVEL=info
if test $ROUTES = 0; then
    timeout 1 $NETWORKD >&2 || true
else
    timeout 30 $NETWORKD >&2 & networkd=$!
    routes() { { ip -4 route; ip -6 route; } | grep -c "proto static" || true; }
    for turn in $(seq 100); do test $(routes) -lt $ROUTES || break; sleep 0.2; done
    # What it has configured stays when it is stopped.
    kill $networkd
    wait $networkd || true
fi
"""
SHOW = """
echo "[$(ip -json address), $(ip -json -4 route), $(ip -json -6 route)]"
"""


def lay_out(case: str, stack: NetworkStack, root: Path) -> list[str]:
    """Write the tree of `case` as for a machine whose inventory names no card: match by name."""
    for path, file in render_network(config_of(case), stack, ()).files.items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(re.sub(r"PermanentMACAddress=.*", "Name=enx525400123456", file.text))
    names = {
        "enx525400123456" if card.matched_mac else card.id for card in config_of(case).ethernets
    }
    return sorted(names)


def in_namespace(script: str, tree: Path, cards: list[str], routes: int = 0) -> tuple[Any, str]:
    """Return what `ip` shows after `script`, and what was said on stderr.

    networkd gets the time that it needs to set so many `routes`.
    """
    program("ip")
    done = run(
        ["unshare", "--net", "--mount", "sh", "-c", CARDS + script + SHOW],
        TREE=str(tree),
        CARDS=" ".join(cards),
        NETWORKD=NETWORKD,
        ROUTES=str(routes),
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def check(shown: Any, device: Device, name: str) -> None:
    addresses, *routes = shown
    (link,) = (link for link in addresses if link["ifname"] == name)
    found = {f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"] if a["scope"] == "global"}
    assert found == set(device.addresses)
    table = [route for family in routes for route in family if route["dev"] == name]
    for route in device.routes:
        to = "default" if route.is_default else route.to.removesuffix("/32")
        matching = [r for r in table if r["dst"] == to and r.get("gateway") == route.via]
        assert matching, route
        if route.metric is not None:
            assert matching[0]["metric"] == route.metric
    wanted = {route.via for route in device.routes}
    assert {route["gateway"] for route in table if "gateway" in route} == wanted
    if device.mtu:
        assert link["mtu"] == device.mtu


@pytest.mark.parametrize("stack", [NetworkStack.IFUPDOWN, NetworkStack.NETWORKD])
@pytest.mark.parametrize("case", PLAIN)
def test_cards_get_their_addresses_and_routes(
    case: str, stack: NetworkStack, tmp_path: Path
) -> None:
    if stack is NetworkStack.NETWORKD and not Path(NETWORKD).exists():
        missing("systemd-networkd", required=True)
    if stack is NetworkStack.IFUPDOWN:
        program("ifup")
    cards = lay_out(case, stack, tmp_path)
    script = IFUP if stack is NetworkStack.IFUPDOWN else NETWORKD_STARTS
    devices = config_of(case).ethernets
    routes = sum(len(device.routes) for device in devices)
    shown, _ = in_namespace(script, tmp_path, cards, routes)
    for device in devices:
        check(shown, device, "enx525400123456" if device.matched_mac else device.id)


def complaints(said: str) -> list[str]:
    """Return what networkd said about our files, but for which it takes."""
    lines = [line for line in said.splitlines() if "/run/systemd/network/" in line]
    return [line for line in lines if "onfiguring with " not in line]


@pytest.mark.parametrize("case", CASES)
def test_networkd_has_no_complaint_about_a_file(case: str, tmp_path: Path) -> None:
    if not Path(NETWORKD).exists():
        missing("systemd-networkd", required=True)
    lay_out(case, NetworkStack.NETWORKD, tmp_path)
    _, said = in_namespace(NETWORKD_STARTS, tmp_path, [])
    assert not complaints(said)


def test_networkd_would_complain(tmp_path: Path) -> None:
    if not Path(NETWORKD).exists():
        missing("systemd-networkd", required=True)
    lay_out("dhcp", NetworkStack.NETWORKD, tmp_path)
    (path,) = (tmp_path / "etc/systemd/network").glob("*.network")
    path.write_text(path.read_text() + "Adress=192.0.2.1\n")
    _, said = in_namespace(NETWORKD_STARTS, tmp_path, [])
    assert any("Adress" in line for line in complaints(said))


def test_a_bridge_is_made(tmp_path: Path) -> None:
    """With the hooks of bridge-utils, where they are installed."""
    if not shutil.which("brctl", path="/usr/sbin:/sbin"):
        missing("brctl", required=True)
    program("ifup")
    cards = lay_out("bridge-on-ethernet", NetworkStack.IFUPDOWN, tmp_path)
    path = tmp_path / "etc/network/interfaces"
    # No server answers here: the lease is not what this is about.
    path.write_text(path.read_text().replace("inet dhcp", "inet manual"))
    (addresses, *_), _ = in_namespace(IFUP, tmp_path, cards)
    links = {link["ifname"]: link for link in addresses}
    assert links["enx525400123456"]["master"] == "br0"
    assert links["br1"]["addr_info"][0]["local"] == "10.30.0.1"
