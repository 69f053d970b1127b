"""lvm(8): make and stop volume groups and their volumes, with the UUIDs of the source.

Each function is told the group's devices and sees no others: a group of the same name elsewhere in
the machine is neither used nor in the way.
"""

import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from agent.errors import DiskError
from agent.model.nodes import LogicalVolume, LvKind, NodeId, VolumeGroup
from agent.system.command import Runner
from agent.tools.lvm_command import lvm
from agent.tools.lvm_names import mapper_path
from agent.tools.lvm_report import FoundGroup, read_groups
from agent.tools.lvm_source import active_read_only

__all__ = [
    "FoundGroup",
    "active_read_only",
    "deactivate",
    "keep_uuids",
    "make_group",
    "make_logical",
    "make_physical",
    "mapper_path",
    "read_groups",
]

_MADE_AS: Final = {LvKind.MIRROR: "raid1"}
"""The old kind of mirror has no use that raid1 does not serve better."""
_STRIPED: Final = frozenset(
    {LvKind.STRIPED, LvKind.RAID0, LvKind.RAID5, LvKind.RAID6, LvKind.RAID10}
)
_COPIED: Final = frozenset({LvKind.MIRROR, LvKind.RAID1, LvKind.RAID10})
_REGIONS: Final = _COPIED | {LvKind.RAID5, LvKind.RAID6}


def make_physical(run: Runner, device: Path, uuid: str) -> None:
    """Make `device` a physical volume; whatever it held is gone."""
    words: list[str | Path] = ["pvcreate", "--yes", "--force", "--zero", "y"]
    words += ["--uuid", uuid, "--norestorefile"]
    # Else the geometry of a raid below moves the first extent: see `agent.model.lvm_size`.
    words += ["--dataalignment", "1m", "--dataalignmentoffset", "0"]
    lvm(run, [*words, device], [device])


def make_group(run: Runner, group: VolumeGroup, devices: Mapping[NodeId, Path]) -> None:
    """Make `group` of the physical volumes on `devices`. It gets its UUID by `keep_uuids`."""
    members = [devices[one.on] for one in group.physical]
    size = f"{group.extent_bytes // 1024}k"
    words = ["vgcreate", "--yes", "--physicalextentsize", size, group.name]
    lvm(run, [*words, *members], members)


def make_logical(
    run: Runner,
    group: VolumeGroup,
    lv: LogicalVolume,
    pool: LogicalVolume | None,
    devices: Mapping[NodeId, Path],
) -> Path:
    """Make `lv`, active, and return its device. `pool` is the thin pool of a thin volume.

    A raid is in step, or comes into step while it is used: its parity is never just assumed.
    """
    lvm(run, logical_words(group, lv, pool), _members(group, devices))
    return mapper_path(group.name, lv.name)


def logical_words(
    group: VolumeGroup, lv: LogicalVolume, pool: LogicalVolume | None = None
) -> list[str]:
    """Return the lvcreate command for `lv`. Raises DiskError if its size is not whole extents."""
    if lv.size_bytes <= 0 or lv.size_bytes % group.extent_bytes:
        raise DiskError(
            f"{group.name}/{lv.name} is to have {lv.size_bytes} bytes, which are not whole "
            f"extents of {group.extent_bytes}"
        )
    words = ["lvcreate", "--yes", "--type", _MADE_AS.get(lv.lv, lv.lv.value), "--name", lv.name]
    if lv.lv is LvKind.THIN:
        if pool is None:
            raise DiskError(f"{group.name}/{lv.name} is a thin volume without a pool")
        words += ["--virtualsize", f"{lv.size_bytes}b", "--thinpool", pool.name]
    else:
        words += ["--extents", str(lv.size_bytes // group.extent_bytes)]
    if lv.lv is LvKind.THIN_POOL:
        # Without a spare for its repair: so much room nobody planned.
        words += ["--poolmetadataspare", "n"]
        words += _sized("--chunksize", lv.chunk_bytes)
        words += _sized("--poolmetadatasize", lv.metadata_bytes)
    else:
        # An old signature is no question to ask: what is restored takes its place.
        words += ["--wipesignatures", "n"]
    if lv.lv not in (LvKind.THIN_POOL, LvKind.THIN):
        words += ["--zero", "n"]
    if lv.lv in _STRIPED or (lv.lv is LvKind.THIN_POOL and lv.stripes > 1):
        words += ["--stripes", str(lv.stripes), *_sized("--stripesize", lv.stripe_bytes)]
    if lv.lv in _COPIED:
        words += ["--mirrors", str(lv.mirrors)]
    if lv.lv in _REGIONS:
        words += _sized("--regionsize", lv.region_bytes)
    return [*words, group.name]


def keep_uuids(
    run: Runner,
    group: VolumeGroup,
    volumes: Iterable[LogicalVolume],
    devices: Mapping[NodeId, Path],
) -> None:
    """Give the group and `volumes` their UUIDs; it must not be active.

    GRUB's core image finds /boot on LVM by them. Only a restore of metadata can set them, so the
    group's own are taken, changed in these lines alone, and put back.
    """
    members = _members(group, devices)
    with tempfile.TemporaryDirectory(prefix="lvm-") as folder:
        file = Path(folder) / "metadata"
        lvm(run, ["vgcfgbackup", "--file", file, group.name], members)
        file.write_text(with_uuids(file.read_text(), group, volumes))
        # A restore knows nothing of the data in a thin pool, hence its --force: here it stays.
        restore = ["vgcfgrestore", "--yes", "--force", "--file", str(file), group.name]
        lvm(run, restore, members)


def with_uuids(text: str, group: VolumeGroup, volumes: Iterable[LogicalVolume]) -> str:
    """Return LVM's metadata `text` with the UUIDs of `group` and `volumes`."""
    head, mark, tail = text.partition("\n\tlogical_volumes {\n")
    head = _with_id(head, rf"^{re.escape(group.name)} \{{\n\tid = ", group.uuid)
    for lv in volumes:
        tail = _with_id(tail, rf"^\t\t{re.escape(lv.name)} \{{\n\t\t\tid = ", lv.uuid)
    return head + mark + tail


def deactivate(run: Runner, group: VolumeGroup, devices: Mapping[NodeId, Path]) -> None:
    """Stop all volumes of the group, so that all they hold is on its devices."""
    lvm(run, ["vgchange", "--activate", "n", group.name], _members(group, devices))


def _members(group: VolumeGroup, devices: Mapping[NodeId, Path]) -> Sequence[Path]:
    return [devices[one.on] for one in group.physical]


def _sized(option: str, size_bytes: int) -> list[str]:
    return [option, f"{size_bytes}b"] if size_bytes else []


def _with_id(text: str, before: str, uuid: str) -> str:
    changed, count = re.subn(rf'({before})"[^"\n]*"', rf'\g<1>"{uuid}"', text, flags=re.M)
    if count != 1:
        raise DiskError(f"LVM's metadata have {count} places for the UUID {uuid}, not one")
    return changed
