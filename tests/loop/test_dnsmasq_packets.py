"""Our dnsmasq as machines see it: real dnsmasq, real namespaces, packets made by hand."""

import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import cannot_run
from tests.loop.dhcp_lab import (
    SITE,
    US,
    Answer,
    Lab,
    ask_proxy,
    discover,
    firmware,
    inside,
    lab,
    read_tftp,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
SCRIPT = f"http://{US}:8470/boot/boot.ipxe"
PROGRAM = {0: "undionly.kpxe", 7: "snponly.efi", 9: "snponly.efi"}
IPXE = {77: b"iPXE", 175: bytes([1, 1, 1])}


def need_tools() -> None:
    for tool in ("dnsmasq", "ip"):
        if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            cannot_run(f"{tool} is not installed")


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    need_tools()
    folder = tmp_path_factory.mktemp("proxy")
    with lab(folder) as made:
        made.start_site()
        made.start_us("proxy")
        yield made


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    need_tools()
    with lab(tmp_path_factory.mktemp("full")) as made:
        made.start_us("full")
        yield made


def by(server: str, answers: list[Answer]) -> Answer:
    """Return the one answer that came from `server`."""
    found = [answer for answer in answers if answer.server == server]
    assert len(found) == 1, answers
    return found[0]


@pytest.mark.parametrize("architecture", [0, 7, 9])
def test_the_proxy_hands_ipxe_to_firmware(proxy: Lab, architecture: int) -> None:
    offers = discover(proxy, firmware(architecture))
    assert by(SITE, offers).address.startswith("10.77.0.1")
    ours = by(US, offers)
    assert (ours.address, ours.vendor) == ("0.0.0.0", "PXEClient")
    answer = by(US, ask_proxy(proxy, firmware(architecture)))
    assert answer.boot_file == PROGRAM[architecture]
    assert answer.next_server == US


def test_the_proxy_hands_a_url_to_http_firmware(proxy: Lab) -> None:
    offer = by(US, discover(proxy, firmware(16)))
    assert (offer.address, offer.vendor) == ("0.0.0.0", "HTTPClient")
    assert offer.boot_file == f"http://{US}:8470/boot/snponly.efi"


@pytest.mark.parametrize("architecture", [0, 7, 9])
def test_the_proxy_hands_the_script_to_ipxe(proxy: Lab, architecture: int) -> None:
    offer = by(US, discover(proxy, {**firmware(architecture), **IPXE}))
    assert (offer.address, offer.boot_file) == ("0.0.0.0", SCRIPT)
    assert offer.next_server == US  # without it, iPXE takes no notice of the file


def test_the_proxy_leaves_all_others_alone(proxy: Lab) -> None:
    for options in ({55: bytes([1, 3])}, {60: b"MSFT 5.0"}, {60: b"udhcp 1.36.1"}):
        assert [answer.server for answer in discover(proxy, options)] == [SITE]


@pytest.mark.parametrize("architecture", [0, 7, 9])
def test_full_gives_an_address_and_ipxe(full: Lab, architecture: int) -> None:
    offer = by(US, discover(full, firmware(architecture)))
    assert 200 <= int(offer.address.split(".")[-1]) <= 220
    assert (offer.boot_file, offer.next_server) == (PROGRAM[architecture], US)
    assert 3 not in offer.options  # we are nobody's router,
    assert 6 not in offer.options  # nor name server
    offer = by(US, discover(full, {**firmware(architecture), **IPXE}))
    assert offer.boot_file == SCRIPT


def test_full_gives_http_firmware_a_url(full: Lab) -> None:
    offer = by(US, discover(full, firmware(16)))
    assert offer.vendor == "HTTPClient"
    assert offer.boot_file == f"http://{US}:8470/boot/snponly.efi"


def test_both_programs_come_over_tftp_as_they_are(proxy: Lab) -> None:
    for name in ("undionly.kpxe", "snponly.efi"):
        assert read_tftp(proxy, name) == (Path("/usr/lib/ipxe") / name).read_bytes()
    for name in ("../dnsmasq.conf", "../../etc/passwd", "/etc/passwd"):
        assert read_tftp(proxy, name) is None


def test_full_gives_others_an_address_and_nothing_to_boot(full: Lab) -> None:
    offer = by(US, discover(full, {55: bytes([1, 3, 67])}))
    assert offer.address.startswith("10.77.0.2")
    assert offer.boot_file == ""


def test_a_dead_dnsmasq_ends_what_runs_it_and_a_left_one_is_replaced(full: Lab) -> None:
    pid = full.run_folder / "pid"
    us, left = full.children[-1], pid.read_text()
    us.kill()
    us.wait()
    again = full.start_us("full")
    assert f"ending the dnsmasq {left.strip()} " in full.log("us")
    assert by(US, discover(full, firmware(0))).boot_file == PROGRAM[0]
    os.kill(int(pid.read_text()), signal.SIGKILL)
    assert again.wait(10) != 0
    assert "dnsmasq ended with status -9" in full.log("us")


def test_a_port_that_is_taken_is_said_so(tmp_path: Path) -> None:
    need_tools()
    with lab(tmp_path) as made:
        with inside(made.us), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("0.0.0.0", 67))
            child = [sys.executable, "-m", "tests.loop.dhcp_child", "proxy", made.bridge]
            assert made.start(made.us, "us", *child, str(tmp_path)).wait(30) != 0
        assert "dnsmasq ended with status 2:" in made.log("us")
        assert "Address already in use" in made.log("us")
        assert not made.run_folder.exists()
