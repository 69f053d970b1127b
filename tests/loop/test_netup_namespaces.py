"""The network comes up against a real DHCP server, in network namespaces of our own."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

_MAC = "52:54:00:00:00:0"
_CLIENT = """
import json, sys
from pathlib import Path
from agent.bootargs import parse_bootargs
from agent.errors import AgentError
from agent.probe.network import probe_links, probe_nics
from agent.probe.tree import Tree
from agent.model.inventory import Nic
from agent.system import dhcp, netup
from agent.system.command import Run

class VethTree(Tree):
    # a veth pair has no device behind it, which is what makes an interface hardware
    def target(self, path):
        return super().target(path.removesuffix("/device"))

dhcp.RUN_DIR = Path(sys.argv[2])
netup.CARRIER_WAIT_S, netup.DHCP_WAIT_S, netup.DHCP_WAIT_OTHERS_S, netup.NICS_WAIT_S = 2, 8, 8, 1
netup.ask_dhcp.__defaults__ = (Path(sys.argv[2]),)
notes = []
find = lambda: [n for n in probe_nics(VethTree(), probe_links()) if n.name.startswith("n")]
try:
    ups = netup.bring_network_up(
        Run(), parse_bootargs(sys.argv[1]), find,
        note=notes.append, resolv_conf=Path(sys.argv[2]) / "resolv.conf",
    )
    answer = {"ups": [[up.device, up.lease.address] for up in ups]}
except AgentError as error:
    answer = {"error": str(error), "hint": error.hint}
print(json.dumps({**answer, "notes": notes}))
"""


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
    return done.stdout


@dataclass
class Wires:
    """Two namespaces, `server` and `client`, with two pairs of virtual cables: s0-n0, s1-n1."""

    server: str
    client: str
    folder: Path

    def start_dhcp(self, *options: str) -> None:
        ip("-n", self.server, "addr", "add", "10.9.0.1/24", "dev", "s0")
        self._dnsmasq("s0", "10.9.0.100,10.9.0.199,255.255.255.0,2m", *options)

    def _dnsmasq(self, device: str, pool: str, *options: str) -> None:
        words = ["dnsmasq", "--conf-file=/dev/null", "--port=0", f"--interface={device}"]
        words += ["--bind-interfaces", f"--dhcp-range={pool}", "--no-ping", "--user=root"]
        words += [f"--dhcp-leasefile={self.folder}/leases", f"--pid-file={self.folder}/dnsmasq.pid"]
        subprocess.run(["ip", "netns", "exec", self.server, *words, *options], check=True)

    def bring_up(self, cmdline: str) -> dict[str, Any]:
        words = [sys.executable, "-c", _CLIENT, cmdline, str(self.folder)]
        done = subprocess.run(
            ["ip", "netns", "exec", self.client, *words],
            check=True, capture_output=True, text=True, timeout=90,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def shown(self, *words: str) -> str:
        return ip("-n", self.client, *words)

    @property
    def resolv_conf(self) -> str:
        return (self.folder / "resolv.conf").read_text()


@pytest.fixture
def wires(tmp_path: Path) -> Iterator[Wires]:
    for program in ("dnsmasq", "busybox", "ip"):
        if not shutil.which(program):
            assert "CI" not in os.environ, f"{program} is missing"
            pytest.skip(f"{program} is missing")
    if os.geteuid() != 0:
        pytest.skip("needs root")
    found = Wires(f"mcs{os.getpid()}", f"mcc{os.getpid()}", tmp_path)
    ip("netns", "add", found.server)
    ip("netns", "add", found.client)
    try:
        for n in "01":
            ip("link", "add", f"s{n}", "netns", found.server, "type", "veth", "peer", "name",
               f"n{n}", "netns", found.client, "address", f"{_MAC}{n}")  # fmt: skip
            ip("-n", found.server, "link", "set", f"s{n}", "up")
        yield found
    finally:
        for pid in tmp_path.glob("*.pid"):
            subprocess.run(["kill", pid.read_text().strip()], check=False)
        ip("netns", "del", found.server)
        ip("netns", "del", found.client)


def test_dhcp_sets_address_route_and_name_server(wires: Wires) -> None:
    wires.start_dhcp("--dhcp-option=3,10.9.0.254", "--dhcp-option=6,10.9.0.53,10.9.0.54",
                     "--domain=example.test", "--dhcp-option=26,1400")  # fmt: skip
    answer = wires.bring_up("BOOTIF=01-52-54-00-00-00-00 ip=dhcp")
    [[device, address]] = answer["ups"]
    assert device == "n0"
    assert address.startswith("10.9.0.1")
    assert address.endswith("/24")
    assert address in wires.shown("addr", "show", "dev", "n0")
    assert "default via 10.9.0.254 dev n0" in wires.shown("route")
    assert "mtu 1400" in wires.shown("link", "show", "n0")
    assert wires.resolv_conf == (
        "search example.test\nnameserver 10.9.0.53\nnameserver 10.9.0.54\n"
    )


def test_the_lease_is_renewed_by_a_process_that_stays(wires: Wires) -> None:
    wires.start_dhcp()
    wires.bring_up("ip=dhcp BOOTIF=01-52-54-00-00-00-00")
    pid = (wires.folder / "n0.pid").read_text().strip()
    assert b"udhcpc" in Path(f"/proc/{pid}/cmdline").read_bytes()
    (wires.folder / "n0.lease").unlink()
    os.kill(int(pid), 10)  # USR1: renew now
    deadline = time.monotonic() + 10
    while not (wires.folder / "n0.lease").exists():
        assert time.monotonic() < deadline, "no renewed lease"
        time.sleep(0.1)


def test_without_bootif_the_interface_that_is_answered_wins(wires: Wires) -> None:
    wires.start_dhcp()
    wires.shown("link", "set", "n1", "up")
    answer = wires.bring_up("BOOTIF=01-52-54-00-00-00-01")  # wired to nobody who answers
    assert answer["ups"][0][0] == "n0"
    assert answer["notes"][1] == "n1: link is up, no DHCP answer in 8 s"


def test_classless_routes_replace_the_router(wires: Wires) -> None:
    wires.start_dhcp("--dhcp-option=3,10.9.0.254", "--dhcp-option=121,172.16.0.0/12,10.9.0.7")
    wires.bring_up("ip=dhcp BOOTIF=01-52-54-00-00-00-00")
    routes = wires.shown("route")
    assert "172.16.0.0/12 via 10.9.0.7" in routes
    assert "default" not in routes


def test_nobody_answers(wires: Wires) -> None:
    ip("-n", wires.server, "link", "set", "s1", "down")
    answer = wires.bring_up("ip=dhcp")
    assert answer["error"] == ("no network: n0: link is up, no DHCP answer in 8 s; n1: no link")
    assert "cable" in answer["hint"]


def test_a_static_address(wires: Wires) -> None:
    answer = wires.bring_up("ip=10.9.0.5::10.9.0.1:255.255.255.0:host:n1:none:10.9.0.53")
    assert answer["ups"] == [["n1", "10.9.0.5/24"]]
    assert "default via 10.9.0.1 dev n1" in wires.shown("route")
    assert wires.resolv_conf == "nameserver 10.9.0.53\n"


def test_a_static_ipv6_address(wires: Wires) -> None:
    wires.bring_up("ip=[fd00:9::5]::[fd00:9::1]:64::n0:none nameserver=fd00:9::53")
    assert "fd00:9::5/64" in wires.shown("addr", "show", "dev", "n0")
    assert "default via fd00:9::1" in wires.shown("-6", "route")
    assert wires.resolv_conf == "nameserver fd00:9::53\n"


def test_router_advertisements_alone_are_enough(wires: Wires) -> None:
    ip("-n", wires.server, "addr", "add", "fd00:9::1/64", "dev", "s0", "nodad")
    wires._dnsmasq("s0", "fd00:9::,ra-only", "--enable-ra", "--ra-param=s0,2,600")
    answer = wires.bring_up("ip=n0:dhcp")
    assert answer["ups"][0][1].startswith("fd00:9::"), answer


def test_an_interface_that_is_not_there(wires: Wires) -> None:
    answer = wires.bring_up("ip=eth7:dhcp")
    assert answer["error"] == "this machine has no network interface eth7"
    assert "n0 (52:54:00:00:00:00)" in answer["hint"]


def test_vlan(wires: Wires) -> None:
    if "error" in json.dumps(_vlan_support(wires)):
        pytest.skip("this kernel has no 8021q")
    ip("-n", wires.server, "link", "add", "link", "s0", "name", "s0.42", "type", "vlan", "id", "42")
    ip("-n", wires.server, "link", "set", "s0.42", "up")
    ip("-n", wires.server, "addr", "add", "10.9.42.1/24", "dev", "s0.42")
    wires._dnsmasq("s0.42", "10.9.42.100,10.9.42.199,255.255.255.0,2m")
    [[device, address]] = wires.bring_up("vlan=n0.42:n0 ip=dhcp")["ups"]
    assert device == "n0.42"
    assert address.startswith("10.9.42.1")


def test_bond(wires: Wires) -> None:
    wires.start_dhcp()
    answer = wires.bring_up("bond=bond0:n0,n1:mode=active-backup,miimon=100 ip=dhcp")
    if "not supported" in answer.get("error", ""):
        pytest.skip("this kernel has no bonding")
    assert answer["ups"][0][0] == "bond0"
    assert "master bond0" in wires.shown("link", "show", "n1")


def _vlan_support(wires: Wires) -> dict[str, str]:
    done = subprocess.run(
        ["ip", "-n", wires.server, "link", "add", "link", "s1", "name", "s1.7", "type", "vlan",
         "id", "7"], check=False, capture_output=True, text=True,
    )  # fmt: skip
    return {"error": done.stderr} if done.returncode else {}
