"""Component tests that want a kernel of their own, run inside one guest as its root."""

import dataclasses
from pathlib import Path

import pytest

from tests.harness.guest import GuestTest, run_in_guest

pytestmark = pytest.mark.qemu

# Those of tests/loop that need nothing but what the image has; the host may lack the privilege.
PATHS = (
    "tests/guest",
    "tests/loop/test_block.py",
    "tests/loop/test_command.py",
)


@pytest.fixture(scope="module")
def results(run_folder: Path, image: Path) -> tuple[GuestTest, ...]:
    folder = run_folder / "guest"
    folder.mkdir()
    return run_in_guest(PATHS, folder, image)


@pytest.mark.parametrize("path", PATHS)
def test_in_a_guest(path: str, results: tuple[GuestTest, ...]) -> None:
    ours = [one for one in results if one.name.startswith(path)]
    failed = [one for one in ours if one.outcome == "failed"]
    assert not failed, "\n\n".join(f"{one.name}\n{one.text}" for one in failed)
    assert any(one.outcome == "passed" for one in ours), f"nothing of {path} ran"
    skipped = [dataclasses.asdict(one) for one in ours if one.outcome == "skipped"]
    if path == "tests/guest":
        assert not skipped


def test_the_guest_ends_as_it_should(results: tuple[GuestTest, ...]) -> None:
    last = results[-1]
    assert (last.name, last.outcome) == ("pytest", "passed"), last.text
