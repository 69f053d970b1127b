"""Linear md arrays: one member behind the other. Kernels from 6.8 to 6.13 do not run them.

The boot image's kernel (6.12) is one of those, so device-mapper shows what such an array holds:
the data areas of its members in their order, each cut to whole chunks (drivers/md/md-linear.c).
mdadm writes the superblocks before it asks the kernel to start the array.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agent.errors import DiskError
from agent.model.nodes import Array
from agent.system import block
from agent.system.command import Runner
from agent.tools.md_examine import examine
from agent.tools.mdadm import make_words, stop
from agent.units import align_down

_SECTOR: Final = 512
_NOT_STARTED: Final = (0, 1)
MAPPER: Final = Path("/dev/mapper")
_PREFIX: Final = "metalcast-"


def show(run: Runner, name: str, array: Array, devices: Sequence[Path], *, read_only: bool) -> Path:
    """Return a device with what the linear `array` on `devices`, by slot, holds.

    `name` is what it would be called if the kernel ran it: `md100`. Raises DiskError if a member
    is not what `array` says.
    """
    lines, at = [], 0
    for slot, device in enumerate(devices):
        member = examine(run, device)
        if member is None or (member.uuid, member.slot) != (array.uuid, slot):
            raise DiskError(f"{device} is not member {slot} of the linear array {array.id}")
        sectors = align_down(member.area_bytes, array.chunk_bytes or _SECTOR) // _SECTOR
        lines.append(f"{at} {sectors} linear {device} {member.data_offset_bytes // _SECTOR}")
        at += sectors
    made = MAPPER / f"{_PREFIX}{name}"
    words = ["dmsetup", "create", made.name, *(["--readonly"] if read_only else [])]
    run(words, stdin="\n".join(lines) + "\n")
    block.wait_for_node(made)
    return made


def make(run: Runner, target: Path, array: Array, devices: Sequence[Path]) -> Path:
    """Make the superblocks of `array`, and show what it holds; `target` is its device elsewhere.

    That the kernel does not start it is no failure; that a superblock is missing is one.
    """
    if run(make_words(array, target, devices), ok=_NOT_STARTED).status == 0:
        stop(run, target)  # a kernel that does run it has the members now
    return show(run, target.name, array, devices, read_only=False)


def shown() -> set[str]:
    """Return the names of those that are shown now: `md100`."""
    return {path.name.removeprefix(_PREFIX) for path in MAPPER.glob(f"{_PREFIX}md*")}


def hide(run: Runner, device: Path) -> None:
    """Take the device of `show` or `make` away; all that it holds is then on the members."""
    block.flush(device)
    run(["dmsetup", "remove", "--retry", device])
