"""What dnsmasq is told, word for word, and what may not get into it."""

from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from agent.errors import UsageError
from netboot.dnsmasq import (
    AddressRange,
    DhcpError,
    DhcpMode,
    DhcpPlan,
    check_rights,
    dnsmasq_config,
    parse_range,
)

HERE = Path(__file__).parent / "dnsmasq"
TFTP, LEASES = Path("/run/metalcast-eno1/tftp"), Path("/var/lib/metalcast/dhcp.leases")


def make_plan(
    mode: DhcpMode = DhcpMode.PROXY,
    interface: str = "eno1",
    url: str = "http://10.0.0.5:8470",
    given: AddressRange | None = None,
    router: IPv4Address | None = None,
) -> DhcpPlan:
    return DhcpPlan(mode, interface, IPv4Interface("10.0.0.5/24"), url, given, router)


@pytest.mark.parametrize("mode", list(DhcpMode))
def test_the_configuration_is_as_it_was(mode: DhcpMode) -> None:
    is_full = mode is DhcpMode.FULL
    plan = make_plan(
        mode,
        given=parse_range("10.0.0.100,10.0.0.200,12h") if is_full else None,
        router=IPv4Address("10.0.0.1") if is_full else None,
    )
    assert dnsmasq_config(plan, TFTP, LEASES) == (HERE / f"{mode}.conf").read_text()


@pytest.mark.parametrize(
    "interface", ["", "eth0\n", "eth0,lo", "-x", "a" * 16, "eth0 ", "../x", "eth\x00"]
)
def test_no_other_interface_gets_in(interface: str) -> None:
    with pytest.raises(UsageError, match="not the name of an interface"):
        make_plan(interface=interface)


@pytest.mark.parametrize(
    "url", ["https://a", "http://a/b", "http://a\nport=53", "http://a,b", "http://A", "http://a "]
)
def test_no_other_url_gets_in(url: str) -> None:
    with pytest.raises(UsageError, match="cannot boot from"):
        make_plan(url=url)


@pytest.mark.parametrize("path", ["relative", "/a b", "/a\nuser=root", "/a,b", "/a#b"])
def test_no_other_path_gets_in(path: str) -> None:
    for paths in ((Path(path), LEASES), (TFTP, Path(path))):
        with pytest.raises(UsageError, match="cannot take this path"):
            dnsmasq_config(make_plan(), *paths)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.0.0.100", "not a range"),
        ("10.0.0.100,10.0.0.999", "not a range"),
        ("10.0.0.100,10.0.0.120,1d", "not a range"),
        ("10.0.0.100,10.0.0.120\n", "not a range"),
        ("10.0.1.100,10.0.1.120", "is not inside 10.0.0.0/24"),
        ("10.0.0.120,10.0.0.100", "comes after"),
        ("10.0.0.1,10.0.0.9", "10.0.0.5 is not free"),
        ("10.0.0.200,10.0.0.255", "10.0.0.255 is not free"),
    ],
)
def test_a_bad_range_is_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        make_plan(DhcpMode.FULL, given=parse_range(text))


def test_full_and_its_range_belong_together() -> None:
    with pytest.raises(UsageError, match="belong together"):
        make_plan(DhcpMode.FULL)
    with pytest.raises(UsageError, match="belong together"):
        make_plan(DhcpMode.PROXY, given=parse_range("10.0.0.100,10.0.0.120"))


def test_rights_that_lack_are_named() -> None:
    check_rights("Name:\tx\nCapEff:\t0000003fffffffff\n")
    with pytest.raises(DhcpError, match="needs CAP_NET_ADMIN, CAP_NET_RAW:"):
        check_rights("CapEff:\t0000000000000400\n")
