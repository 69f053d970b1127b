"""The volumes of a source, to be read, without one byte written to its disks.

LVM activates on a cover over each physical volume: raid and thin volumes write to their metadata as
soon as they are active, and that stays in RAM.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from agent.errors import SourceUnfit
from agent.model.nodes import LvKind, NodeId
from agent.system import block
from agent.system.command import Runner
from agent.tools.cover import covered
from agent.tools.lvm_command import lvm
from agent.tools.lvm_names import mapper_path
from agent.tools.lvm_report import FoundGroup

_SYNCED: Final = frozenset({LvKind.RAID1, LvKind.RAID5, LvKind.RAID6, LvKind.RAID10, LvKind.MIRROR})


@contextmanager
def active_read_only(
    run: Runner, found: FoundGroup, devices: Mapping[NodeId, Path]
) -> Iterator[Mapping[NodeId, Path]]:
    """Yield where the volumes of `found` can be read, by id; thin pools show nothing themselves.

    Raises SourceUnfit for a raid that is not in step: reading it could give stale data.
    """
    if found.unfit:
        raise SourceUnfit(found.unfit)
    name = found.group.name
    ids = f'local {{ extra_system_ids=["{found.system_id}"] }}' if found.system_id else ""
    with ExitStack() as stack:
        covers = [
            stack.enter_context(covered(run, devices[one.on], f"metalcast-cover-{one.on}"))
            for one in found.group.physical
        ]
        # Even if it fails half way, some volumes may be active.
        stack.callback(lvm, run, ["vgchange", "--activate", "n", name], covers, ids)
        words = ["vgchange", "--activate", "y", "--ignoreactivationskip", name]
        lvm(run, words, covers, ids)
        _check_in_step(run, found, covers, ids)
        paths = {
            lv.id: mapper_path(name, lv.name)
            for lv in found.volumes
            if lv.lv is not LvKind.THIN_POOL
        }
        for path in paths.values():
            block.set_read_only(path, True)
        yield paths


def _check_in_step(run: Runner, found: FoundGroup, covers: list[Path], ids: str) -> None:
    raids = {lv.name for lv in found.volumes if lv.lv in _SYNCED}
    if not raids:
        return
    words = ["lvs", "--noheadings", "--separator", ":", "--options", "lv_name,sync_percent"]
    text = lvm(run, [*words, found.group.name], covers, ids).text
    rows = dict(line.strip().split(":", 1) for line in text.splitlines() if ":" in line)
    if late := sorted(name for name in raids if rows.get(name) != "100.00"):
        raise SourceUnfit(
            tuple(
                f"{found.group.name}/{name} is a raid whose devices are not in step "
                f"({rows.get(name) or 'unknown'} %)"
                for name in late
            ),
            hint="start that system, wait until lvs shows Cpy%Sync 100, and shut it down cleanly",
        )
