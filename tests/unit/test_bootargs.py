"""The kernel command line is read strictly, and everything in it is named in errors."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.bootargs import ARGUMENTS, BootArgs, parse_bootargs, render_arguments, split_cmdline
from agent.errors import AgentError, UsageError
from agent.model.job import DiskHints, Finish, Verify
from agent.system.cmdline_network import Bond, IpSetting, Vlan

DOC = Path(__file__).parents[2] / "docs" / "kernel-arguments.md"


def test_a_netboot() -> None:
    args = parse_bootargs(
        "vmlinuz initrd=initrd.img BOOTIF=01-52-54-00-AB-CD-EF ip=dhcp quiet "
        "console=tty0 console=ttyS0,115200n8 metalcast.server=http://10.0.2.2:8080/\n"
    )
    assert args == BootArgs(
        server="http://10.0.2.2:8080",
        bootif="52:54:00:ab:cd:ef",
        ip=(IpSetting(),),
        consoles=("tty0", "ttyS0,115200n8"),
    )


def test_a_capture_without_questions() -> None:
    args = parse_bootargs(
        'metalcast.mode=capture metalcast.name=web/debian-13 "metalcast.disk.model=QEMU HARDDISK" '
        'metalcast.disk.size=">=10GiB" metalcast.disk.rotational=no metalcast.level=9 '
        "metalcast.store=https://store.example:5000 metalcast.finish=stay metalcast.yes "
        "metalcast.on_error=reboot"
    )
    assert args.disk == DiskHints(model="QEMU HARDDISK", size=">=10GiB", rotational=False)
    assert (args.mode, args.name, args.level, args.yes) == ("capture", "web/debian-13", 9, True)
    assert (args.finish, args.on_error) == (Finish.STAY, "reboot")
    assert args.store == "https://store.example:5000"


def test_a_deployment() -> None:
    args = parse_bootargs(
        "metalcast.mode=deploy metalcast.template=debian-13:2026-11 "
        "metalcast.hostname=web1.example metalcast.consent=LVM2_member,crypto_LUKS "
        "metalcast.consent=duplicate-uuid "
        "metalcast.verify=full metalcast.grow=/var metalcast.lldp=31"
    )
    assert args.consent == ("LVM2_member", "crypto_LUKS", "duplicate-uuid")
    assert (args.verify, args.grow, args.lldp_seconds) == (Verify.FULL, "/var", 31)


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("dhcp", IpSetting()),
        ("eth0:dhcp", IpSetting(device="eth0")),
        ("eth0:dhcp:9000", IpSetting(device="eth0", mtu=9000)),
        ("52:54:00:12:34:56:dhcp", IpSetting(device="52:54:00:12:34:56")),
        (":::::eth1:dhcp", IpSetting(device="eth1")),
        (
            "10.0.0.5::10.0.0.1:255.255.255.0:web1:eth0:none:10.0.0.2:10.0.0.3",
            IpSetting("eth0", "10.0.0.5/24", "10.0.0.1", "web1", ("10.0.0.2", "10.0.0.3")),
        ),
        ("10.0.0.5:10.0.0.1:10.0.0.1:255.255.0.0", IpSetting(None, "10.0.0.5/16", "10.0.0.1")),
        ("10.0.0.5:::20::eth0:off:1400", IpSetting("eth0", "10.0.0.5/20", mtu=1400)),
        (
            "[fd00::5]::[fd00::1]:64::52-54-00-12-34-56:none:[fd00::53]",
            IpSetting("52:54:00:12:34:56", "fd00::5/64", "fd00::1", dns=("fd00::53",)),
        ),
    ],
)
def test_ip(text: str, setting: IpSetting) -> None:
    assert parse_bootargs(f"ip={text}").ip == (setting,)


def test_vlan_and_bond() -> None:
    args = parse_bootargs(
        "bond=bond0:eth0,52-54-00-12-34-56:mode=802.3ad,miimon=100:9000 vlan=bond0.42:bond0"
    )
    assert args.vlans == (Vlan("bond0.42", "bond0", 42),)
    assert args.bonds == (
        Bond(
            "bond0", ("eth0", "52:54:00:12:34:56"), (("mode", "802.3ad"), ("miimon", "100")), 9000
        ),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metalcast.serverr=http://x", "unknown kernel argument metalcast.serverr"),
        ("metalcast.disk=sda", "unknown kernel argument metalcast.disk"),
        ("metalcast.mode=destroy", "metalcast.mode='destroy' cannot be read: expected job|"),
        ("metalcast.mode", "metalcast.mode needs a value"),
        ("metalcast.name=Big", "metalcast.name='Big' cannot be read"),
        ("metalcast.name=a metalcast.name=b", "metalcast.name is given twice"),
        ("metalcast.server=ftp://x", "metalcast.server='ftp://x' cannot be read: expected URL"),
        ("metalcast.server=http://x/?token=1", "metalcast.server="),
        ("metalcast.hostname=a;reboot", "metalcast.hostname='a;reboot' cannot be read"),
        ("metalcast.level=20", "metalcast.level='20' cannot be read"),
        ("metalcast.yes=maybe", "metalcast.yes='maybe' cannot be read"),
        ("metalcast.grow=/../etc", "metalcast.grow='/../etc' cannot be read"),
        ("metalcast.disk.serial=", "metalcast.disk.serial='' cannot be read"),
        ("ip=perhaps", "ip='perhaps' cannot be read: 'perhaps' is no way to get an address"),
        ("ip=10.0.0.256:::24::eth0:none", "ip='10.0.0.256:::24::eth0:none' cannot be read"),
        ("ip=10.0.0.5::[fd00::1]:24::eth0:none", "two IP versions"),
        ("ip=[fd00::5::eth0:none", "brackets do not pair up"),
        ("BOOTIF=01-52-54-00-12", "BOOTIF='01-52-54-00-12' cannot be read"),
        ("BOOTIF=20-52-54-00-12-34-56", "only Ethernet"),
        ("vlan=eth0:eth0.5000", "vlan='eth0:eth0.5000' cannot be read"),
        ("vlan=eth0.5000:eth0", "a tag from 1 to 4094"),
        ("bond=bond0:eth0,eth0", "one port is named twice"),
        ("bond=bond0:eth0:mode", "'mode' is not an option"),
        ("bond=bond0:../eth0", "is not an interface's name"),
        ("nameserver=dns.example", "nameserver='dns.example' cannot be read"),
        ("console=../../dev/sda", "console='../../dev/sda' cannot be read"),
    ],
)
def test_bad_arguments_are_named(text: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_bootargs(f"quiet {text} splash")
    assert message in str(refused.value)


def test_the_nearest_known_argument_is_offered() -> None:
    with pytest.raises(UsageError) as refused:
        parse_bootargs("metalcast.disk.serail=X")
    assert refused.value.hint == "did you mean metalcast.disk.serial=?"


@pytest.mark.parametrize(
    "name", ["token", "server.token", "password", "store_secret", "api_key", "TOKEN"]
)
def test_no_secret_on_the_command_line(name: str) -> None:
    with pytest.raises(UsageError, match="no secret on the kernel command line") as refused:
        parse_bootargs(f"metalcast.{name}=hunter2")
    assert "hunter2" not in f"{refused.value}{refused.value.hint}"


def test_a_password_in_a_url_is_refused_and_not_shown() -> None:
    with pytest.raises(UsageError) as refused:
        parse_bootargs("metalcast.server=http://user:hunter2@10.0.0.1/")
    assert "hunter2" not in f"{refused.value}{refused.value.hint}"


def test_arguments_of_others_are_left_alone() -> None:
    text = "root=/dev/sda1 rd.metalcast.x=1 initrd=a.img -- metalcast.nonsense=1 single"
    assert parse_bootargs(text) == BootArgs()


def test_quotes_are_the_kernels() -> None:
    assert list(split_cmdline('a="b c"  "d=e f" g')) == ["a=b c", "d=e f", "g"]


@given(st.text(alphabet='metalcast.disk=ip:[],-0 1"\t\n/é\0', max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    for prefix in ("", "ip=", "metalcast.", "bond=", "vlan=", "BOOTIF="):
        try:
            parse_bootargs(prefix + text)
        except AgentError:
            continue  # any other exception is a bug


def test_the_page_lists_every_argument() -> None:
    text = DOC.read_text()
    assert render_arguments() in text, "run: python -m tests.unit.test_bootargs"
    assert len({argument.name for argument in ARGUMENTS}) == len(ARGUMENTS)


def test_every_argument_has_a_field() -> None:
    for argument in ARGUMENTS:
        holder = DiskHints if argument.name.startswith("disk.") else BootArgs
        fields = holder.__struct_fields__ if holder is DiskHints else BootArgs.__slots__
        assert argument.field in fields


if __name__ == "__main__":
    head = DOC.read_text().partition("## Ours")[0] if DOC.exists() else "# Kernel arguments\n\n"
    DOC.write_text(head + render_arguments())
