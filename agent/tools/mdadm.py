"""mdadm(8): arrays of Linux software RAID, read without a write, made anew, stopped.

The name in the superblock is what the captured system goes by; here they go by their number.
"""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agent.errors import DiskError
from agent.model.md_size import is_redundant, usable_bytes
from agent.model.nodes import Array, MdLevel, MdMetadata
from agent.system import block
from agent.system.command import Runner
from agent.tools.md_arrays import FoundArray, find_arrays
from agent.tools.md_examine import MdMember, examine, parse_examine
from agent.tools.md_state import (
    SyncState,
    check,
    sync_state,
    wait_for_sync,
)
from agent.units import KiB

__all__ = [
    "FoundArray",
    "MdMember",
    "SyncState",
    "assemble_read_only",
    "check",
    "examine",
    "find_arrays",
    "make",
    "make_words",
    "parse_examine",
    "stop",
    "sync_state",
    "usable_bytes",
    "wait_for_sync",
]

_POSIX_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_ZEROING_TIMEOUT_S: Final = 4 * 3600.0
_STOP_TRIES: Final = 20
_STOP_PAUSE_S: Final = 0.5


def assemble_read_only(run: Runner, target: Path, devices: Sequence[Path]) -> None:
    """Start an array as `target`, to be read. Raises CommandFailed if it cannot run."""
    run(["mdadm", "--assemble", target, "--config=none", "--readonly", "--run", *devices])


def make(
    run: Runner,
    array: Array,
    target: Path,
    devices: Sequence[Path | None],
    spares: Sequence[Path] = (),
    *,
    size_bytes: int | None = None,
    data_offset_bytes: int | None = None,
) -> None:
    """Make `array` on `devices`, by slot, as `target`. What they held is gone.

    None makes it degraded there. `size_bytes` is how much of each member it uses; None: all.
    Its copies and parity are right when `wait_for_sync` returns: at once where the members can
    be told to read as zeros.
    """
    present = [device for device in devices if device is not None]
    sizes = {block.size_bytes(device) for device in present}
    zeroes = is_redundant(array.level) and all(map(_zeroes_fast, present))

    def words(*, zeroes: bool) -> list[str | Path]:
        return make_words(
            array,
            target,
            devices,
            spares,
            size_bytes=size_bytes,
            data_offset_bytes=data_offset_bytes,
            zeroes=zeroes,
            equal=len(sizes) == 1,
        )

    # a member may promise to zero by command and not do it: then all is brought into step
    if not zeroes or run(words(zeroes=True), timeout_s=_ZEROING_TIMEOUT_S, ok=(0, 1)).status:
        run(words(zeroes=False), timeout_s=_ZEROING_TIMEOUT_S)


def make_words(
    array: Array,
    target: Path,
    devices: Sequence[Path | None],
    spares: Sequence[Path] = (),
    *,
    size_bytes: int | None = None,
    data_offset_bytes: int | None = None,
    zeroes: bool = False,
    equal: bool = False,
) -> list[str | Path]:
    """Return the mdadm command that makes `array`.

    `zeroes`: the members are told to read as zeros, so that nothing need be brought into step.
    `equal`: the members are of one size. Raises DiskError for what mdadm would not make.
    """
    if len(devices) != len(array.members):
        raise DiskError(f"{array.id} has {len(array.members)} members, {len(devices)} are given")
    words: list[str | Path] = ["mdadm", "--create", target, "--config=none", "--run"]
    words += ["--level", array.level.value, "--metadata", array.metadata.value]
    words += ["--uuid", array.uuid, *_name_words(array)]
    if array.level is not MdLevel.RAID1 and array.chunk_bytes:
        words.append(f"--{_chunk_word(array)}={array.chunk_bytes // KiB}")
    words += _layout_words(array, equal)
    if is_redundant(array.level):
        # Else mdadm makes one of itself for what is large.
        words.append(f"--bitmap={'internal' if array.bitmap else 'none'}")
    if size_bytes is not None:
        words.append(f"--size={size_bytes // KiB}K")
    if data_offset_bytes is not None and array.metadata in (MdMetadata.V1_1, MdMetadata.V1_2):
        words.append(f"--data-offset={data_offset_bytes // KiB}K")
    if zeroes:
        words.append("--write-zeroes")
    if len(devices) == 1:
        words.append("--force")
    words.append(f"--raid-devices={len(devices)}")
    if spares:
        words.append(f"--spare-devices={len(spares)}")
    return [*words, *("missing" if one is None else one for one in devices), *spares]


def stop(run: Runner, device: Path) -> None:
    """Stop an array, or a container; all that it holds is then on its members.

    udev may look at it for a moment, which keeps it busy: tried again for ten seconds.
    """
    for _ in range(_STOP_TRIES):
        answer = run(["mdadm", "--stop", device], ok=(0, 1))
        if answer.status == 0:
            return
        time.sleep(_STOP_PAUSE_S)
    run(["mdadm", "--stop", device])


def _name_words(array: Array) -> list[str]:
    """Return the words that give the superblock this name and nothing else.

    mdadm 4.4 takes no colon in a name, but puts the host and one in front of it.
    """
    if array.metadata is MdMetadata.V0_90 or not array.name:
        return ["--homehost=<none>"]
    host, colon, name = array.name.partition(":")
    if not colon:
        host, name = "<none>", array.name
    if not host or not _POSIX_NAME.fullmatch(name) or len(array.name) > 31:
        raise DiskError(
            f"mdadm gives no array the name {array.name!r}",
            hint="on the source, give it a name of letters, digits, - and _, and capture it again",
        )
    return [f"--homehost={host}", f"--name={name}"]


def _chunk_word(array: Array) -> str:
    return "rounding" if array.level is MdLevel.LINEAR else "chunk"


def _layout_words(array: Array, equal: bool) -> list[str]:
    if array.level is MdLevel.RAID0:
        if array.metadata is MdMetadata.V0_90:
            if not equal:
                raise DiskError(
                    f"{array.id} is a RAID0 with metadata 0.90, which needs members of one size"
                )
            return ["--layout=dangerous"]  # that is: none recorded
        # Members of one size have but one layout, and older kernels know no record of it.
        return [f"--layout={array.layout or ('dangerous' if equal else 'alternate')}"]
    if not array.layout or array.level in (MdLevel.LINEAR, MdLevel.RAID1, MdLevel.RAID4):
        return []
    if array.level is MdLevel.RAID10:
        kind, _, copies = array.layout.partition("=")
        return [f"--layout={kind[0]}{copies}"]
    return [f"--layout={array.layout}"]


def _zeroes_fast(device: Path) -> bool:
    """Return whether the device zeroes by command, without data sent to it."""
    folder = (Path("/sys/class/block") / device.resolve().name).resolve()
    if (folder / "partition").exists():
        folder = folder.parent
    try:
        return int((folder / "queue/write_zeroes_max_bytes").read_text()) > 0
    except (OSError, ValueError):
        return False
