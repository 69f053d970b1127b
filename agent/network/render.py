"""One neutral model in, the files of one network stack out."""

from collections.abc import Iterable, Mapping
from typing import Any, assert_never

from agent.errors import AgentError, PlanRefused
from agent.model.inventory import Nic
from agent.model.network import Ethernet, Match, NetworkConfig, parse_network_config
from agent.model.template import NetworkStack
from agent.network.ifcfg import object_to_ifcfg, render_ifcfg
from agent.network.ifupdown import (
    INTERFACES,
    needs_of_ifupdown,
    object_to_ifupdown,
    render_ifupdown,
)
from agent.network.keyfile import object_to_keyfile, render_keyfiles
from agent.network.names import bind_to_cards, kernel_names
from agent.network.netplan import object_to_netplan, render_netplan
from agent.network.networkd import object_to_networkd, render_networkd
from agent.network.text import fill
from agent.network.tree import File, RenderedTree

CLOUD_CFG_FOLDER = "/etc/cloud/cloud.cfg.d"
CLOUD_CFG = f"{CLOUD_CFG_FOLDER}/99-metalcast-network.cfg"


def render_network(
    config: NetworkConfig, stack: NetworkStack, interfaces: Iterable[Nic]
) -> RenderedTree:
    """Return the files that make `stack` do what `config` says, on a machine with `interfaces`.

    Nothing is left out silently. Raises PlanRefused with everything that the stack cannot express.
    """
    nics = tuple(interfaces)
    config = bind_to_cards(config, nics)
    names = kernel_names(config, nics)
    if refused := tuple(_objections(config, stack, names)):
        raise PlanRefused(refused)
    files = _files(config, stack, names)
    files[CLOUD_CFG] = File(fill("cloud.cfg.j2", {}), only_if=CLOUD_CFG_FOLDER)
    if stack is not NetworkStack.IFUPDOWN:
        # A stanza for a card makes NetworkManager leave it alone, and two stacks fight over it.
        files[INTERFACES] = File(fill("interfaces-idle.j2", {}), only_if=INTERFACES)
    needs = dict(needs_of_ifupdown(config)) if stack is NetworkStack.IFUPDOWN else {}
    return RenderedTree(files=dict(sorted(files.items())), needs=tuple(sorted(needs.items())))


def _files(config: NetworkConfig, stack: NetworkStack, names: dict[str, str]) -> dict[str, File]:
    match stack:
        case NetworkStack.NETPLAN:
            return render_netplan(config)
        case NetworkStack.IFUPDOWN:
            return render_ifupdown(config, names)
        case NetworkStack.NETWORKD:
            return render_networkd(config, names)
        case NetworkStack.NETWORK_MANAGER:
            return render_keyfiles(config, names)
        case NetworkStack.IFCFG:
            return render_ifcfg(config, names)
        case _:
            assert_never(stack)


def _objections(config: NetworkConfig, stack: NetworkStack, names: dict[str, str]) -> Iterable[str]:
    if stack is NetworkStack.NETPLAN:
        return object_to_netplan(config)
    if stack is NetworkStack.IFUPDOWN:
        return object_to_ifupdown(config)
    if stack is NetworkStack.IFCFG:
        return object_to_ifcfg(config, names)
    if stack is NetworkStack.NETWORKD:
        return object_to_networkd(config)
    if stack is NetworkStack.NETWORK_MANAGER:
        return object_to_keyfile(config)
    return ()


def intended_network(document: Mapping[str, Any] | None, nics: Iterable[Nic]) -> NetworkConfig:
    """Return the network that a job asks for by `document`; the default if it asks for none.

    Raises BadNetworkConfig, and AgentError if the default needs a card and there is none.
    """
    return default_network(nics) if document is None else parse_network_config(document)


def default_network(nics: Iterable[Nic]) -> NetworkConfig:
    """Return what a job without a network gets: DHCP on the card that the machine booted from.

    Without such a card, the first with a link, else the first. Raises AgentError if there is none.
    """
    cards = sorted(nics, key=lambda nic: (not nic.boot, not nic.link))
    if not cards:
        raise AgentError("the machine has no network card to configure")
    card = Ethernet(
        id="boot", match=Match(macaddress=cards[0].mac.lower()), dhcp4=True, accept_ra=True
    )
    return NetworkConfig(ethernets=(card,))
