"""No text of a network configuration can end a line, open a comment or start a template."""

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.model.network import (
    BadNetworkConfig,
    NetworkConfig,
    network_document,
    parse_network_config,
    parse_network_yaml,
)

MAC_1 = "52:54:00:12:34:56"
POISON = (
    "\n",
    "\r",
    "\0",
    ";",
    "{{",
    "}}",
    "{%",
    "`",
    "$(",
    '"',
    "'",
    "\\",
    " ",
    "#",
    "\u2028",
    "=",
)
GOOD: dict[str, Any] = {
    "ethernets": {
        "lan": {
            "match": {"macaddress": MAC_1},
            "set-name": "lan0",
            "addresses": ["192.0.2.5/24", "2001:db8::5/64"],
            "gateway4": "192.0.2.1",
            "gateway6": "2001:db8::1",
            "routes": [{"to": "10.0.0.0/8", "via": "192.0.2.2", "metric": 3}],
            "nameservers": {"addresses": ["192.0.2.53"], "search": ["example.net"]},
            "macaddress": "02:00:00:00:00:01",
            "dhcp-identifier": "mac",
        },
        "eno2": {},
        "eno3": {"match": {"name": "ens*"}},
    },
    "bonds": {
        "bond0": {
            "interfaces": ["eno2"],
            "parameters": {
                "mode": "active-backup",
                "primary": "eno2",
                "arp-interval": "100ms",
                "arp-ip-targets": ["192.0.2.1"],
            },
        },
        "bond1": {
            "interfaces": ["eno3"],
            "parameters": {
                "mode": "802.3ad",
                "lacp-rate": "slow",
                "transmit-hash-policy": "layer2",
            },
        },
    },
    "bridges": {"br0": {"interfaces": ["bond0"], "parameters": {"hello-time": "2s"}}},
    "vlans": {"v1": {"id": 5, "link": "lan"}},
    "renderer": "networkd",
    "version": 2,
}


def every_text(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of each text in a document, keys included (as `("key", …)`)."""
    if isinstance(value, str):
        return [path]
    found: list[tuple[Any, ...]] = []
    if isinstance(value, dict):
        for key, item in value.items():
            found += [("key", *path, key), *every_text(item, (*path, key))]
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += every_text(item, (*path, index))
    return found


def changed(value: Any, path: tuple[Any, ...], change: Any) -> Any:
    """Return a copy of a document whose text at `path` has gone through `change`."""
    is_key = path[:1] == ("key",)
    path = path[1:] if is_key else path
    if not path:
        return change(value)
    head, rest = path[0], path[1:]
    below = ("key", *rest) if is_key else rest
    if isinstance(value, list):
        return [changed(v, below, change) if i == head else v for i, v in enumerate(value)]
    if is_key and not rest:
        return {change(k) if k == head else k: v for k, v in value.items()}
    return {k: changed(v, below, change) if k == head else v for k, v in value.items()}


TEXTS = every_text(GOOD)


def test_the_good_document_is_good() -> None:
    config = parse_network_config(GOOD)
    assert parse_network_config(network_document(config)) == config
    assert len(TEXTS) > 60


@pytest.mark.parametrize("path", TEXTS, ids=str)
def test_a_new_line_after_any_text_is_refused(path: tuple[Any, ...]) -> None:
    """Each place once, whatever hypothesis draws: `$` would have let this through."""
    with pytest.raises(BadNetworkConfig):
        parse_network_config(changed(GOOD, path, lambda text: text + "\n"))


@settings(deadline=None)
@given(
    path=st.sampled_from(TEXTS),
    poison=st.sampled_from(POISON) | st.characters(categories=["Cc", "Zl", "Zp", "Cf"]),
    at=st.integers(0, 40),
)
def test_poison_in_any_text_is_refused(path: tuple[Any, ...], poison: str, at: int) -> None:
    document = changed(GOOD, path, lambda text: text[:at] + poison + text[at:])
    with pytest.raises(BadNetworkConfig) as caught:
        parse_network_config(document)
    # Nor may the message carry it to a console or a log.
    assert all(" " <= c <= "~" for c in str(caught.value))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(path=st.sampled_from(TEXTS), junk=JSON)
def test_junk_anywhere_is_refused_or_understood(path: tuple[Any, ...], junk: Any) -> None:
    def put(text: str) -> Any:
        hashable = isinstance(junk, str | int | float | None)
        return junk if path[0] != "key" else (junk if hashable else text)

    try:
        config = parse_network_config(changed(GOOD, path, put))
    except BadNetworkConfig:
        return
    assert parse_network_config(network_document(config)) == config


@settings(deadline=None)
@given(text=st.text(alphabet=st.sampled_from("network: {}[]-,&*!|>'\"\n2aé\t#?%@"), max_size=60))
def test_any_yaml_is_refused_or_understood(text: str) -> None:
    with contextlib.suppress(BadNetworkConfig):
        assert isinstance(parse_network_yaml(text), NetworkConfig)
