"""The network comes up: what the kernel arguments say is planned as values, then done by netlink.

IPv6 addresses by router advertisement are the kernel's own work; they are accepted, not asked for.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent.bootargs import BootArgs
from agent.errors import AgentError, UsageError
from agent.model.inventory import Nic
from agent.system.cmdline_network import Bond, IpSetting, Vlan
from agent.system.command import Runner
from agent.system.dhcp import Lease, NoLease, Route, ask_dhcp

CARRIER_WAIT_S: Final = 15.0
"""Autonegotiation takes up to ten seconds."""
DHCP_WAIT_S: Final = 40
"""A switch port that runs spanning tree passes nothing for its first 30 seconds."""
DHCP_WAIT_OTHERS_S: Final = 12
NICS_WAIT_S: Final = 20.0
_RESOLV_CONF: Final = Path("/etc/resolv.conf")
_GLOBAL_SCOPE: Final = 0
_TENTATIVE: Final = 0x40

Note = Callable[[str], None]


class NetworkDown(AgentError):
    """No interface got what it needs; the message says what was tried on each."""


@dataclass(frozen=True, slots=True)
class Goal:
    """One setting to reach on the first of `candidates` that can."""

    setting: IpSetting
    candidates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """What to make and what to reach, names of interfaces resolved."""

    bonds: tuple[Bond, ...]
    vlans: tuple[Vlan, ...]
    goals: tuple[Goal, ...]
    nameservers: tuple[str, ...]
    boot_device: str | None


@dataclass(frozen=True, slots=True)
class Up:
    """An interface that is configured."""

    device: str
    lease: Lease


def plan_network(args: BootArgs, nics: Sequence[Nic]) -> NetworkPlan:
    """Decide which interfaces get what. Without `ip=`: DHCP.

    A setting that names no device goes to the last VLAN or bond if there is one, else to the
    interface of BOOTIF first and then to each other. Raises UsageError for an interface that the
    machine has not.
    """
    names = {nic.name: nic.name for nic in nics} | {nic.mac: nic.name for nic in nics}
    bonds = tuple(
        Bond(b.name, tuple(_resolved(port, names) for port in b.ports), b.options, b.mtu)
        for b in args.bonds
    )
    names |= {bond.name: bond.name for bond in bonds}
    vlans = tuple(Vlan(v.name, _resolved(v.parent, names), v.tag) for v in args.vlans)
    names |= {vlan.name: vlan.name for vlan in vlans}
    boot = names.get(args.bootif or "")
    taken = {port for bond in bonds for port in bond.ports}
    virtual = [vlan.name for vlan in reversed(vlans)] or [bond.name for bond in bonds]
    order = virtual or [
        nic.name for nic in sorted(nics, key=lambda n: n.name != boot) if nic.name not in taken
    ]
    goals = tuple(
        Goal(s, (_resolved(s.device, names),) if s.device else tuple(order))
        for s in args.ip or (IpSetting(),)
    )
    return NetworkPlan(bonds, vlans, goals, args.nameservers, boot)


def bring_network_up(
    run: Runner,
    args: BootArgs,
    find_nics: Callable[[], Sequence[Nic]],
    *,
    note: Note = lambda _text: None,
    resolv_conf: Path = _RESOLV_CONF,
) -> tuple[Up, ...]:
    """Configure the network as `args` say and return what came up.

    `find_nics` is asked until BOOTIF's interface is there, for twenty seconds at most: drivers
    load in their own time. Raises NetworkDown, UsageError.
    """
    plan = plan_network(args, _await_nics(args, find_nics, note))
    ups = apply_network(run, plan, note=note)
    names = [*plan.nameservers, *(name for up in ups for name in up.lease.dns)]
    search = [word for up in ups for word in up.lease.search]
    if names:
        resolv_conf.unlink(missing_ok=True)  # often a link into a file that is not there
        resolv_conf.write_text(render_resolv_conf(names, search))
    return ups


def render_resolv_conf(names: Iterable[str], search: Iterable[str]) -> str:
    """Return resolv.conf(5); the C library looks at three servers."""
    domains = " ".join(dict.fromkeys(search))
    lines = [f"search {domains}"] if domains else []
    lines += [f"nameserver {name}" for name in list(dict.fromkeys(names))[:3]]
    return "\n".join(lines) + "\n"


def apply_network(run: Runner, plan: NetworkPlan, *, note: Note) -> tuple[Up, ...]:
    """Carry out `plan`. Raises NetworkDown if a goal cannot be reached on any interface."""
    from pyroute2 import IPRoute  # half a second to import

    with IPRoute() as netlink, _netlink_errors():
        _set_up(netlink, "lo")
        for bond in plan.bonds:
            _make_bond(netlink, bond)
        for vlan in plan.vlans:
            _make_vlan(netlink, vlan)
        wanted = dict.fromkeys(name for goal in plan.goals for name in goal.candidates)
        for name in wanted:
            _set_up(netlink, name)
        return tuple(_reach(run, netlink, goal, plan, note) for goal in plan.goals)


def _reach(run: Runner, netlink: Any, goal: Goal, plan: NetworkPlan, note: Note) -> Up:
    tried: list[str] = []
    if not goal.candidates:
        raise NetworkDown(
            "this machine shows no network interface", hint="is its driver in the image?"
        )
    first = _await_carrier(goal.candidates, plan.boot_device)
    for name in sorted(goal.candidates, key=lambda candidate: candidate != first):
        if not _has_carrier(name):
            tried.append(f"{name}: no link")
            continue
        if goal.setting.address is not None:
            lease = _static_lease(goal.setting)
        else:
            patient = name == first
            wait_s = DHCP_WAIT_S if patient else DHCP_WAIT_OTHERS_S
            note(f"{name}: asking for an address by DHCP")
            try:
                lease = ask_dhcp(run, name, wait_s)
            except NoLease as error:
                if address := _ipv6_address(netlink, name):
                    note(f"{name}: {error}; going on with {address} alone")
                    return Up(name, Lease(address))
                tried.append(f"{name}: link is up, {error}")
                note(tried[-1])
                continue
        _configure(netlink, name, lease)
        gateways = ", ".join(r.gateway for r in lease.routes if r.gateway) or "no gateway"
        note(f"{name}: {lease.address}, {gateways}")
        return Up(name, lease)
    raise NetworkDown(
        f"no network: {'; '.join(tried)}",
        hint="check the cable, the switch port's VLAN and the DHCP server, or give ip= by hand",
    )


def _resolved(device: str, names: dict[str, str]) -> str:
    """Return the interface that a name or MAC means."""
    if device not in names:
        known = ", ".join(f"{name} ({key})" for key, name in names.items() if ":" in key)
        raise UsageError(
            f"this machine has no network interface {device}", hint=f"there are: {known or 'none'}"
        )
    return names[device]


def _await_nics(
    args: BootArgs, find_nics: Callable[[], Sequence[Nic]], note: Note
) -> Sequence[Nic]:
    deadline = time.monotonic() + NICS_WAIT_S
    while True:
        nics = find_nics()
        if nics and (args.bootif is None or any(nic.mac == args.bootif for nic in nics)):
            return nics
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    if nics:
        note(f"no interface has the MAC {args.bootif} that the machine was booted from")
    return nics


def _await_carrier(names: Sequence[str], boot: str | None) -> str:
    """Return the interface to try first: the boot interface as soon as it has a link.

    Without one: the first with a link. After fifteen seconds: whichever has, else the first.
    """
    wanted = [boot] if boot in names else names
    deadline = time.monotonic() + CARRIER_WAIT_S
    while time.monotonic() < deadline:
        for name in wanted:
            if name and _has_carrier(name):
                return name
        time.sleep(0.1)
    return next((name for name in names if _has_carrier(name)), names[0])


def _has_carrier(name: str) -> bool:
    try:
        return Path(f"/sys/class/net/{name}/carrier").read_text().strip() == "1"
    except OSError:
        return False  # the kernel refuses the question while the interface is down


def _static_lease(setting: IpSetting) -> Lease:
    assert setting.address is not None
    everywhere = "::/0" if ":" in setting.address else "0.0.0.0/0"
    routes = (Route(everywhere, setting.gateway),) if setting.gateway else ()
    return Lease(setting.address, routes, setting.dns, mtu=setting.mtu)


def _index(netlink: Any, name: str) -> int:
    found = netlink.link_lookup(ifname=name)
    if not found:
        raise NetworkDown(f"interface {name} is gone")
    return int(found[0])


def _remove(netlink: Any, name: str) -> None:
    """Take away what an attempt before this one made."""
    for index in netlink.link_lookup(ifname=name):
        netlink.link("del", index=index)


def _set_up(netlink: Any, name: str) -> None:
    netlink.link("set", index=_index(netlink, name), state="up")


def _configure(netlink: Any, name: str, lease: Lease) -> None:
    index = _index(netlink, name)
    address, _, prefix = lease.address.partition("/")
    if lease.mtu:
        netlink.link("set", index=index, mtu=lease.mtu)
    netlink.addr("replace", index=index, address=address, prefixlen=int(prefix))
    # networks on the wire first: a gateway may be reachable only through one of them
    for route in sorted(lease.routes, key=lambda r: r.gateway is not None):
        if route.gateway:
            netlink.route("replace", dst=route.to, gateway=route.gateway, oif=index)
        else:
            netlink.route("replace", dst=route.to, oif=index, scope="link")


def _make_bond(netlink: Any, bond: Bond) -> None:
    _remove(netlink, bond.name)
    netlink.link("add", ifname=bond.name, kind="bond")
    options = Path(f"/sys/class/net/{bond.name}/bonding")
    for key, value in sorted(bond.options, key=lambda option: option[0] != "mode"):
        try:
            (options / key).write_text(value)
        except OSError as error:
            raise UsageError(f"{bond.name}: the kernel refuses {key}={value}") from error
    index = _index(netlink, bond.name)
    for port in bond.ports:
        netlink.link("set", index=_index(netlink, port), state="down")
        netlink.link("set", index=_index(netlink, port), master=index)
    if bond.mtu:
        netlink.link("set", index=index, mtu=bond.mtu)
    netlink.link("set", index=index, state="up")


def _make_vlan(netlink: Any, vlan: Vlan) -> None:
    _set_up(netlink, vlan.parent)
    parent = _index(netlink, vlan.parent)
    _remove(netlink, vlan.name)
    netlink.link("add", ifname=vlan.name, kind="vlan", link=parent, vlan_id=vlan.tag)


def _ipv6_address(netlink: Any, name: str) -> str | None:
    """Return a global IPv6 address that the kernel made from a router's advertisement."""
    for message in netlink.get_addr(index=_index(netlink, name)):
        text = str(message.get_attr("IFA_ADDRESS"))
        if ":" in text and message["scope"] == _GLOBAL_SCOPE and not message["flags"] & _TENTATIVE:
            return f"{text}/{message['prefixlen']}"
    return None


@contextlib.contextmanager
def _netlink_errors() -> Iterator[None]:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as error:
        raise NetworkDown(f"the kernel refuses a network setting: {error}") from error
