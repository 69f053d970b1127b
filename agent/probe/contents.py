"""What disks and partitions hold, by signatures read from the device itself.

wipefs(8) reads the device, so no udev is needed, and lists every signature: two on one disk
(an old md superblock beside a new table) are both found, where blkid(8) gives up.
"""

import json
from collections.abc import Iterable, Iterator, Sequence

from agent.errors import CommandFailed
from agent.model.inventory import Found
from agent.model.wire import BadDocument
from agent.system.command import Runner

_COMMAND = ("wipefs", "--no-act", "--json", "--output", "DEVICE,TYPE,USAGE,UUID,LABEL")
_TABLE = "table"
UNREADABLE = "unreadable"


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
