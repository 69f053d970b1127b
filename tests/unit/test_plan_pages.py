"""The pages that a person reads before the first write, against golden copies.

`GOLDEN_WRITE=1 pytest tests/unit/test_plan_pages.py` writes them anew; read the difference.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from agent.model.inventory import Found
from agent.model.job import CaptureSpec, Identity, Verify
from agent.model.template import Firmware
from agent.planning.capture import plan_capture
from agent.planning.deploy import plan_deploy
from agent.planning.review import render_capture, render_plan
from agent.units import GiB
from tests.unit.make_plan import (
    JOB,
    guid,
    make_drive,
    make_inventory,
    make_layout,
    make_spec,
    make_template,
)
from tests.unit.test_plan_capture import make_found, make_survey

GOLDEN = Path(__file__).parent.parent / "golden" / "plans"


def bios_to_a_clean_disk() -> str:
    drive = make_drive()
    return render_plan(
        plan_deploy(make_inventory(drive), make_template(), make_spec(), {"disk0": drive}, JOB)
    )


def uefi_to_a_disk_with_a_past() -> str:
    drive = make_drive(
        path="/dev/nvme0n1",
        size_bytes=480_103_981_056,
        model="SAMSUNG MZ7LH480",
        serial="S45PNA0M123456",
        wwn="eui.0025388b91d0a1b2",
        contents=(
            Found(path="/dev/nvme0n1", what="gpt", usage="table", uuid=guid(900)),
            Found(
                path="/dev/nvme0n1p1", what="ext4", usage="filesystem", label="old", uuid=guid(901)
            ),
            Found(path="/dev/nvme0n1p2", what="LVM2_member", usage="raid", uuid="Xyz-1"),
        ),
    )
    spec = make_spec(
        consent=("LVM2_member",),
        identity=Identity(hostname="web1.example"),
        verify=Verify.FULL,
    )
    inventory = make_inventory(drive, firmware="uefi")
    return render_plan(plan_deploy(inventory, make_template(), spec, {"disk0": drive}, JOB))


def root_cannot_grow() -> str:
    layout = make_layout()
    content = layout.volume("root").content
    volumes = tuple(
        msgspec.structs.replace(
            volume, content=msgspec.structs.replace(content, uuid=guid(77)), mount="/srv"
        )
        if volume.id == "swap"
        else volume
        for volume in layout.volumes
    )
    template = make_template(msgspec.structs.replace(layout, volumes=volumes))
    drive = make_drive(size_bytes=64 * GiB)
    return render_plan(
        plan_deploy(make_inventory(drive), template, make_spec(), {"disk0": drive}, JOB)
    )


def a_capture() -> str:
    drive = make_drive(size_bytes=4 * GiB)
    survey = make_survey(notes=("its fstab mounts UUID=1 on /data, which is not on this disk",))
    return render_capture(
        plan_capture(
            make_inventory(drive), make_found(), survey, CaptureSpec(name="demo"), (drive,)
        )
    )


PAGES: dict[str, Callable[[], str]] = {
    "deploy-bios": bios_to_a_clean_disk,
    "deploy-uefi": uefi_to_a_disk_with_a_past,
    "deploy-no-growth": root_cannot_grow,
    "capture": a_capture,
}


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_as_it_was(name: str) -> None:
    page, golden = PAGES[name](), GOLDEN / f"{name}.txt"
    page = re.sub("sha256:[0-9a-f]{64}", "sha256:…", page)
    if os.environ.get("GOLDEN_WRITE"):
        golden.write_text(page)
    assert page == golden.read_text()


@pytest.mark.parametrize("name", PAGES)
def test_every_line_fits_a_terminal(name: str) -> None:
    assert max(len(line) for line in PAGES[name]().splitlines()) <= 132


def test_a_label_cannot_steer_the_terminal() -> None:
    evil = Found(path="/dev/vda1", what="ext4", usage="filesystem", label="\x1b[2J\x1b]0;x\x07")
    drive = make_drive(contents=(evil,), model="\x9b31m")
    page = render_plan(
        plan_deploy(make_inventory(drive), make_template(), make_spec(), {"disk0": drive}, JOB)
    )
    assert all(sign.isprintable() for sign in page.replace("\n", ""))


def test_both_firmwares_are_named() -> None:
    assert f"boots on {Firmware.BIOS} and {Firmware.UEFI}" in a_capture()
