"""How a captured system calls the volumes of a layout, in its own files. Pure."""

from collections.abc import Iterator
from typing import Final

from agent.model.layout import (
    Layout,
    Swap,
    Vfat,
    Volume,
)
from agent.model.nodes import (
    Array,
    LogicalVolume,
    Luks,
    LvKind,
    MdLevel,
    Partition,
    VolumeGroup,
    mapped_name,
)

_BY: Final = {
    "/dev/disk/by-uuid/": "UUID=",
    "/dev/disk/by-label/": "LABEL=",
    "/dev/disk/by-partuuid/": "PARTUUID=",
    "/dev/disk/by-partlabel/": "PARTLABEL=",
}
_ANY_CASE: Final = ("UUID", "PARTUUID")
_WITHOUT_COPY: Final = (MdLevel.LINEAR, MdLevel.RAID0)
_WITH_COPY: Final = (LvKind.MIRROR, LvKind.RAID1, LvKind.RAID5, LvKind.RAID6, LvKind.RAID10)


def luks_name(luks: Luks) -> str:
    """Return the name that crypttab gives a container."""
    return luks.name or f"luks-{luks.uuid}"


def array_device(array: Array) -> str:
    """Return the device of an array as the system's mdadm.conf names it."""
    return f"/dev/md/{array.name.rpartition(':')[2] or array.id.removeprefix('md') or array.id}"


def device_paths(layout: Layout, node_id: str) -> tuple[str, ...]:
    """Return the paths by which a system knows a node, the best first; none for disks."""
    node = layout.node(node_id)
    match node:
        case LogicalVolume(name=name, on=on):
            group = layout.node(on)
            assert isinstance(group, VolumeGroup)
            return (f"/dev/mapper/{mapped_name(group.name, name)}", f"/dev/{group.name}/{name}")
        case Luks():
            return (f"/dev/mapper/{luks_name(node)}",)
        case Array():
            short = array_device(node)
            number = short.removeprefix("/dev/md/")
            return (short, f"/dev/md{number}") if number.isdecimal() else (short,)
        case _:
            return ()


def specs(layout: Layout, volume: Volume) -> Iterator[str]:
    """Yield every first field of fstab that means `volume`, the best first."""
    node = layout.node(volume.on)
    if uuid := getattr(volume.content, "uuid", None):
        yield f"UUID={uuid}"
    yield from device_paths(layout, volume.on)
    if isinstance(node, Partition):
        yield f"PARTUUID={node.uuid}"
        if node.name:
            yield f"PARTLABEL={node.name}"
    if label := getattr(volume.content, "label", ""):
        yield f"LABEL={label}"


def best_spec(layout: Layout, volume: Volume) -> str:
    """Return the name that holds wherever the disks are. Raises ValueError if there is none."""
    for spec in specs(layout, volume):
        return spec
    raise ValueError(f"nothing names {volume.id}: it has no UUID and lies on a whole disk")


def plain_spec(text: str) -> str:
    """Return a spec with quotes and udev's paths undone: `UUID=…` for `/dev/disk/by-uuid/…`."""
    text = text.replace('"', "").replace("'", "")
    for path, by in _BY.items():
        if text.startswith(path):
            text = by + text.removeprefix(path).replace("\\x20", " ")
    tag, sign, value = text.partition("=")
    return f"{tag}={value.lower()}" if sign and tag in _ANY_CASE else text


def means(spec: str, layout: Layout, volume: Volume) -> bool:
    """Return whether `spec` still names `volume` in `layout`."""
    return plain_spec(spec) in {plain_spec(one) for one in specs(layout, volume)}


def volume_at(layout: Layout, mount: str) -> Volume | None:
    """Return the volume that holds the files at `mount`: of the mounts above it, the nearest."""
    best: tuple[int, Volume] | None = None
    for volume in layout.volumes:
        for point in volume.mount_points:
            if mount == point or mount.startswith(f"{point.rstrip('/')}/"):
                best = max(best or (-1, volume), (len(point), volume), key=lambda one: one[0])
    return best[1] if best else None


def may_be_missing(layout: Layout, volume: Volume) -> bool:
    """Return whether the system can be up although `volume` is not there.

    So it is with an ESP or swap on one disk of several, when `/` outlives the loss of a disk.
    """
    root = volume_at(layout, "/")
    if root is None or not isinstance(volume.content, Vfat | Swap):
        return False
    return _outlives_a_disk(layout, root) and not _outlives_a_disk(layout, volume)


def _outlives_a_disk(layout: Layout, volume: Volume) -> bool:
    return any(
        (isinstance(node, Array) and node.level not in _WITHOUT_COPY)
        or (isinstance(node, LogicalVolume) and node.lv in _WITH_COPY)
        for node in layout.carriers(volume.on)
    )
