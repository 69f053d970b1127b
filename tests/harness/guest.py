"""Tests that need a kernel of our own: md, dm, vfat, real disks. They run inside one guest.

The guest boots the boot image with one more layer: pytest, the tests, and an init that runs them
instead of the agent. What they found comes back on a disk of its own; then the guest switches off.
"""

import dataclasses
import importlib.metadata
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from agent.units import MiB
from images.cpio import cpio_bytes
from images.tree import Tree, make_file, make_folder
from tests.guest import SCRATCH, SCRATCH_BYTES, SCRATCH_OTHER, SCRATCH_OTHER_BYTES
from tests.harness.disks import make_disk
from tests.harness.machine import Disk, Hardware, Kernel, Machine, Nic

REPOSITORY = Path(__file__).parents[2]
_HOME = "layer/usr/lib/metalcast"
_INIT = REPOSITORY / "images/files/tree/usr/lib/metalcast/init"
_AGENT_LINE = "setsid python3 -m agent boot </dev/console >/dev/console 2>&1"
_TESTS_LINE = "python3 -m tests.guest.run >/dev/console 2>&1; poweroff -f"
_PACKAGES = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")
_RESULTS_BYTES = 16 * MiB


@dataclasses.dataclass(frozen=True, slots=True)
class GuestTest:
    """How one test went inside the guest."""

    name: str
    outcome: str
    seconds: float
    text: str


def run_in_guest(
    paths: Sequence[str],
    folder: Path,
    image: Path,
    timeout_s: float = 900,
    more: Sequence[Disk] = (),
) -> tuple[GuestTest, ...]:
    """Run the tests at `paths` in a guest, with the disks `more`, and return how each went.

    Raises AssertionError when the guest did not come to an end of its own.
    """
    initrd = folder / "guest-initrd.img"
    initrd.write_bytes((image / "initrd.img").read_bytes() + _layer(paths))
    results = make_disk(folder / "results.raw", _RESULTS_BYTES)
    disks = [Disk(results, "RESULTS")]
    for serial, sector_bytes in SCRATCH:
        disk = make_disk(folder / f"{serial}.raw", SCRATCH_BYTES)
        disks.append(Disk(disk, serial, sector_bytes=sector_bytes))
    for serial, bus in SCRATCH_OTHER:
        disk = make_disk(folder / f"{serial}.raw", SCRATCH_OTHER_BYTES)
        disks.append(Disk(disk, serial, bus))
    hardware = Hardware(
        "guest",
        memory_mib=2048,
        disks=(*disks, *more),
        nics=(Nic("52:54:00:12:34:31"),),
        kernel=Kernel(image / "vmlinuz", initrd, "console=ttyS0,115200"),
    )
    with Machine(hardware, folder, image / "vmlinuz") as machine:
        machine.wait_off(timeout_s)
        said = machine.console.tail(80)
    data = results.read_bytes()
    size = int.from_bytes(data[:8], "big")
    if not size:
        raise AssertionError(f"the guest reported nothing\n{said}")
    found: list[dict[str, Any]] = json.loads(data[8 : 8 + size])
    return tuple(GuestTest(**one) for one in found)


def _layer(paths: Iterable[str]) -> bytes:
    tree = Tree()
    init = _INIT.read_text()
    if init.count(_AGENT_LINE) != 1:
        raise AssertionError(f"{_INIT} no longer starts the agent as expected")
    tree.add(f"{_HOME}/init", make_file(init.replace(_AGENT_LINE, _TESTS_LINE).encode(), 0o755))
    tree.add(f"{_HOME}/guest-tests", make_file("\n".join(paths).encode()))
    for package in _PACKAGES:
        for file in importlib.metadata.files(package) or ():
            if file.suffix == ".py" or file.name in ("METADATA", "entry_points.txt"):
                body = Path(str(file.locate())).read_bytes()
                tree.add(f"{_HOME}/{file.as_posix()}", make_file(body))
    for source in sorted((REPOSITORY / "tests").rglob("*")):
        relative = source.relative_to(REPOSITORY)
        if source.is_file() and "__pycache__" not in relative.parts:
            tree.add(f"{_HOME}/{relative.as_posix()}", make_file(source.read_bytes()))
    tree.add(f"{_HOME}/pyproject.toml", make_file((REPOSITORY / "pyproject.toml").read_bytes()))
    tree.add(_HOME, make_folder())
    return cpio_bytes(tree, 0)
