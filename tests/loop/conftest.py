"""Tests on files and block devices take their time one by one: they run beside the others."""

from pathlib import Path

import pytest

from tests.conftest import cannot_run
from tests.harness.powercut import daemon

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.alone)


@pytest.fixture(scope="session")
def needs_daemon() -> None:
    """The program that makes files into bad disks, or logs what is written to them."""
    if why := daemon():
        cannot_run(why)
