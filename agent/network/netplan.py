"""netplan: the model is its own document, so this only prints YAML."""

from collections.abc import Iterator
from typing import Any

from agent.model.network import NetworkConfig, network_document
from agent.network.text import fill
from agent.network.tree import File

PATH = "/etc/netplan/90-metalcast.yaml"


def object_to_netplan(config: NetworkConfig) -> Iterator[str]:
    """Yield what netplan refuses to hand to systemd-networkd."""
    if config.renderer == "NetworkManager":
        return
    for device in config.devices:
        both = device.dhcp4 and device.dhcp6
        if both and device.dhcp4_overrides != device.dhcp6_overrides:
            yield f"{device.id}: netplan wants the same in dhcp4-overrides and dhcp6-overrides"


def render_netplan(config: NetworkConfig) -> dict[str, File]:
    """Return the one netplan file. Every text in it is quoted, so YAML guesses at nothing."""
    lines = tuple(_yaml(network_document(config), 0))
    return {PATH: File(fill("netplan.yaml.j2", {"lines": lines}), mode=0o600)}


def _yaml(value: dict[str, Any], depth: int) -> Iterator[dict[str, str]]:
    indent = "  " * depth
    for key, item in value.items():
        if isinstance(item, dict) and item:
            yield {"indent": indent, "text": f"{key}:"}
            yield from _yaml(item, depth + 1)
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            yield {"indent": indent, "text": f"{key}:"}
            for entry in item:
                yield {"indent": indent + "  ", "text": f"- {_flow(entry)}"}
        else:
            yield {"indent": indent, "text": f"{key}: {_flow(item)}"}


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if '"' in text or "\\" in text:
        raise ValueError(f"not a word of the grammar: {text!a}")
    return f'"{text}"'
