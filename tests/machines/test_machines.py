"""Machines as they were recorded, beside what the agent must see in them."""

import os
from pathlib import Path

import pytest

from agent.model.inventory import Inventory
from agent.model.wire import decode, pretty
from agent.probe import render_inventory
from tests.machines.recorded import unpack

HERE = Path(__file__).parent
MACHINES = sorted(path.parent for path in HERE.glob("*/recorded.txt"))
BOOT_MAC = "52:54:00:00:00:01"


@pytest.fixture(params=MACHINES, ids=lambda path: path.name)
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def probe(folder: Path, root: Path) -> Inventory:
    return unpack((folder / "recorded.txt").read_text(), root).probe(BOOT_MAC)


def test_the_machine_is_seen_as_it_is(folder: Path, tmp_path: Path) -> None:
    inventory = probe(folder, tmp_path)
    expected = folder / "machine.json"
    if "METALCAST_UPDATE" in os.environ:
        expected.write_text(pretty(inventory) + "\n")  # read the difference before it is kept
    assert inventory == decode(expected.read_bytes(), Inventory, str(expected))


def test_its_page(folder: Path, tmp_path: Path) -> None:
    page = render_inventory(probe(folder, tmp_path))
    expected = folder / "page.txt"
    if "METALCAST_UPDATE" in os.environ:
        expected.write_text(page)
    assert page == expected.read_text()


def test_there_are_machines() -> None:
    assert len(MACHINES) >= 4
