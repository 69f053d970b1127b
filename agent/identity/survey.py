"""What a source disk's own systems say: mounted read-only, looked at, unmounted. Nothing is run."""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from agent.errors import AgentError
from agent.identity.configure import redaction_paths
from agent.identity.os import identify_os
from agent.model.inventory import Drive
from agent.model.plan import FoundLayout, FoundPartition, MountPoint, RedactedFile, Survey
from agent.system.command import Runner
from agent.system.fiemap import NoPlace, file_extents
from agent.system.mount import SOURCE_OPTIONS, mounted_system
from agent.system.rooted import RootedTree
from agent.tools.source import EXT, PartitionNode, node_of

MOUNT_DIR: Final = Path("/run/metalcast/source")
_PSEUDO: Final = frozenset(
    {"proc", "sysfs", "tmpfs", "devpts", "swap", "none", "nfs", "nfs4", "cifs"}
)


def survey(
    run: Runner,
    drive: Drive,
    layout: FoundLayout,
    where: Path = MOUNT_DIR,
    partition: PartitionNode = node_of,
) -> Survey:
    """Return what the system on `drive` says about itself.

    A filesystem that is not clean is not mounted: it is refused anyway.
    """
    disk = Path(drive.path)
    candidates = [part for part in layout.partitions if part.what in EXT and not part.unfit]
    roots = []
    for part in candidates:
        device = [(partition(disk, part.number), "/")]
        with mounted_system(run, where, device, SOURCE_OPTIONS) as tree:
            if tree.exists("/etc/fstab") or identify_os(tree):
                roots.append((part, tree.read_text("/etc/fstab") or ""))
    if not roots:
        return Survey(notes=("no filesystem on the disk is the root of a system we know",))
    notes = []
    root, fstab = roots[0]
    if len(roots) > 1:
        numbers = ", ".join(str(part.number) for part, _ in roots)
        notes.append(f"partitions {numbers} each hold a system; that of {root.number} is taken")
    found, strangers = parse_fstab(fstab, layout.partitions)
    notes += [f"its fstab mounts {what}, which is not on this disk" for what in strangers]
    mounts = {root.number: "/"} | {n: point for n, point in found.items() if n != root.number}
    clean = {part.number for part in candidates}
    parts = [
        (partition(disk, number), point)
        for number, point in sorted(mounts.items(), key=lambda item: item[1])
        if number in clean
    ]
    numbers_of = [
        number for number, _ in sorted(mounts.items(), key=lambda i: i[1]) if number in clean
    ]
    with mounted_system(run, where, parts, SOURCE_OPTIONS) as tree:
        redacted, unfit = find_redactions(tree, _devices(tree, mounts, numbers_of))
        identity = identify_os(tree)
    return Survey(
        os=identity,
        root=root.number,
        mounts=tuple(MountPoint(number=n, where=point) for n, point in sorted(mounts.items())),
        redacted=redacted,
        unfit=unfit,
        notes=tuple(notes),
    )


def parse_fstab(
    text: str, partitions: tuple[FoundPartition, ...]
) -> tuple[dict[int, str], tuple[str, ...]]:
    """Return partition number → mount point, and the mount points that need something else."""
    found: dict[int, str] = {}
    strangers = []
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if len(words) < 3 or not words[1].startswith("/"):
            continue
        spec, point, kind = words[:3]
        options = words[3] if len(words) > 3 else ""
        if kind in _PSEUDO or spec in _PSEUDO or "bind" in options.split(","):
            continue
        number = find_partition(spec, partitions)
        if number is not None:
            found.setdefault(number, _unescaped(point))
        elif not {"nofail", "noauto"} & set(options.split(",")):
            strangers.append(f"{spec} on {point}")
    return found, tuple(strangers)


def find_partition(spec: str, partitions: tuple[FoundPartition, ...]) -> int | None:
    """Return the number of the partition that an fstab's first field means."""
    spec = spec.strip('"')
    for prefix, by in (
        ("/dev/disk/by-uuid/", "UUID="),
        ("/dev/disk/by-label/", "LABEL="),
        ("/dev/disk/by-partuuid/", "PARTUUID="),
        ("/dev/disk/by-partlabel/", "PARTLABEL="),
    ):
        spec = spec.replace(prefix, by)
    tag, _, value = spec.partition("=")
    value = value.strip('"')
    for part in partitions:
        is_it = {
            "UUID": bool(value) and (part.content_uuid or "").lower() == value.lower(),
            "LABEL": bool(value) and part.label == value,
            "PARTUUID": part.uuid.lower() == value.lower(),
            "PARTLABEL": bool(value) and part.name == value,
        }.get(tag, False)
        if is_it:
            return part.number
    # the name of the first disk of its kind: the one that we look at, as far as can be told
    if (named := re.fullmatch(r"/dev/(?:[shv]da|xvda|nvme0n1p|mmcblk0p)(\d+)", spec)) and any(
        part.number == int(named[1]) for part in partitions
    ):
        return int(named[1])
    return None


def find_redactions(
    tree: RootedTree, devices: dict[int, int]
) -> tuple[tuple[RedactedFile, ...], tuple[str, ...]]:
    """Return the files to leave out with the place of their bytes, and those that have none.

    `devices` maps st_dev to the partition's number.
    """
    files, unfit = [], []
    for path in redaction_paths(tree):
        try:
            with tree.opened(path) as fd:
                found = os.fstat(fd)
                runs = file_extents(fd, path)
        except NoPlace as error:
            unfit.append(f"{error}, so they cannot be left out; keep_identity captures them")
            continue
        except AgentError as error:
            unfit.append(str(error))
            continue
        if runs and found.st_dev in devices:
            files.append(
                RedactedFile(
                    number=devices[found.st_dev],
                    path=path,
                    size_bytes=found.st_size,
                    runs=tuple((run.offset, run.size) for run in runs),
                )
            )
    return tuple(files), tuple(unfit)


def _devices(tree: RootedTree, mounts: dict[int, str], numbers: list[int]) -> dict[int, int]:
    return dict(_device_pairs(tree, mounts, numbers))


def _device_pairs(
    tree: RootedTree, mounts: dict[int, str], numbers: list[int]
) -> Iterator[tuple[int, int]]:
    with ExitStack() as stack:
        for number in numbers:
            if tree.is_directory(mounts[number]):
                handle = stack.enter_context(tree.directory(mounts[number]))
                yield handle.stat().st_dev, number


def _unescaped(point: str) -> str:
    """Return a mount point with fstab's octal escapes undone."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), point)
