"""Intel's RAID in firmware (RST, VROC): a container of whole disks, and one volume in it.

mdadm(8) makes or starts one only where it finds that firmware, unless `IMSM_NO_PLATFORM` is set:
"useful for testing or for disaster recovery". Reading needs no firmware, so it is set here, and
`has_firmware` is what a plan asks before one is made.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agent.errors import CommandFailed, DiskError
from agent.model.nodes import MD_UUID, Array, MdLevel
from agent.system import block
from agent.system.command import Runner
from agent.units import KiB

_NO_PLATFORM: Final = "IMSM_NO_PLATFORM"
ENVIRONMENT: Final = {_NO_PLATFORM: "1"}
_NONE_FOUND: Final = (0, 1, 2)
_UUID: Final = re.compile(rf"^MD_UUID=({MD_UUID})$", re.MULTILINE)
_EXTERNAL: Final = re.compile(r"external:[/-](md\w+)/\d+")


def has_firmware(run: Runner) -> bool:
    """Return whether this machine's firmware knows such volumes, and so could boot from one.

    A machine that was started with the boot argument `IMSM_NO_PLATFORM=1` is taken to have it.
    """
    if os.environ.get(_NO_PLATFORM) == "1":
        return True
    try:
        return "RAID Levels" in run(["mdadm", "--detail-platform"], ok=_NONE_FOUND).text
    except CommandFailed:
        return False  # without mdadm nothing could make one either


def assemble_read_only(run: Runner, container: Path, target: Path, devices: Sequence[Path]) -> None:
    """Start the container of `devices`, and the volume in it as `target`, to be read only."""
    words: list[str | Path] = ["mdadm", "--assemble", "--config=none", "--readonly", "--run"]
    run([*words, container, *devices], env=ENVIRONMENT)
    block.wait_for_node(container)
    run([*words, target, container], env=ENVIRONMENT)


def make(run: Runner, array: Array, container: Path, target: Path, devices: Sequence[Path]) -> None:
    """Make a container of `devices` and a volume like `array` that takes all of it.

    Its UUID is made of the disks' serials and the time: that of `array` cannot be kept.
    """
    words: list[str | Path] = ["mdadm", "--create", "--config=none", "--run"]
    count = f"--raid-devices={len(devices)}"
    run([*words, container, "--metadata=imsm", count, *devices], env=ENVIRONMENT)
    block.wait_for_node(container)
    words += [target, f"--level={array.level.value}", count]
    if array.name:
        words.append(f"--name={array.name}")
    if array.level is not MdLevel.RAID1 and array.chunk_bytes:
        words.append(f"--chunk={array.chunk_bytes // KiB}")
    run([*words, container], env=ENVIRONMENT)


def uuids(run: Runner, device: Path) -> tuple[str, str]:
    """Return the UUIDs of a volume that runs, and of its container: 8:8:8:8 hex digits."""
    container = container_of(device)
    if container is None:
        raise DiskError(f"{device} is no volume of Intel's RAID")
    said = [run(["mdadm", "--detail", "--export", one]).text for one in (device, container)]
    found = [_UUID.search(text) for text in said]
    if found[0] is None or found[1] is None:
        raise DiskError(f"mdadm does not tell the UUIDs of {device} and {container}")
    return found[0][1], found[1][1]


def container_of(device: Path) -> Path | None:
    """Return the container that a running array is a volume of; None: it is none."""
    try:
        kind = Path("/sys/class/block", device.resolve().name, "md/metadata_version").read_text()
    except OSError:
        return None
    found = _EXTERNAL.match(kind)
    return Path("/dev", found[1]) if found else None
