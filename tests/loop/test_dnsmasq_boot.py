"""Real firmware in QEMU, on a real bridge, from our dnsmasq to our first script."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import cannot_run
from tests.loop.dhcp_lab import Lab, lab, run

pytestmark = [
    pytest.mark.root,
    pytest.mark.qemu,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
MAC = "52:54:00:12:34:57"
OVMF = Path("/usr/share/OVMF")
LIMIT_S = 150.0


@pytest.fixture(params=["proxy", "full"])
def network(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    for tool in ("dnsmasq", "qemu-system-x86_64"):
        if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            cannot_run(f"{tool} is not installed")
    with lab(tmp_path) as made:
        run("ip", "-n", made.us, "tuntap", "add", "tap0", "mode", "tap")
        run("ip", "-n", made.us, "link", "set", "tap0", "master", made.bridge, "up")
        if request.param == "proxy":
            made.start_site()
        made.start_us(request.param)
        yield made


def start_guest(made: Lab, *words: str) -> None:
    """Start a guest without a disk on the tap of the bridge."""
    guest = (
        "qemu-system-x86_64 -accel tcg,thread=multi -cpu max -machine q35,graphics=off -m 512"
        f" -nodefaults -display none -no-reboot -serial file:{made.folder}/serial.log"
        " -netdev tap,id=n0,ifname=tap0,script=no,downscript=no"
    )
    made.start(made.us, "qemu", *guest.split(), *words)


def fetched(made: Lab) -> list[str]:
    lines = made.log("us").splitlines()
    return [line.removeprefix("FETCHED ") for line in lines if line.startswith("FETCHED ")]


def test_a_bios_with_ipxe_on_its_card_gets_the_script(network: Lab) -> None:
    start_guest(network, "-device", f"virtio-net-pci,netdev=n0,mac={MAC},bootindex=1")
    network.wait_for("us", "FETCHED /boot/second", LIMIT_S)
    assert fetched(network) == [
        "/boot/boot.ipxe",
        f"/boot/second?mac={MAC.replace(':', '-')}&platform=pcbios",
    ]
    assert "sent /run" not in network.log("us")  # it has iPXE: nothing came over TFTP


def test_plain_uefi_firmware_gets_ipxe_and_then_the_script(network: Lab) -> None:
    """The card has no iPXE: the firmware's own PXE asks, and TFTP brings what goes on."""
    code, names = OVMF / "OVMF_CODE_4M.fd", network.folder / "vars.fd"
    if not code.exists():
        cannot_run("ovmf is not installed")
    shutil.copyfile(OVMF / "OVMF_VARS_4M.fd", names)
    start_guest(
        network,
        "-device",
        f"virtio-net-pci,netdev=n0,mac={MAC},bootindex=1,romfile=",
        "-drive",
        f"if=pflash,format=raw,unit=0,readonly=on,file={code}",
        "-drive",
        f"if=pflash,format=raw,unit=1,file={names}",
    )
    network.wait_for("us", "FETCHED /boot/second", LIMIT_S)
    assert f"sent {network.run_folder}/tftp/snponly.efi to" in network.log("us")
    assert fetched(network) == [
        "/boot/boot.ipxe",
        f"/boot/second?mac={MAC.replace(':', '-')}&platform=efi",
    ]
