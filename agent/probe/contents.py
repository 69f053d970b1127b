"""What disks and partitions hold, by signatures read from the device itself.

wipefs(8) reads the device, so no udev is needed, and lists every signature: two on one disk
(an old md superblock beside a new table) are both found, where blkid(8) gives up.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from agent.errors import CommandFailed, DiskError
from agent.model.inventory import Found
from agent.model.wire import BadDocument
from agent.system.command import Runner
from agent.system.libblkid import find_all
from agent.tools.old_places import old_places
from agent.units import Extent

_COMMAND = ("wipefs", "--no-act", "--json", "--output", "DEVICE,TYPE,USAGE,UUID,LABEL")
_TABLE = "table"
UNREADABLE: Final = "unreadable"
_SMALLEST_VOLUME_BYTES: Final = 64 * 1024


def probe_contents(run: Runner, paths: Sequence[str]) -> tuple[Found, ...]:
    """Return what the devices at `paths` hold, in that order.

    A device that cannot be read is found to hold `unreadable`: never mistaken for empty.
    """
    if not paths:
        return ()
    try:
        return parse_wipefs(run([*_COMMAND, *paths]).text, paths)
    except CommandFailed:
        return tuple(found for path in paths for found in _one(run, path))


def probe_hidden(
    disk: Path,
    path: str,
    whole: Extent,
    sector_bytes: int,
    partitions: Mapping[str, Extent],
) -> tuple[Found, ...]:
    """Return what lies on a disk where the kernel shows no partition.

    That is what only a backup GPT names, and what is inside of arrays and groups that nobody
    started. Found on the partition that holds it, else on the disk at `path`. `disk` is where it
    is read: a recorded machine has none.
    """
    try:
        with disk.open("rb", buffering=0) as file:

            def read(offset: int, size: int) -> bytes:
                try:
                    file.seek(offset)
                    return file.read(size)
                except OSError as error:
                    raise DiskError(f"could not read {path} at {offset}: {error}") from error

            places = old_places(read, whole.size, (sector_bytes,))
    except OSError:
        return ()
    shown = {whole, *partitions.values()}
    hidden = (place for place in places if place not in shown)
    found = [
        one
        for place in hidden
        if place.size >= _SMALLEST_VOLUME_BYTES and not _surrounds(place, partitions.values())
        for one in _at(disk, path, place, partitions)
    ]
    return tuple(dict.fromkeys(found))


def _surrounds(place: Extent, others: Iterable[Extent]) -> bool:
    """An extended partition: what it holds is shown."""
    return any(place.offset < one.offset and one.end <= place.end for one in others)


def _at(disk: Path, path: str, place: Extent, partitions: Mapping[str, Extent]) -> Iterator[Found]:
    on = next(
        (name for name, extent in partitions.items() if extent.offset <= place.offset < extent.end),
        path,
    )
    try:
        for one in find_all(disk, place):
            yield Found(path=on, what=one.what, usage=one.usage, label=one.label, uuid=one.uuid)
    except DiskError:
        yield Found(path=on, what=UNREADABLE, usage="other")


def _one(run: Runner, path: str) -> tuple[Found, ...]:
    try:
        return parse_wipefs(run([*_COMMAND, path]).text, [path])
    except CommandFailed:
        return (Found(path=path, what=UNREADABLE, usage="other"),)


def parse_wipefs(text: str, paths: Sequence[str]) -> tuple[Found, ...]:
    """Return the signatures in wipefs's JSON for the devices at `paths`, each kind once a device.

    GPT's second copy and its protective MBR are the same table, told once. Older versions name
    a device as they were asked (`/dev/sda1`), newer ones without its folder (`sda1`).
    """
    if not text.strip():
        return ()
    asked = {path: path for path in paths} | {path.rpartition("/")[2]: path for path in paths}
    try:
        signatures = json.loads(text)["signatures"]
        found = [
            Found(
                path=asked[entry["device"]],
                what=entry["type"],
                usage=_TABLE if entry["usage"] == "partition-table" else entry["usage"] or "other",
                label=entry["label"] or None,
                uuid=entry["uuid"] or None,
            )
            for entry in signatures
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise BadDocument(f"wipefs: cannot read its answer: {error!r}") from error
    return tuple(_once(found))


def _once(found: Iterable[Found]) -> Iterator[Found]:
    listed = list(found)
    seen: set[tuple[str, str, str | None]] = set()
    for one in listed:
        has_gpt = any(other.path == one.path and other.what == "gpt" for other in listed)
        if (one.path, one.what, one.uuid) in seen or (one.what == "PMBR" and has_gpt):
            continue
        seen.add((one.path, one.what, one.uuid))
        yield one
