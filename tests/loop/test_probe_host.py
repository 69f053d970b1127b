"""The probe on the very host that runs the tests, against other programs' word for it."""

import json
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.model.inventory import Inventory
from agent.probe import probe_inventory, render_inventory
from agent.probe.contents import probe_contents
from agent.probe.network import parse_ip_json, probe_links
from agent.system.command import Run
from agent.units import MiB


@pytest.fixture(scope="module")
def inventory() -> Inventory:
    return probe_inventory(Run())


def ask(*words: str) -> str:
    if not shutil.which(words[0]):
        assert "CI" not in os.environ, f"{words[0]} is missing"
        pytest.skip(f"{words[0]} is missing")
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def test_disks_are_those_of_lsblk(inventory: Inventory) -> None:
    text = ask("lsblk", "--json", "--bytes", "--nodeps", "--output",
               "PATH,TYPE,SIZE,LOG-SEC,PHY-SEC,ROTA,RO,RM,SERIAL")  # fmt: skip
    theirs = {
        (d["path"], d["size"], d["log-sec"], d["phy-sec"], d["rota"], d["ro"], d["rm"])
        for d in json.loads(text)["blockdevices"]
        if d["type"] == "disk" and d["size"] and not d["path"].startswith(("/dev/zram", "/dev/ram"))
    }
    ours = {
        (d.path, d.size_bytes, d.sector_bytes, d.physical_sector_bytes, d.rotational,
         d.read_only, d.removable)
        for d in inventory.disks
    }  # fmt: skip
    assert ours == theirs


def test_the_disk_under_the_root_is_in_use(inventory: Inventory) -> None:
    source = ask("findmnt", "--noheadings", "--output", "SOURCE", "/").strip()
    if source not in {d.path for d in inventory.disks}:
        pytest.skip(f"the root is on {source}, which is no whole disk")
    [drive] = [d for d in inventory.disks if d.path == source]
    assert f"{source} is mounted on /" in drive.users


def test_netlink_and_ip_agree() -> None:
    ours = {link.name: link for link in probe_links()}
    theirs = {link.name: link for link in parse_ip_json(ask("ip", "-json", "address"))}
    assert {n: link.addresses for n, link in ours.items()} == {
        n: link.addresses for n, link in theirs.items()
    }
    for name, link in theirs.items():  # ip leaves it out where it is the one that is set
        assert link.permanent_mac in (None, ours[name].permanent_mac)


def test_the_rest_is_that_of_uname(inventory: Inventory) -> None:
    assert (inventory.arch, inventory.kernel) == (platform.machine(), platform.release())
    assert inventory.cpus >= (os.cpu_count() or 1) >= 1
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert abs(inventory.memory_bytes - pages) < MiB
    assert inventory.firmware == ("uefi" if Path("/sys/firmware/efi").exists() else "bios")


def test_its_page_names_every_disk(inventory: Inventory) -> None:
    page = render_inventory(inventory)
    for drive in inventory.disks:
        assert drive.path in page


def test_signatures_of_real_filesystems(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(64 * MiB)
    assert probe_contents(Run(), [str(image)]) == ()
    Run()(["sfdisk", "--quiet", image], stdin="label: gpt\n,32M\n")
    assert [f.what for f in probe_contents(Run(), [str(image)])] == ["gpt"]
    Run()(["mke2fs", "-q", "-F", "-t", "ext4", "-L", "données", image])
    [found] = [f for f in probe_contents(Run(), [str(image)]) if f.usage == "filesystem"]
    assert (found.what, found.label, found.path) == ("ext4", "données", str(image))


def test_a_missing_device_is_unreadable(tmp_path: Path) -> None:
    [found] = probe_contents(Run(), [str(tmp_path / "none")])
    assert found.what == "unreadable"
