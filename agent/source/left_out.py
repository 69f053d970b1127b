"""Files that must not enter a template, where zeros in their place would not do: on btrfs.

A cover in RAM is put over the filesystem, the files are emptied there, and what it shows then is
captured. What btrfs no longer uses is not captured, and it writes its trees without old bytes.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from agent.errors import DiskError
from agent.identity.survey import mountable, part_of
from agent.model.found import FoundContent, FoundSystem, Survey
from agent.model.layout import Btrfs
from agent.system import block
from agent.system.command import Runner
from agent.system.mount import SOURCE_OPTIONS, TARGET_OPTIONS, Part, mounted_system
from agent.tools.btrfs import shown_devices
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
    emptied = [one for one in found.contents if one.on in nodes]
    below = [path for one in emptied for path in (one.path, *one.others)]
    names = {one.path: one.on for one in found.contents}
    with ExitStack() as stack:
        covers = {
            path: stack.enter_context(covered(run, Path(path), f"metalcast-emptied-{names[path]}"))
            for path in below
        }
        _forget(run)
        stack.callback(_forget, run)
        found = replace(found, contents=tuple(_on(one, covers) for one in found.contents))
        with mounted_system(run, where, _parts(found, survey), SOURCE_OPTIONS) as tree:
            for one in found.contents:
                if one.on in nodes:
                    _check_mounted(one)
            for file in survey.redacted:
                if not file.runs:
                    tree.write(file.path, b"")
        for cover in covers.values():
            block.set_read_only(cover, True)
            if btrfs_facts(cover).log_root:
                raise DiskError(f"{cover} was not written out")
        yield found


def _on(one: FoundContent, covers: Mapping[str, Path]) -> FoundContent:
    """Return `one` on its cover, if it has one."""
    if one.path not in covers:
        return one
    others = tuple(str(covers[path]) for path in one.others)
    return replace(one, path=str(covers[one.path]), others=others, covered=True)


def _parts(found: FoundSystem, survey: Survey) -> list[Part]:
    """Return the whole system, what is covered writable."""
    contents = mountable(found)
    parts = []
    for mount in survey.mounts:
        if mount.node not in contents:
            continue
        one = contents[mount.node]
        part = part_of(one, mount.where, mount.subvolume)
        parts.append(dataclasses.replace(part, own_words=_WRITABLE) if one.covered else part)
    return parts


def _forget(run: Runner) -> None:
    """Have the kernel forget which devices hold which btrfs: a cover has the UUID of its device."""
    run(["btrfs", "device", "scan", "--forget"])


def _check_mounted(one: FoundContent) -> None:
    """Raise DiskError unless it is the covers that were mounted."""
    covers = {Path(path).resolve().name for path in (one.path, *one.others)}
    if not isinstance(one.content, Btrfs) or shown_devices(one.content.uuid) != covers:
        raise DiskError(f"the kernel mounted something else than the cover of {one.on}")
