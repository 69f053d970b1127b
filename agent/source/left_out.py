"""Files that must not enter a template, where zeros in their place would not do: on btrfs.

A cover in RAM is put over the filesystem, the files are emptied there, and what it shows then is
captured. What btrfs no longer uses is not captured, and it writes its trees without old bytes.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from agent.errors import DiskError
from agent.identity.survey import mountable, part_of
from agent.model.found import FoundSystem, Survey
from agent.system import block
from agent.system.command import Runner
from agent.system.mount import SOURCE_OPTIONS, TARGET_OPTIONS, Part, mounted_system
from agent.tools.btrfs_map import btrfs_facts
from agent.tools.cover import covered

MOUNT_DIR: Final = Path("/run/metalcast/emptied")
_WRITABLE: Final = f"{TARGET_OPTIONS},nodiscard"


@contextmanager
def left_out(
    run: Runner, found: FoundSystem, survey: Survey, where: Path = MOUNT_DIR
) -> Iterator[FoundSystem]:
    """Yield `found` with covers over what holds files of `survey.redacted` without a place.

    On the covers those files are empty. The devices below are only read.
    """
    nodes = sorted({file.on for file in survey.redacted if not file.runs})
    if not nodes:
        yield found
        return
    paths = {one.on: Path(one.path) for one in found.contents}
    with ExitStack() as stack:
        covers = {
            node: stack.enter_context(covered(run, paths[node], f"metalcast-emptied-{node}"))
            for node in nodes
        }
        _forget(run)
        stack.callback(_forget, run)
        with mounted_system(run, where, _parts(found, survey, covers), SOURCE_OPTIONS) as tree:
            for node, cover in covers.items():
                _check_mounted(node, cover)
            for file in survey.redacted:
                if not file.runs:
                    tree.write(file.path, b"")
        for cover in covers.values():
            block.set_read_only(cover, True)
            if btrfs_facts(cover).log_root:
                raise DiskError(f"{cover} was not written out")
        yield replace(
            found,
            contents=tuple(
                replace(one, path=str(covers[one.on]), covered=True) if one.on in covers else one
                for one in found.contents
            ),
        )


def _parts(found: FoundSystem, survey: Survey, covers: dict[str, Path]) -> list[Part]:
    """Return the whole system, what is covered writable."""
    contents = mountable(found)
    parts = []
    for mount in survey.mounts:
        if mount.node not in contents:
            continue
        part = part_of(contents[mount.node], mount.where, mount.subvolume)
        if cover := covers.get(mount.node):
            part = dataclasses.replace(part, device=cover, own_words=_WRITABLE)
        parts.append(part)
    return parts


def _forget(run: Runner) -> None:
    """Have the kernel forget which devices hold which btrfs: a cover has the UUID of its device."""
    run(["btrfs", "device", "scan", "--forget"])


def _check_mounted(node: str, cover: Path) -> None:
    """Raise DiskError unless it is the cover that was mounted."""
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    devices = {Path(line.split(" ")[0]).resolve() for line in lines if line.startswith("/dev/")}
    if cover.resolve() not in devices:
        raise DiskError(f"the kernel mounted something else than the cover of {node}")
