"""The network arguments of the kernel and of dracut.cmdline(7), each with a strict grammar."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

_MAC: Final = re.compile(r"[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5}")
_INTERFACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_OPTION: Final = re.compile(r"[a-z_]{1,24}=[A-Za-z0-9_.+/-]{1,64}")
_DHCP: Final = frozenset({"dhcp", "on", "any", "auto", "both"})
_STATIC: Final = frozenset({"none", "off", ""})


@dataclass(frozen=True, slots=True)
class IpSetting:
    """One `ip=`. With `address` None it asks for DHCP."""

    device: str | None = None
    """A name, or a MAC with colons; None is any."""
    address: str | None = None
    """CIDR."""
    gateway: str | None = None
    hostname: str | None = None
    dns: tuple[str, ...] = ()
    mtu: int | None = None

    @property
    def is_dhcp(self) -> bool:
        return self.address is None


@dataclass(frozen=True, slots=True)
class Vlan:
    name: str
    parent: str
    tag: int


@dataclass(frozen=True, slots=True)
class Bond:
    name: str
    ports: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()
    mtu: int | None = None


def parse_bootif(text: str) -> str:
    """Return the MAC in `01-52-54-00-12-34-56`; the hardware type before it may be missing."""
    plain = text.lower()
    if len(plain) == 20 and plain[2] == "-":
        if plain[:3] != "01-":
            raise ValueError("only Ethernet (01-…) can be booted from")
        plain = plain[3:]
    return parse_mac(plain)


def parse_mac(text: str) -> str:
    """Return a MAC in lower case with colons."""
    if not _MAC.fullmatch(text.lower()):
        raise ValueError(f"{text!r} is not a MAC address")
    return text.lower().replace("-", ":")


def parse_nameserver(text: str) -> str:
    return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))


def parse_vlan(text: str) -> Vlan:
    """Return `NAME:PARENT`. The tag is the number that NAME ends with: `eth0.42`, `vlan42`."""
    name, colon, parent = text.partition(":")
    found = re.search(r"(\d+)$", name)
    if not colon or not found or not 1 <= int(found[1]) <= 4094:
        raise ValueError("expected NAME:PARENT, NAME ending with a tag from 1 to 4094")
    return Vlan(_interface(name), _port(parent), int(found[1]))


def parse_bond(text: str) -> Bond:
    """Return `NAME[:PORT,PORT[:OPTION=VALUE,…[:MTU]]]`; dracut's default ports are eth0,eth1."""
    fields = text.split(":")
    if len(fields) > 4:
        raise ValueError("expected NAME:PORT,PORT:OPTIONS:MTU")
    fields += [""] * (4 - len(fields))
    ports = tuple(_port(port) for port in (fields[1] or "eth0,eth1").split(","))
    options = []
    for word in (word for word in re.split(r"[,;]", fields[2]) if word):
        if not _OPTION.fullmatch(word):
            raise ValueError(f"{word!r} is not an option; write mode=802.3ad")
        key, _, value = word.partition("=")
        options.append((key, value))
    if len(set(ports)) != len(ports):
        raise ValueError("one port is named twice")
    mtu = _mtu(fields[3]) if fields[3] else None
    return Bond(_interface(fields[0]), ports, tuple(options), mtu)


def parse_ip(text: str) -> IpSetting:
    """Return what one `ip=` asks for.

    `dhcp` · `DEVICE:dhcp[:MTU]` ·
    `CLIENT:[SERVER]:[GATEWAY]:NETMASK:[HOSTNAME]:[DEVICE]:none[:DNS[:DNS]]` (or `:MTU`).
    Addresses of IPv6 stand in brackets. NETMASK may be a prefix length.
    """
    fields = _fields(text)
    if len(fields) <= 3:
        if len(fields) == 1:
            fields = ["", *fields]
        device, method = fields[0], fields[1]
        if method not in _DHCP:
            raise ValueError(f"{method!r} is no way to get an address; write dhcp")
        mtu = _mtu(fields[2]) if len(fields) == 3 and fields[2] else None
        return IpSetting(device=_device(device), mtu=mtu)
    fields += [""] * (7 - len(fields))
    client, _server, gateway, mask, hostname, device, method, *rest = fields
    if hostname and not _HOST.fullmatch(hostname):
        raise ValueError(f"{hostname!r} is not a host name")
    if method in _DHCP:
        if client:
            raise ValueError("an address and dhcp exclude each other")
        return IpSetting(device=_device(device), hostname=hostname or None)
    if method not in _STATIC:
        raise ValueError(f"{method!r} is no way to get an address; write none or dhcp")
    if not client:
        raise ValueError("no address")
    own = ipaddress.ip_interface(f"{client}/{mask or (64 if ':' in client else 24)}")
    gate = ipaddress.ip_address(gateway) if gateway else None
    if gate is not None and gate.version != own.version:
        raise ValueError("address and gateway are of two IP versions")
    mtu = _mtu(rest[0]) if rest and rest[0].isdecimal() else None
    dns = () if mtu else tuple(parse_nameserver(word) for word in rest[:2] if word)
    return IpSetting(
        device=_device(device),
        address=own.with_prefixlen,
        gateway=str(gate) if gate else None,
        hostname=hostname or None,
        dns=dns,
        mtu=mtu,
    )


def _fields(text: str) -> list[str]:
    """Return the fields between colons; a bracketed IPv6 address, or a MAC, is one field."""
    word = r"(?:\[[0-9A-Fa-f:.]*\]|[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}(?=:|$)|[^:\[\]]*)"
    if not re.fullmatch(rf"{word}(?::{word})*", text):
        raise ValueError("brackets do not pair up")
    fields = re.findall(rf"(?:^|(?<=:)){word}(?=:|$)", text)
    return [field.removeprefix("[").removesuffix("]") for field in fields]


def _device(text: str) -> str | None:
    return _port(text) if text else None


def _port(text: str) -> str:
    """Return a name, or the MAC that `52-54-00-12-34-56` writes where colons part the fields."""
    return parse_mac(text) if _MAC.fullmatch(text.lower()) else _interface(text)


def _interface(text: str) -> str:
    if not _INTERFACE.fullmatch(text):
        raise ValueError(f"{text!r} is not an interface's name")
    return text


def _mtu(text: str) -> int:
    if not text.isdecimal() or not 576 <= int(text) <= 65535:
        raise ValueError(f"{text!r} is not an MTU")
    return int(text)
