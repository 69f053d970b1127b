"""What each stack is given, byte for byte."""

import os

import pytest

from agent.model.network import network_document, parse_network_config, parse_network_yaml
from agent.model.template import NetworkStack
from tests.golden.network.trees import CASES, REFUSED, config_of, regenerate, rendered, stored


@pytest.mark.parametrize("stack", NetworkStack)
@pytest.mark.parametrize("case", CASES)
def test_the_tree_is_the_golden_one(case: str, stack: NetworkStack) -> None:
    if os.environ.get("METALCAST_REGENERATE"):
        regenerate(case, stack)
    assert rendered(case, stack) == stored(case, stack)


def test_every_stack_renders_most_cases() -> None:
    """A stack that refused everything would have golden files, too."""
    assert len(CASES) >= 8
    for stack in NetworkStack:
        refused = [case for case in CASES if REFUSED in stored(case, stack)]
        assert len(refused) <= 1, f"{stack.value} refuses {refused}"


@pytest.mark.parametrize("case", CASES)
def test_a_case_survives_the_way_to_a_document_and_back(case: str) -> None:
    config = config_of(case)
    assert parse_network_config(network_document(config)) == config


@pytest.mark.parametrize("case", CASES)
def test_the_netplan_file_says_the_same_as_its_input(case: str) -> None:
    """But for the cards that the inventory knows by name, which it matches by MAC."""
    text = stored(case, NetworkStack.NETPLAN)["etc/netplan/90-metalcast.yaml"]
    given, made = config_of(case), parse_network_yaml(text)
    assert made.bonds == given.bonds
    assert made.bridges == given.bridges
    assert made.vlans == given.vlans
    for before, after in zip(given.ethernets, made.ethernets, strict=True):
        assert (before.id, before.addresses, before.dhcp4) == (
            after.id,
            after.addresses,
            after.dhcp4,
        )
