"""What a source disk's own systems say: mounted read-only, looked at, unmounted. Nothing is run."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from agent.errors import AgentError
from agent.identity.configure import redaction_paths
from agent.identity.os import identify_os
from agent.model.filesystems import fstype_of
from agent.model.found import FoundContent, FoundSystem, RedactedFile, Survey
from agent.model.layout import MOST_UNMOUNTED, Btrfs, Ext, F2fs, Xfs
from agent.model.nodes import (
    Array,
    LogicalVolume,
    Luks,
    Node,
    NodeId,
    Partition,
    VolumeGroup,
    mapped_name,
)
from agent.model.steps import MountPoint
from agent.system.command import Runner
from agent.system.fiemap import NoPlace, file_extents
from agent.system.mount import SOURCE_OPTIONS, Part, mounted_system
from agent.system.rooted import RootedTree
from agent.tools.btrfs import find_subvolumes

MOUNT_DIR: Final = Path("/run/metalcast/source")
_PSEUDO: Final = frozenset(
    {"proc", "sysfs", "tmpfs", "devpts", "swap", "none", "nfs", "nfs4", "cifs"}
)
_MAPPED_NAME: Final = re.compile(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]{0,126}")
_ROOT_SUBVOLUMES: Final = ("@rootfs", "@", "root", "@/.snapshots/1/snapshot")
"""Where Debian, Ubuntu, Fedora and SUSE keep `/` in a btrfs."""


def survey(run: Runner, found: FoundSystem, where: Path = MOUNT_DIR) -> Survey:
    """Return what the system on the source disks says about itself.

    A filesystem that is not clean is not mounted: it is refused anyway.
    """
    candidates = mountable(found)
    roots = [root for one in candidates.values() for root in _roots(run, one, where)]
    if not roots:
        return Survey(notes=("no filesystem on the disk is the root of a system we know",))
    notes = []
    root, fstab, crypttab = roots[0]
    if len(roots) > 1:
        names = ", ".join(mount.node for mount, *_ in roots)
        notes.append(f"{names} each hold a system; that of {root.node} is taken")
    mapped = parse_crypttab(crypttab, found)
    mounts, strangers = parse_fstab(fstab, with_names(found, mapped))
    notes += [f"its fstab mounts {what}, which is not on this disk" for what in strangers]
    mounts = [root, *(mount for mount in mounts if mount.where != "/")]
    mounts.sort(key=lambda mount: mount.where)
    nodes = [mount for mount in mounts if mount.node in candidates]
    parts = [part_of(candidates[mount.node], mount.where, mount.subvolume) for mount in nodes]
    with mounted_system(run, where, parts, SOURCE_OPTIONS) as tree:
        emptied = {
            mount.where: mount.node
            for mount in nodes
            if isinstance(candidates[mount.node].content, Btrfs)
        }
        redacted, unfit = find_redactions(tree, dict(_devices(tree, nodes)), emptied)
        identity = identify_os(tree)
    return Survey(
        os=identity,
        root=root.node,
        mounts=tuple(mounts),
        unmounted={
            one.on: _unmounted(run, one, mounts, where)
            for one in candidates.values()
            if isinstance(one.content, Btrfs)
        },
        mapped=mapped,
        redacted=redacted,
        unfit=unfit,
        notes=tuple(notes),
    )


def _roots(run: Runner, one: FoundContent, where: Path) -> Iterator[tuple[MountPoint, str, str]]:
    """Yield where in one filesystem is the root of a system, its fstab and its crypttab."""
    subvolumes: tuple[str | None, ...] = (None,)
    if isinstance(one.content, Btrfs):
        with mounted_system(run, where, [part_of(one, "/", "/")], SOURCE_OPTIONS) as tree:
            subvolumes = tuple(
                path for path in _ROOT_SUBVOLUMES if tree.is_directory(f"/{path}/etc")
            ) or (None,)
    for subvolume in subvolumes:
        with mounted_system(run, where, [part_of(one, "/", subvolume)], SOURCE_OPTIONS) as tree:
            if tree.exists("/etc/fstab") or identify_os(tree):
                mount = MountPoint(node=one.on, where="/", subvolume=subvolume)
                yield (
                    mount,
                    tree.read_text("/etc/fstab") or "",
                    tree.read_text("/etc/crypttab") or "",
                )


def _unmounted(
    run: Runner, one: FoundContent, mounts: list[MountPoint], where: Path
) -> tuple[str, ...]:
    """Return the subvolumes of a btrfs that none of `mounts` is: snapshots, those inside others."""
    with mounted_system(run, where, [part_of(one, "/", "/")], SOURCE_OPTIONS):
        found = find_subvolumes(run, where)
    mounted = [mount.subvolume or found.default for mount in mounts if mount.node == one.on]
    return tuple(path for path in found.paths if path not in mounted)[:MOST_UNMOUNTED]


def mountable(found: FoundSystem) -> dict[str, FoundContent]:
    """Return what can be mounted as part of a system, by what it lies on."""
    return {
        one.on: one
        for one in found.contents
        if isinstance(one.content, Ext | Xfs | Btrfs | F2fs) and not one.unfit
    }


def part_of(one: FoundContent, where: str, subvolume: str | None) -> Part:
    """Return how a filesystem of the source is mounted at `where`."""
    assert one.content is not None
    return Part(
        device=Path(one.path),
        where=where,
        fstype=fstype_of(one.content),
        subvolume=subvolume,
        further=tuple(Path(path) for path in one.others),
    )


def parse_fstab(text: str, found: FoundSystem) -> tuple[list[MountPoint], tuple[str, ...]]:
    """Return what is mounted of the source disks, and the mount points that need something else."""
    mounts: list[MountPoint] = []
    strangers = []
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if len(words) < 3 or not words[1].startswith("/"):
            continue
        spec, point, kind = words[:3]
        options = (words[3] if len(words) > 3 else "").split(",")
        if kind in _PSEUDO or spec in _PSEUDO or "bind" in options:
            continue
        node = find_node(spec, found)
        where = _unescaped(point)
        named = [word.partition("=")[2] for word in options if word.startswith("subvol=")]
        if node is not None:
            subvolume = named[0].lstrip("/") or None if named else None
            if where not in [mount.where for mount in mounts] and (
                subvolume or node not in [mount.node for mount in mounts]
            ):
                mounts.append(MountPoint(node=node, where=where, subvolume=subvolume))
        elif not {"nofail", "noauto"} & set(options):
            strangers.append(f"{spec} on {point}")
    return mounts, tuple(strangers)


def parse_crypttab(text: str, found: FoundSystem) -> dict[NodeId, str]:
    """Return what the system calls each LUKS container that is open here."""
    below = {node.uuid.lower(): node.id for node in found.nodes if isinstance(node, Luks)}
    partitions = {
        part.uuid.lower(): node.id
        for node in found.nodes
        if isinstance(node, Luks) and isinstance(part := found.node(node.on), Partition)
    }
    names: dict[NodeId, str] = {}
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if len(words) < 2:
            continue
        device = words[1].strip('"').lower()
        value = device.rpartition("=")[2].rpartition("/")[2].strip('"')
        known = below.get(value) or partitions.get(value)
        if known is not None and _MAPPED_NAME.fullmatch(words[0]):
            names.setdefault(known, words[0])
    return names


def with_names(found: FoundSystem, mapped: Mapping[NodeId, str]) -> FoundSystem:
    """Return `found` with its LUKS containers named as the captured system does."""
    nodes = tuple(
        replace(node, name=mapped[node.id])
        if isinstance(node, Luks) and node.id in mapped
        else node
        for node in found.nodes
    )
    return replace(found, nodes=nodes)


def find_node(spec: str, found: FoundSystem) -> str | None:
    """Return the node that an fstab's first field means."""
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
    if not value:
        return _by_path(spec, found)
    for one in found.contents:
        node = found.node(one.on)
        part = node if isinstance(node, Partition) else None
        is_it = {
            "UUID": (getattr(one.content, "uuid", None) or "").lower() == value.lower(),
            "LABEL": getattr(one.content, "label", None) == value,
            "PARTUUID": part is not None and part.uuid.lower() == value.lower(),
            "PARTLABEL": part is not None and part.name == value,
        }.get(tag, False)
        if is_it:
            return one.on
    return None


def _by_path(spec: str, found: FoundSystem) -> str | None:
    holders = {one.on for one in found.contents}
    for node in found.nodes:
        if node.id in holders and spec in _names(node, found):
            return node.id
    # the name of the first disk of its kind: the one that we look at, as far as can be told
    if named := re.fullmatch(r"/dev/(?:[shv]da|xvda|nvme0n1p|mmcblk0p)(\d+)", spec):
        wanted = f"{found.disks[0].id}p{named[1]}"
        return wanted if wanted in holders else None
    return None


def _names(node: Node, found: FoundSystem) -> tuple[str, ...]:
    """Return the device names that the captured system has for an array, LUKS or volume."""
    match node:
        case LogicalVolume(name=name, on=on):
            group = found.node(on)
            assert isinstance(group, VolumeGroup)
            joined = mapped_name(group.name, name)
            return (f"/dev/{group.name}/{name}", f"/dev/mapper/{joined}")
        case Luks(name=str() as name):
            return (f"/dev/mapper/{name}",)
        case Partition(on=on, number=number) if isinstance(array := found.node(on), Array):
            # udev's rules and the kernel put a p between two digits
            names = _names(array, found)
            return tuple(f"{name}{'p' if name[-1].isdigit() else ''}{number}" for name in names)
        case Partition() | VolumeGroup() | Luks():
            return ()
        case _:
            name = getattr(node, "name", "").rpartition(":")[2]
            return (f"/dev/md/{name}", f"/dev/md{name}") if name else ()


def find_redactions(
    tree: RootedTree, devices: Mapping[int, str], emptied: Mapping[str, str]
) -> tuple[tuple[RedactedFile, ...], tuple[str, ...]]:
    """Return the files to leave out with the place of their bytes, and those that have none.

    `devices` maps st_dev to the node that holds the filesystem; `emptied` maps the mount points of
    btrfs to it. Those have no place to blank: small files lie in the trees, all data have
    checksums, and the kernel gives addresses that are not the device's. They are emptied.
    """
    files, unfit = [], []
    for path in redaction_paths(tree):
        try:
            with tree.opened(path) as fd:
                found = os.fstat(fd)
                # a subvolume inside a mounted one has a number of its own
                node = devices.get(found.st_dev) or _nearest(path, emptied)
                is_emptied = node in emptied.values()
                runs = () if is_emptied else file_extents(fd, path)
        except NoPlace as error:
            unfit.append(f"{error}, so they cannot be left out; --keep-identity captures them")
            continue
        except AgentError as error:
            unfit.append(str(error))
            continue
        if node is not None and (runs or (is_emptied and found.st_size)):
            files.append(
                RedactedFile(
                    on=node,
                    path=path,
                    size_bytes=found.st_size,
                    runs=tuple((run.offset, run.size) for run in runs),
                )
            )
    return tuple(files), tuple(unfit)


def _nearest(path: str, mounts: Mapping[str, str]) -> str | None:
    """Return the node of the deepest of `mounts` that `path` is below."""
    above = [point for point in mounts if path.startswith(f"{point.rstrip('/')}/")]
    return mounts[max(above, key=len)] if above else None


def _devices(tree: RootedTree, mounts: list[MountPoint]) -> Iterator[tuple[int, str]]:
    with ExitStack() as stack:
        for mount in mounts:
            if tree.is_directory(mount.where):
                handle = stack.enter_context(tree.directory(mount.where))
                yield handle.stat().st_dev, mount.node


def _unescaped(point: str) -> str:
    """Return a mount point with fstab's octal escapes undone."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), point)
