"""What is read of a source disk, and that reading does not change it."""

import hashlib
from pathlib import Path

import pytest

from agent.identity.survey import survey
from agent.model.inventory import Drive
from agent.model.job import CaptureSpec
from agent.model.layout import (
    Ext,
    Raw,
    Swap,
    Vfat,
)
from agent.model.template import Firmware, NetworkStack
from agent.planning.capture import plan_capture, template_config
from agent.planning.review import render_capture
from agent.source.open import opened_system
from agent.system.command import Run
from agent.tools import boot_sector, sfdisk
from tests.loop.small import (
    BOOT_CODE,
    SOURCE_BYTES,
    Loops,
    make_small_layout,
    make_volumes,
    planned_table,
    sh,
)
from tests.unit.make_plan import guid, make_drive, make_inventory

pytestmark = pytest.mark.root
RUN = Run()


@pytest.fixture
def source(tmp_path: Path) -> Drive:
    """A disk as a captured server has it."""
    disk = tmp_path / "source.img"
    with disk.open("wb") as file:
        file.truncate(SOURCE_BYTES)
    layout = make_small_layout()
    table = planned_table(layout)
    sfdisk.write_table(RUN, disk, table)
    boot_sector.write_boot_code(disk, BOOT_CODE)
    volumes = make_volumes(tmp_path, layout, fstab=f"UUID={guid(101)} / ext4 defaults 0 1\n")
    for part, name in zip(table.partitions, ("bios-boot", "esp", "root"), strict=False):
        with disk.open("r+b") as file:
            file.seek(part.offset_bytes)
            file.write(volumes[name])
    with disk.open("r+b") as file:
        swap = tmp_path / "swap.img"
        swap.write_bytes(bytes(table.partition(4).size_bytes))
        sh("mkswap", "-q", "-U", guid(102), swap)
        file.seek(table.partition(4).offset_bytes)
        file.write(swap.read_bytes())
    return make_drive(path=str(disk), size_bytes=SOURCE_BYTES)


def test_a_source_is_understood_and_untouched(source: Drive, tmp_path: Path) -> None:
    disk = Path(source.path)
    before = hashlib.sha256(disk.read_bytes()).hexdigest()
    loops = Loops()
    try:
        with opened_system(RUN, {"disk0": source}, partition=loops.another) as layout:
            said = survey(RUN, layout, tmp_path / "mnt")
    finally:
        loops.close()
    assert hashlib.sha256(disk.read_bytes()).hexdigest() == before
    plan = plan_capture(make_inventory(source), layout, said, CaptureSpec(name="demo"), (source,))
    assert plan.boots == (Firmware.BIOS, Firmware.UEFI)
    kinds = {volume.id: type(volume.content) for volume in plan.layout.volumes}
    del kinds["boot-code"]
    assert kinds == {"bios-boot": Raw, "esp": Vfat, "root": Ext, "swap": Swap}
    root = plan.layout.volume("root")
    assert root.mount == "/"
    assert 0 < root.minimum_bytes < root.size_bytes
    assert plan.os is not None
    assert plan.os.network_stack is NetworkStack.IFUPDOWN
    assert {gone.path for gone in plan.redactions} == {
        "/etc/machine-id",
        "/etc/ssh/ssh_host_ed25519_key",
        "/etc/ssh/ssh_host_ed25519_key.pub",
        "/var/lib/dhcp/dhclient.eth0.leases",
        "/var/lib/systemd/random-seed",
    }
    read = next(one for one in plan.volumes if one.volume == "root")
    hidden = b"".join(
        disk.read_bytes()[read.place.offset_bytes + at : read.place.offset_bytes + at + size]
        for at, size in read.redacted
    )
    assert b"OLD PRIVATE KEY" in hidden
    page = render_capture(plan)
    assert "/etc/ssh/ssh_host_ed25519_key" in page
    config = template_config(
        plan, make_inventory(source), "2026-11-23T12:00:00Z", "metalcast 0.1.0"
    )
    assert config.layout == plan.layout


def test_a_dirty_filesystem_and_a_hibernated_swap_are_both_named(
    source: Drive, tmp_path: Path
) -> None:
    loops = Loops()
    try:
        root = loops.node(Path(source.path), 3)
        sh("debugfs", "-w", "-R", "ssv state 0", root)
        loops.close()
        swap = make_small_layout().partitions("disk0")[3]
        with Path(source.path).open("r+b") as file:
            file.seek(swap.offset_bytes + 4096 - 10)
            file.write(b"S1SUSPEND\0")
        with opened_system(RUN, {"disk0": source}, partition=loops.another) as layout:
            said = survey(RUN, layout, tmp_path / "mnt")
    finally:
        loops.close()
    with pytest.raises(Exception, match="cleanly") as caught:
        plan_capture(make_inventory(source), layout, said, CaptureSpec(name="demo"), (source,))
    assert "hibernated" in str(caught.value)
    assert "e2fsck" in str(caught.value)
