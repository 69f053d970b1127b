"""Network intent: a cloud-init/netplan network-config v2 document as one neutral, checked model.

`parse_network_config` refuses a key that it does not know and a value that it cannot vouch for, and
names every one of them with its path. docs/network.md lists what is understood.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import yaml

from agent.model.network_checks import check_network
from agent.model.network_grammar import shown
from agent.model.network_reader import read_network
from agent.model.network_values import (
    IPV4_DEFAULT,
    IPV6_DEFAULT,
    AnyDevice,
    Bond,
    BondParameters,
    Bridge,
    BridgeParameters,
    Device,
    DhcpOverrides,
    Ethernet,
    Match,
    Nameservers,
    NetworkConfig,
    Route,
    Vlan,
    family_of,
)
from agent.model.network_writer import network_document
from agent.model.wire import BadDocument

__all__ = [
    "IPV4_DEFAULT",
    "IPV6_DEFAULT",
    "AnyDevice",
    "BadNetworkConfig",
    "Bond",
    "BondParameters",
    "Bridge",
    "BridgeParameters",
    "Device",
    "DhcpOverrides",
    "Ethernet",
    "Match",
    "Nameservers",
    "NetworkConfig",
    "Route",
    "Vlan",
    "family_of",
    "network_document",
    "parse_network_config",
    "parse_network_yaml",
]

MAX_YAML_BYTES: Final = 256 * 1024
MAX_OBJECTIONS: Final = 50


class BadNetworkConfig(BadDocument):
    """A network configuration that we refuse. `objections` holds every reason, each with a path."""

    def __init__(self, objections: tuple[str, ...]) -> None:
        super().__init__("; ".join(objections))
        self.objections = objections


def parse_network_config(document: Mapping[str, Any]) -> NetworkConfig:
    """Return the intent in `document`, with or without the top-level key `network`.

    Raises BadNetworkConfig with every objection at once.
    """
    if not isinstance(document, Mapping):
        raise BadNetworkConfig((f"network: expected a mapping, got {shown(document)}",))
    objections: list[str] = []
    config = read_network(document, objections)
    # What stands between the devices is worth looking at only when each device is understood.
    objections = objections or list(check_network(config))
    if objections:
        raise BadNetworkConfig(tuple(objections[:MAX_OBJECTIONS]))
    return config


def parse_network_yaml(text: str) -> NetworkConfig:
    """Return the intent in `text`, a YAML document. Raises BadNetworkConfig."""
    if len(text) > MAX_YAML_BYTES:
        raise BadNetworkConfig((f"network: more than {MAX_YAML_BYTES} bytes",))
    try:
        document = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - made from SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise BadNetworkConfig((f"network: not YAML that we read: {_one_line(error)}",)) from error
    return parse_network_config(document)


def _one_line(error: Exception) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader without aliases, without double keys and without numbers of base 60.

    YAML 1.1 reads the MAC 52:54:00:12:34:56 as a number of base 60, and 2026-11-23 as a date.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own way

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, "aliases are not allowed", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.value in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is there twice, or is no plain word", key_node.start_mark
                )
            keys.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


# The words of YAML 1.2, and yes, no, on and off, which netplan takes too.
for _tag, _pattern, _first in (
    (
        "bool",
        r"(?:true|True|TRUE|yes|Yes|on|On|false|False|FALSE|no|No|off|Off)\Z",
        list("tTyYoOfFnN"),
    ),
    ("int", r"(?:0|[1-9][0-9]{0,18})\Z", list("0123456789")),
    ("null", r"(?:null|~|)\Z", ["n", "~", ""]),
):
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)
