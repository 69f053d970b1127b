"""The grammar of every word in a network configuration, and a reader that says where one is bad."""

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from agent.model.network_values import IPV4_DEFAULT, IPV6_DEFAULT, IpAddress, IpInterface

T = TypeVar("T")

INTERFACE_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}", re.ASCII)
"""What the kernel takes (15 bytes, no colon) without what a file format could read otherwise."""
DEVICE_ID: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,31}", re.ASCII)
NAME_PATTERN: Final = re.compile(r"[A-Za-z*?][A-Za-z0-9_.*?-]{0,14}", re.ASCII)
RESERVED_NAMES: Final = frozenset(
    {
        "lo",
        "all",
        "default",
        "none",
        "bonding_masters",
        "y",
        "n",
        "yes",
        "no",
        "on",
        "off",
        "true",
        "false",
        "null",
    }
)
"""What the kernel keeps for itself, and what YAML would not take for a word."""
MAC: Final = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}", re.ASCII)
DOMAIN: Final = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
    r"(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?)*",
    re.ASCII,
)
MILLISECONDS: Final = re.compile(r"(\d{1,6})(ms|s)?", re.ASCII)
SECONDS: Final = re.compile(r"(\d{1,6})s?", re.ASCII)
NOTHING: Final[Sequence[Any]] = ()


def shown(value: Any) -> str:
    """Return `value` for a message: on one line, short, nothing raw in it."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def interface_name(text: str) -> str:
    """Return `text` if the kernel and every stack take it as a name. Raises ValueError."""
    if not INTERFACE_NAME.fullmatch(text) or text.lower() in RESERVED_NAMES:
        raise ValueError(f"not the name of an interface: {shown(text)}")
    return text


def device_id(text: str) -> str:
    if not DEVICE_ID.fullmatch(text) or text.lower() in RESERVED_NAMES:
        raise ValueError(f"not a name for a device: {shown(text)}")
    return text


def name_pattern(text: str) -> str:
    if not NAME_PATTERN.fullmatch(text) or text.lower() in RESERVED_NAMES:
        raise ValueError(f"not the name of an interface, with or without * and ?: {shown(text)}")
    return text


def mac(text: str) -> str:
    """Return a unicast MAC in lower case with colons."""
    if not MAC.fullmatch(text):
        raise ValueError(f"not a MAC like 52:54:00:12:34:56: {shown(text)}")
    if int(text[:2], 16) & 1:
        raise ValueError(f"{text} is a group address, no card has it")
    if text.strip("0:") == "":
        raise ValueError(f"{text} is nobody's MAC")
    return text.lower()


def domain(text: str) -> str:
    if not DOMAIN.fullmatch(text):
        raise ValueError(f"not a domain name: {shown(text)}")
    return text


def ip_address(text: str) -> str:
    """Return an IPv4 or IPv6 address of one host in its normal form."""
    address = _host(text)
    return str(address)


def _host(text: str) -> IpAddress:
    try:
        if "%" in text:
            raise ValueError
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"not an IP address: {shown(text)}") from None
    if address.is_unspecified or address.is_multicast:
        raise ValueError(f"{address} is not the address of one host")
    if address == ipaddress.ip_address("255.255.255.255"):
        raise ValueError(f"{address} is not the address of one host")
    return address


def interface_address(text: str) -> str:
    """Return a host's address with its prefix length: `10.0.0.5/24`."""
    head, slash, prefix = text.partition("/")
    if not slash or not re.fullmatch(r"\d{1,3}", prefix, re.ASCII):
        raise ValueError(f"not an address with a prefix length, like 10.0.0.5/24: {shown(text)}")
    host = _host(head)
    try:
        address: IpInterface = ipaddress.ip_interface(f"{host}/{prefix}")
    except ValueError:
        raise ValueError(f"the prefix length of {shown(text)} is too long") from None
    if host.is_loopback:
        raise ValueError(f"{host} is a loopback address")
    network = address.network
    if network.prefixlen == 0:
        raise ValueError(f"the prefix length of {shown(text)} is 0")
    if host.version == 4 and network.prefixlen < 31:
        if host == network.network_address:
            raise ValueError(f"{host} is the network {network} itself, not a host in it")
        if host == network.broadcast_address:
            raise ValueError(f"{host} is the broadcast address of {network}")
    return str(address)


def destination(text: str) -> str:
    """Return a network in CIDR form, or `default` as it stands: its family is the gateway's."""
    if text == "default":
        return text
    if text in ("0/0", IPV4_DEFAULT):
        return IPV4_DEFAULT
    if text == IPV6_DEFAULT:
        return text
    head, slash, prefix = text.partition("/")
    if slash and not re.fullmatch(r"\d{1,3}", prefix, re.ASCII):
        raise ValueError(f"not a network like 10.0.0.0/8: {shown(text)}")
    try:
        if "%" in head:
            raise ValueError
        interface = ipaddress.ip_interface(text)
    except ValueError:
        raise ValueError(f"not a network like 10.0.0.0/8: {shown(text)}") from None
    if interface.ip != interface.network.network_address:
        raise ValueError(f"{text} has host bits set; did you mean {interface.network}?")
    return str(interface.network)


def milliseconds(value: Any) -> int:
    """Return `100`, `"100"`, `"100ms"` or `"1s"` as milliseconds."""
    return _time(value, MILLISECONDS, "a time in milliseconds")


def seconds(value: Any) -> int:
    return _time(value, SECONDS, "a time in whole seconds")


def _time(value: Any, grammar: re.Pattern[str], expected: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"expected {expected}, got {shown(value)}")
    found = grammar.fullmatch(str(value))
    if not found:
        raise ValueError(f"expected {expected}, got {shown(value)}")
    in_seconds = grammar is MILLISECONDS and found.group(2) == "s"
    return int(found.group(1)) * (1000 if in_seconds else 1)


@dataclass
class Section:
    """One mapping of the document, read key by key; what nobody asked for is an error.

    Every objection goes to one list, so that one visit settles them all. A key that is absent or
    bad gives the default.
    """

    path: str
    data: Mapping[str, Any]
    objections: list[str]
    seen: set[str] = field(default_factory=set)

    def object_to(self, key: str, what: str) -> None:
        self.objections.append(f"{self.path}.{key}: {what}" if key else f"{self.path}: {what}")

    def has(self, key: str) -> bool:
        return key in self.data

    def take(self, key: str, read: Callable[[Any], T], default: T) -> T:
        """Return `read` of the value under `key`; its ValueError becomes an objection."""
        self.seen.add(key)
        if key not in self.data:
            return default
        try:
            return read(self.data[key])
        except ValueError as error:
            self.object_to(key, str(error))
            return default

    def text(self, key: str, grammar: Callable[[str], str]) -> str | None:
        return self.take(key, lambda value: grammar(a_string(value)), None)

    def choice(self, key: str, allowed: tuple[str, ...]) -> str | None:
        def read(value: Any) -> str | None:
            if value not in allowed or not isinstance(value, str):
                raise ValueError(f"expected one of {', '.join(allowed)}, got {shown(value)}")
            return value

        return self.take(key, read, None)

    def flag(self, key: str) -> bool | None:
        def read(value: Any) -> bool | None:
            if not isinstance(value, bool):
                raise ValueError(f"expected true or false, got {shown(value)}")
            return value

        return self.take(key, read, None)

    def number(self, key: str, low: int, high: int) -> int | None:
        def read(value: Any) -> int | None:
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"expected a number from {low} to {high}, got {shown(value)}")
            return value

        return self.take(key, read, None)

    def texts(self, key: str, grammar: Callable[[str], str]) -> tuple[str, ...]:
        """Return a list of words, each by `grammar`, none twice."""
        found: list[str] = []
        for index, value in enumerate(self.take(key, a_list, NOTHING)):
            try:
                word = grammar(a_string(value))
            except ValueError as error:
                self.object_to(f"{key}[{index}]", str(error))
                continue
            if word in found:
                self.object_to(f"{key}[{index}]", f"{word} is there twice")
            else:
                found.append(word)
        return tuple(found)

    def section(self, key: str) -> "Section | None":
        value = self.take(key, a_mapping, None)
        if value is None:
            return None
        return Section(f"{self.path}.{key}", value, self.objections)

    def sections(self, key: str) -> list["Section"]:
        """Return a list of mappings: `routes`."""
        found: list[Section] = []
        for index, value in enumerate(self.take(key, a_list, NOTHING)):
            if isinstance(value, Mapping):
                found.append(Section(f"{self.path}.{key}[{index}]", value, self.objections))
            else:
                self.object_to(f"{key}[{index}]", f"expected a mapping, got {shown(value)}")
        return found

    def finish(self) -> None:
        """Object to every key that nobody has read."""
        for key in self.data:
            if key not in self.seen:
                self.objections.append(f"{self.path}: we do not know the key {shown(key)}")


def a_string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {shown(value)}")
    return value


def a_list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"expected a list, got {shown(value)}")
    return value


def a_mapping(value: Any) -> Mapping[str, Any] | None:
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a mapping, got {shown(value)}")
    return value
