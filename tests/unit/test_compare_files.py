"""Copies compared with what they were copied from: what differs is named."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.errors import DiskError
from agent.model.event import Happening, Progressed
from agent.model.job import Verify
from agent.tools.compare_files import Compared, compare_trees
from agent.units import MiB

SEED = "sha256:abc"


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """A tree and its copy."""
    one = tmp_path / "one"
    (one / "boot/grub").mkdir(parents=True)
    (one / "boot/grub/grub.cfg").write_text("menu")
    (one / "boot/vmlinuz").write_bytes(bytes(range(256)) * 8192)
    for number in range(100):
        folder = one / f"usr/d{number % 50}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}").write_bytes(b"%d" % number * 500)
    (one / os.fsdecode(b"not-utf8-\xff")).write_bytes(b"x")
    (one / "link").symlink_to("nowhere")
    (one / "empty").touch()
    os.link(one / "boot/vmlinuz", one / "again")
    with (one / "sparse").open("wb") as file:
        file.seek(50 * MiB)
        file.write(b"end")
    two = tmp_path / "two"
    shutil.copytree(one, two, symlinks=True)
    return one, two


def compared(trees: tuple[Path, Path], mode: Verify = Verify.FULL, seed: str = SEED) -> Compared:
    return compare_trees(*trees, mode, seed=seed)


def test_a_good_copy_is_read_whole_but_for_holes(trees: tuple[Path, Path]) -> None:
    heard: list[Happening] = []
    found = compare_trees(*trees, Verify.FULL, heard.append, seed=SEED)
    assert found.files == 107
    assert 2 * MiB < found.bytes
    last = heard[-1]
    assert isinstance(last, Progressed)
    assert last.progress.done_bytes == last.progress.total_bytes > 2 * MiB


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def relinked(path: Path, to: str) -> None:
    path.unlink()
    path.symlink_to(to)


def no_link(path: Path) -> None:
    path.unlink()
    path.write_text("nowhere")


SPOILT: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a bit": ("usr/d3/f53 .* at 0", lambda two: overwrite(two / "usr/d3/f53", 7, b"!")),
    "far in a file": (
        r"boot/vmlinuz|again",
        lambda two: overwrite(two / "boot/vmlinuz", MiB + 5, b"!"),
    ),
    "in a hole": ("sparse .* at", lambda two: overwrite(two / "sparse", 9 * MiB, b"!")),
    "its size": ("usr/d0/f0 .* kind or size", lambda two: overwrite(two / "usr/d0/f0", 600, b"!")),
    "gone": ("usr/d1/f1 is not there", lambda two: (two / "usr/d1/f1").unlink()),
    "a link": (
        "link .* where it leads",
        lambda two: relinked(two / "link", "nothere"),
    ),
    "a file for a link": (
        "link .* kind or size",
        lambda two: no_link(two / "link"),
    ),
    "a name of any bytes": (
        r"not-utf8-\\xff",
        lambda two: (two / os.fsdecode(b"not-utf8-\xff")).write_bytes(b"y"),
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_differs_is_named(name: str, trees: tuple[Path, Path]) -> None:
    pattern, spoil = SPOILT[name]
    spoil(trees[1])
    with pytest.raises(DiskError, match=pattern):
        compared(trees)


def test_a_sample_is_a_share_by_seed_and_all_of_boot(trees: tuple[Path, Path]) -> None:
    one, two = trees
    found = [compared(trees, Verify.SAMPLE, f"seed {number}").files for number in range(12)]
    assert len(set(found)) > 2
    assert 2 <= min(found) <= max(found) < 40
    assert compared(trees, Verify.SAMPLE).files == compared(trees, Verify.SAMPLE).files
    assert compared(trees, Verify.NONE) == Compared(0, 0)
    overwrite(two / "boot/grub/grub.cfg", 0, b"!")
    for number in range(3):
        with pytest.raises(DiskError, match=r"boot/grub/grub\.cfg"):
            compared(trees, Verify.SAMPLE, f"seed {number}")
    # a volume of its own that is mounted at /boot
    with pytest.raises(DiskError, match=r"grub/grub\.cfg"):
        compare_trees(one / "boot", two / "boot", Verify.SAMPLE, seed=SEED, where="/boot")


def test_what_another_volume_was_copied_over_is_not_looked_at(trees: tuple[Path, Path]) -> None:
    (trees[1] / "boot/grub/grub.cfg").write_text("that of the volume at /boot")
    found = compare_trees(*trees, Verify.FULL, seed=SEED, others=("/boot", "/srv", "/"))
    assert found.files == 105
