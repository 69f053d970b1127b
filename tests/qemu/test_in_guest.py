"""Component tests that want a kernel of their own, run inside guests as their root."""

from pathlib import Path

import pytest

from tests.harness.guest import GuestTest, run_in_guest

pytestmark = pytest.mark.qemu

ALONE = pytest.mark.alone
# One guest each. Those of tests/loop need nothing but what the image has; the host may lack the
# privilege.
BUNDLES = {
    "layouts": ("tests/guest/test_layouts.py", "tests/guest/test_layouts_changed.py"),
    "stacks": (
        "tests/guest/test_md.py",
        "tests/guest/test_lvm.py",
        "tests/guest/test_luks.py",
    ),
    "disks": (
        "tests/guest/test_tables.py",
        "tests/guest/test_guards.py",
    ),
    "files": (
        "tests/guest/test_filesystems.py",
        "tests/guest/test_left_out.py",
        "tests/guest/test_view.py",
        "tests/guest/test_nbd.py",
        "tests/guest/test_copies.py",
        "tests/guest/test_other_layout.py",
        "tests/guest/test_sandbox.py",
        "tests/guest/test_boot_devices.py",
    ),
    "rest": (
        "tests/guest/test_probe.py",
        "tests/guest/test_volumes.py",
        "tests/guest/test_btrfs_devices.py",
        "tests/guest/test_wipe.py",
        "tests/loop/test_block.py",
        "tests/loop/test_command.py",
    ),
}
# No bundle shares anything dear. These run in the set of those tests that do, so that the two sets
# of scripts/test take about as long as each other.
WITH_SHARERS = ("layouts",)
TIMEOUT_S = 4800


def test_no_file_is_forgotten() -> None:
    there = {f"tests/guest/{path.name}" for path in Path("tests/guest").glob("test_*.py")}
    named = {path for paths in BUNDLES.values() for path in paths}
    assert there <= named


@pytest.mark.parametrize(
    ("bundle", "which"),
    [
        *(
            pytest.param(bundle, "not full", marks=() if bundle in WITH_SHARERS else ALONE)
            for bundle in BUNDLES
        ),
        *(pytest.param(bundle, "full", marks=(pytest.mark.full, ALONE)) for bundle in BUNDLES),
    ],
)
def test_in_a_guest(bundle: str, which: str, run_folder: Path, image: Path) -> None:
    folder = run_folder / f"guest-{bundle}-{which.replace(' ', '-')}"
    folder.mkdir()
    words = (*BUNDLES[bundle], "-m", which)
    results = run_in_guest(words, folder, image, timeout_s=TIMEOUT_S)
    failed = [one for one in results if one.outcome == "failed"]
    assert not failed, "\n\n".join(f"{one.name}\n{one.text}" for one in failed)
    ran = [path for path in BUNDLES[bundle] if passed(results, path)]
    assert ran
    if which != "full":  # not every file has cases for the long matrix
        assert ran == list(BUNDLES[bundle]), f"nothing of the others ran: {ran}"
    ours = [one for one in results if one.name.startswith("tests/guest")]
    assert not [one.name for one in ours if one.outcome == "skipped"]
    assert (results[-1].name, results[-1].outcome) == ("pytest", "passed"), results[-1].text


def passed(results: tuple[GuestTest, ...], path: str) -> bool:
    return any(one.name.startswith(path) and one.outcome == "passed" for one in results)
