"""The arrays that a deployment made, brought into step and checked, as their system would."""

from collections.abc import Sequence
from pathlib import Path

from agent.model.md_size import is_redundant
from agent.model.nodes import MdMetadata
from agent.system import block
from agent.tools import arrays, mdadm
from tests.guest.conftest import sh
from tests.guest.workbench import RUN


def checked(disks: Sequence[Path]) -> int:
    """Let each array on `disks` come into step; return how many sectors of them all differ."""
    members: dict[str, list[Path]] = {}
    for disk in disks:
        parts = {part: mdadm.examine(RUN, part) for part in block.partition_nodes(disk)}
        found = {part: one for part, one in parts.items() if one is not None}
        if not found and (one := mdadm.examine(RUN, disk)) is not None:
            if one.metadata is MdMetadata.IMSM:
                return _checked_imsm(disks)
            found = {disk: one}
        for device, one in found.items():
            if one.level and is_redundant(one.level):
                members.setdefault(one.uuid, []).append(device)
    return sum(_checked(devices) for devices in members.values())


def _checked(devices: Sequence[Path]) -> int:
    array = Path("/dev/md90")
    sh("mdadm", "--assemble", array, "--config=none", "--run", *devices)
    sh("mdadm", "--readwrite", array)  # else what is left to do waits for a first write
    sh("udevadm", "settle")
    differ = mdadm.check(array, 300)
    mdadm.stop(RUN, array)
    return differ


def _checked_imsm(disks: Sequence[Path]) -> int:
    container, array = Path("/dev/md200"), Path("/dev/md201")
    words = ["mdadm", "--assemble", "--config=none", "--run"]
    RUN([*words, container, *disks], env={"IMSM_NO_PLATFORM": "1"})
    RUN([*words, array, container], env={"IMSM_NO_PLATFORM": "1"})
    try:
        return mdadm.check(array)
    finally:
        arrays.stop(RUN, array)
