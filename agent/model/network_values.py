"""The neutral network model: what every renderer reads. Made by agent.model.network only.

Addresses, networks and MACs are text in one normal form (`10.0.0.5/24`, `2001:db8::5/64`,
`52:54:00:12:34:56`), so that equal configurations are equal values.
"""

import ipaddress
from collections.abc import Iterator
from typing import Final

from agent.model.wire import Value

IPV4_DEFAULT: Final = "0.0.0.0/0"
IPV6_DEFAULT: Final = "::/0"

IpInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def family_of(text: str) -> int:
    """Return 4 or 6: what kind of address or network `text`, already checked, is."""
    return 6 if ":" in text else 4


class Nameservers(Value, frozen=True, kw_only=True):
    addresses: tuple[str, ...] = ()
    search: tuple[str, ...] = ()

    def of_family(self, family: int) -> tuple[str, ...]:
        return tuple(address for address in self.addresses if family_of(address) == family)


class Route(Value, frozen=True, kw_only=True):
    """`to` is a network in CIDR form; a default route goes to 0.0.0.0/0 or ::/0."""

    to: str
    via: str
    metric: int | None = None
    on_link: bool = False

    @property
    def family(self) -> int:
        return family_of(self.to)

    @property
    def is_default(self) -> bool:
        return self.to in (IPV4_DEFAULT, IPV6_DEFAULT)


class DhcpOverrides(Value, frozen=True, kw_only=True):
    """What to do with a lease's routes and nameservers; None leaves it to the stack."""

    route_metric: int | None = None
    use_dns: bool | None = None
    use_routes: bool | None = None


class Device(Value, frozen=True, kw_only=True):
    """What every interface has. `id` is its key in the document."""

    id: str
    dhcp4: bool = False
    dhcp6: bool = False
    accept_ra: bool | None = None
    """None leaves router advertisements to the stack's default."""
    addresses: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()
    nameservers: Nameservers = Nameservers()
    mtu: int | None = None
    macaddress: str | None = None
    """The MAC to take on, not the one to look for."""
    optional: bool = False
    dhcp_identifier: str | None = None
    """`mac` or `duid`."""
    dhcp4_overrides: DhcpOverrides = DhcpOverrides()
    dhcp6_overrides: DhcpOverrides = DhcpOverrides()

    def addresses_of(self, family: int) -> tuple[str, ...]:
        return tuple(address for address in self.addresses if family_of(address) == family)

    def routes_of(self, family: int) -> tuple[Route, ...]:
        return tuple(route for route in self.routes if route.family == family)

    def is_configured(self, family: int) -> bool:
        """Whether the interface gets an address of this family from us."""
        return bool(self.addresses_of(family)) or (self.dhcp4 if family == 4 else self.dhcp6)


class Match(Value, frozen=True, kw_only=True):
    """How to find a network card: by its own MAC, or by the name that the kernel gives it."""

    macaddress: str | None = None
    name: str | None = None
    """May hold `*` and `?`."""


class Ethernet(Device, frozen=True, kw_only=True):
    """A network card. Without `match`, `id` is its name."""

    match: Match | None = None
    set_name: str | None = None
    wakeonlan: bool = False

    @property
    def matched_mac(self) -> str | None:
        return self.match.macaddress if self.match else None


class BondParameters(Value, frozen=True, kw_only=True):
    """Times are milliseconds. None leaves the kernel's default."""

    mode: str = "balance-rr"
    mii_monitor_interval_ms: int | None = None
    lacp_rate: str | None = None
    transmit_hash_policy: str | None = None
    primary: str | None = None
    """The id of a member."""
    min_links: int | None = None
    up_delay_ms: int | None = None
    down_delay_ms: int | None = None
    arp_interval_ms: int | None = None
    arp_ip_targets: tuple[str, ...] = ()


class Bond(Device, frozen=True, kw_only=True):
    interfaces: tuple[str, ...]
    parameters: BondParameters = BondParameters()


class BridgeParameters(Value, frozen=True, kw_only=True):
    """Times are seconds. None leaves the kernel's default."""

    stp: bool = True
    forward_delay_s: int | None = None
    hello_time_s: int | None = None
    max_age_s: int | None = None
    ageing_time_s: int | None = None
    priority: int | None = None


class Bridge(Device, frozen=True, kw_only=True):
    interfaces: tuple[str, ...]
    parameters: BridgeParameters = BridgeParameters()


class Vlan(Device, frozen=True, kw_only=True):
    vlan_id: int
    link: str
    """The id of the device that carries the tagged frames."""


AnyDevice = Ethernet | Bond | Bridge | Vlan


class NetworkConfig(Value, frozen=True, kw_only=True):
    """The whole intent for one machine. Devices keep the order of the document."""

    renderer: str | None = None
    """`networkd` or `NetworkManager`: what netplan drives. Other stacks do not read it."""
    ethernets: tuple[Ethernet, ...] = ()
    bonds: tuple[Bond, ...] = ()
    bridges: tuple[Bridge, ...] = ()
    vlans: tuple[Vlan, ...] = ()

    @property
    def devices(self) -> tuple[AnyDevice, ...]:
        return (*self.ethernets, *self.bonds, *self.bridges, *self.vlans)

    def masters(self) -> Iterator[tuple[Bond | Bridge, str]]:
        """Yield each bond or bridge with each of its members' ids."""
        masters: tuple[Bond | Bridge, ...] = (*self.bonds, *self.bridges)
        for master in masters:
            for member in master.interfaces:
                yield master, member

    def master_of(self, device_id: str) -> Bond | Bridge | None:
        return next((master for master, member in self.masters() if member == device_id), None)

    def vlans_on(self, device_id: str) -> tuple[Vlan, ...]:
        return tuple(vlan for vlan in self.vlans if vlan.link == device_id)

    def bottom_up(self) -> tuple[AnyDevice, ...]:
        """Return the devices so that each comes after those that it stands on."""
        done: dict[str, AnyDevice] = {}

        def visit(device: AnyDevice) -> None:
            if device.id in done:
                return
            below: tuple[str, ...] = ()
            if isinstance(device, Bond | Bridge):
                below = device.interfaces
            elif isinstance(device, Vlan):
                below = (device.link,)
            for name in below:
                visit(known[name])
            done[device.id] = device

        known = {device.id: device for device in self.devices}
        for device in self.devices:
            visit(device)
        return tuple(done.values())
