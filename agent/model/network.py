"""Network intent: a cloud-init/netplan network-config v2 document as one neutral, checked model.

`parse_network_config` refuses a key that it does not know and a value that it cannot vouch for, and
names every one of them with its path. docs/network.md lists what is understood.
"""

from collections.abc import Mapping
from typing import Any, Final

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
    from agent.model.network_yaml import read_yaml  # the boot image has no YAML parser

    try:
        document = read_yaml(text)
    except ValueError as error:
        raise BadNetworkConfig((f"network: not YAML that we read: {error}",)) from error
    return parse_network_config(document)
