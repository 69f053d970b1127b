"""Which interface gets which setting; what a DHCP server may say."""

import pytest

from agent.bootargs import parse_bootargs
from agent.errors import UsageError
from agent.model.inventory import Nic
from agent.system.dhcp import Lease, NoLease, Route, parse_lease
from agent.system.netup import Goal, NetworkPlan, plan_network, render_resolv_conf


def make_nic(name: str, mac: str) -> Nic:
    return Nic(name=name, mac=mac, driver="x", link=False)


NICS = (make_nic("eth0", "52:54:00:00:00:01"), make_nic("eth1", "52:54:00:00:00:02"))


def plan(cmdline: str) -> NetworkPlan:
    return plan_network(parse_bootargs(cmdline), NICS)


def candidates(cmdline: str) -> list[tuple[str, ...]]:
    return [goal.candidates for goal in plan(cmdline).goals]


def test_without_a_word_every_interface_may_try_dhcp() -> None:
    [goal] = plan("").goals
    assert goal.setting.is_dhcp
    assert goal.candidates == ("eth0", "eth1")


def test_the_interface_that_booted_is_first() -> None:
    assert candidates("BOOTIF=01-52-54-00-00-00-02 ip=dhcp") == [("eth1", "eth0")]
    assert plan("BOOTIF=01-52-54-00-00-00-02").boot_device == "eth1"


def test_a_bootif_of_no_interface_is_no_reason_to_give_up() -> None:
    assert candidates("BOOTIF=01-52-54-00-00-00-99") == [("eth0", "eth1")]


def test_a_named_interface_is_the_only_one() -> None:
    assert candidates("ip=eth1:dhcp ip=10.0.0.5:::24::52-54-00-00-00-01:none") == [
        ("eth1",),
        ("eth0",),
    ]


def test_a_setting_goes_to_the_top_of_bond_and_vlan() -> None:
    found = plan("bond=bond0:eth0,52-54-00-00-00-02:mode=802.3ad vlan=bond0.42:bond0 ip=dhcp")
    assert found.bonds[0].ports == ("eth0", "eth1")
    assert found.goals[0].candidates == ("bond0.42",)
    assert candidates("bond=bond0:eth0") == [("bond0",)]


@pytest.mark.parametrize(
    "cmdline", ["ip=eth7:dhcp", "bond=bond0:eth0,eth7", "vlan=eth7.3:eth7", "ip=eth0.9:dhcp"]
)
def test_an_interface_that_is_not_there(cmdline: str) -> None:
    with pytest.raises(UsageError, match="has no network interface") as refused:
        plan(cmdline)
    assert "eth0 (52:54:00:00:00:01)" in str(refused.value.hint)


def test_no_interface_at_all() -> None:
    assert plan_network(parse_bootargs(""), ()).goals == (Goal(plan("").goals[0].setting, ()),)


def test_resolv_conf() -> None:
    text = render_resolv_conf(["1.1.1.1", "1.1.1.1", "::1", "2.2.2.2", "3.3.3.3"], ["a", "b", "a"])
    assert text == "search a b\nnameserver 1.1.1.1\nnameserver ::1\nnameserver 2.2.2.2\n"


LEASE = "ip=10.0.2.15\nmask=24\nrouter=10.0.2.2 10.0.2.3\ndns=10.0.2.3\ndomain=lab.test\n"


def test_a_lease() -> None:
    assert parse_lease(LEASE + "mtu=1400\nserverid=10.0.2.2\nlease=120\n") == Lease(
        "10.0.2.15/24",
        (Route("0.0.0.0/0", "10.0.2.2"),),
        ("10.0.2.3",),
        ("lab.test",),
        1400,
        "10.0.2.2",
    )


def test_classless_routes_come_before_the_router() -> None:
    lease = parse_lease(LEASE + "staticroutes=10.1.0.0/16 10.0.2.9 169.254.0.0/16 0.0.0.0\n")
    assert lease.routes == (Route("10.1.0.0/16", "10.0.2.9"), Route("169.254.0.0/16", None))


def test_a_network_without_a_router() -> None:
    assert parse_lease("ip=10.0.2.15\nmask=24\nrouter=\n").routes == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ip=10.0.2.15;reboot\nmask=24\nrouter=\n",
        "ip=10.0.2.15\nmask=99\nrouter=\n",
        "ip=10.0.2.15\nmask=24\nrouter=gateway\n",
        LEASE + "staticroutes=10.0.0.0/8\n",
        LEASE + "mtu=big\n",
    ],
)
def test_an_answer_that_is_no_lease(text: str) -> None:
    with pytest.raises(NoLease, match="cannot be used"):
        parse_lease(text)


def test_a_search_domain_that_is_none_is_left_out() -> None:
    lease = parse_lease(LEASE.replace("lab.test", "ok.test $(reboot) a/b nameserver_x"))
    assert lease.search == ("ok.test", "nameserver_x")
