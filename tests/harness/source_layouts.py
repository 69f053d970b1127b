"""The disks of source servers whose layouts a single ext4 is not, made inside a guest."""

import shutil
from pathlib import Path
from typing import Final

from tests.harness.cache import key_of, made_once
from tests.harness.disks import make_disk
from tests.harness.guest import run_in_guest
from tests.harness.image import boot_image
from tests.harness.machine import Disk
from tests.harness.rootfs import storage_root
from tests.shapes import ROOT_TAR
from tests.shapes.sources import LOGICAL, MIRROR, SIZES, SUBVOLUMES, TWO

GUEST_S = 3000
_FILES = Path(__file__).parent / "source-files"
_SHAPES = Path(__file__).parents[1] / "shapes"
_INSIDE: Final = "tests/shapes/in_guest_sources.py"
_MAKERS: Final = {
    (SUBVOLUMES,): "test_btrfs_in_subvolumes",
    (LOGICAL,): "test_root_on_a_logical_partition",
    TWO: "test_srv_on_a_second_disk",
    MIRROR: "test_btrfs_on_two_disks",
}


def source_layout(*serials: str) -> dict[str, Path]:
    """Return the disks of one source server by serial, never booted. Copy them before use."""
    maker = _MAKERS[serials]
    used = [_SHAPES / name for name in ("in_guest_sources.py", "sources.py", "captured.py")]
    used += sorted(path for path in _FILES.rglob("*") if path.is_file())
    key = key_of(storage_root().parent.name, maker, [path.read_bytes() for path in used])
    kind = f"source-{serials[0].lower()}"
    made = made_once(kind, key, lambda folder: _make(folder, serials, maker))
    return {serial: made / f"{serial}.raw" for serial in serials}


def _make(folder: Path, serials: tuple[str, ...], maker: str) -> None:
    work = folder / "work"
    work.mkdir()
    tree = work / "root.tar"
    shutil.copyfile(storage_root(), tree)
    disks = [Disk(make_disk(folder / f"{name}.raw", SIZES[name]), name) for name in serials]
    tar = Disk(tree, ROOT_TAR, read_only=True)
    inside = f"{_INSIDE}::{maker}"
    found = run_in_guest([inside], work, boot_image(), GUEST_S, [tar, *disks])
    failed = [one for one in found if one.outcome != "passed"]
    if failed or not any(maker in one.name for one in found):
        raise AssertionError("\n\n".join(f"{one.name}\n{one.text}" for one in failed) or "not run")
    shutil.rmtree(work)
