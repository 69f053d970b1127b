"""btrfs-progs: check, grow and make; and what a superblock's feature bits are called there."""

import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import AgentError, CommandFailed, DiskError, SourceUnfit
from agent.model.layout import Btrfs
from agent.system.command import Runner
from agent.system.mount import Part, mounted
from agent.tools.btrfs_map import GROUP_TREE, BtrfsFacts, btrfs_facts

CHECK_TIMEOUT_S: Final = 12 * 3600.0
_INCOMPAT: Final = {
    0x4: "mixed-bg",
    0x40: "extref",
    0x100: "skinny-metadata",
    0x200: "no-holes",
}
"""What mkfs.btrfs can be told, by its name there."""
_FREE_SPACE_TREE: Final = 0x1
_READABLE: Final = 0x1FFF & ~0x1000
"""The incompatible features up to raid1c34: the extent tree and chunks are as we know them."""
_SIMPLE_QUOTA: Final = 0x10000
_READABLE_RO: Final = 0xF
_CHOSEN: Final = ("extref", "skinny-metadata", "no-holes", "free-space-tree")
_NEVER: Final = ("block-group-tree",)
_SHOWN: Final = Path("/sys/fs/btrfs")
_LISTED: Final = re.compile(rb"ID (\d+) gen \d+ top level \d+ path (.+)")
_DEFAULT: Final = re.compile(rb"ID (\d+) ")


def feature_names(facts: BtrfsFacts) -> tuple[str, ...]:
    """Return the features of a filesystem that mkfs.btrfs has a name for."""
    found = [name for bit, name in _INCOMPAT.items() if facts.incompat & bit]
    if facts.compat_ro & _FREE_SPACE_TREE:
        found.append("free-space-tree")
    if facts.compat_ro & GROUP_TREE:
        found.append("block-group-tree")
    return tuple(found)


def is_readable(facts: BtrfsFacts) -> bool:
    """Return whether we know where this filesystem keeps what is used."""
    known = _READABLE | _SIMPLE_QUOTA
    return not facts.incompat & ~known and not facts.compat_ro & ~_READABLE_RO


def content_of(facts: BtrfsFacts) -> Btrfs:
    return Btrfs(
        uuid=facts.uuid,
        label=facts.label,
        block_bytes=facts.sector_bytes,
        features=feature_names(facts),
    )


def shown_devices(uuid: str) -> frozenset[str]:
    """Return the devices that a mounted btrfs is on, by their kernel names; none if it is not."""
    return frozenset(path.name for path in (_SHOWN / uuid / "devices").glob("*"))


def check_fit(facts: BtrfsFacts, device: Path) -> None:
    """Raise SourceUnfit, with the command that helps, if a log is still to be replayed."""
    if facts.log_root:
        raise SourceUnfit(
            (f"the btrfs on {device} was not unmounted cleanly",),
            hint=f"start that system and shut it down cleanly, or mount and unmount {device} once, "
            "which replays its log",
        )


def check_btrfs(run: Runner, device: Path, stop: threading.Event | None = None) -> None:
    """Check extents, references and trees without writing. Raises DiskError if one is wrong."""
    try:
        run(["btrfs", "check", "--readonly", device], timeout_s=CHECK_TIMEOUT_S, stop=stop)
    except CommandFailed as error:
        raise DiskError(f"the btrfs on {device} is damaged") from error


@dataclass(frozen=True, slots=True)
class Subvolumes:
    """The subvolumes of a btrfs, by their paths below its top level."""

    paths: tuple[str, ...]
    default: str | None
    """The one that is mounted if nobody names one; None: the top level."""


def find_subvolumes(run: Runner, top: Path) -> Subvolumes:
    """Return the subvolumes of a btrfs whose top level is mounted at `top`."""
    listing = run(["btrfs", "subvolume", "list", top]).stdout
    return parse_subvolumes(listing, run(["btrfs", "subvolume", "get-default", top]).stdout)


def parse_subvolumes(listing: bytes, default: bytes) -> Subvolumes:
    """Return what `btrfs subvolume list` and `get-default` say; paths sorted."""
    named = _DEFAULT.match(default)
    found = {
        match[1]: match[2].decode("utf-8", "backslashreplace")
        for line in listing.split(b"\n")
        if (match := _LISTED.fullmatch(line))
    }
    return Subvolumes(tuple(sorted(found.values())), found.get(named[1]) if named else None)


def grow_btrfs(run: Runner, devices: Sequence[Path], where: Path) -> None:
    """Let the filesystem take all of its devices. It is mounted at `where` meanwhile."""
    first, *further = devices
    part = Part(first, "/", "btrfs", further=tuple(further))
    with mounted(run, first, where, part.fstype, part.options("rw,nosuid,nodev,noexec")):
        for device in devices:
            number = btrfs_facts(device).device_id
            run(["btrfs", "filesystem", "resize", f"{number}:max", where])


def make_btrfs(
    run: Runner,
    device: Path,
    *,
    uuid: str,
    label: str,
    sector_bytes: int,
    features: Iterable[str],
) -> None:
    """Make an empty btrfs on one device with no more than `features`."""
    wanted = set(features)
    if unknown := wanted - {*_CHOSEN, *_INCOMPAT.values(), *_NEVER}:
        raise AgentError(f"mkfs.btrfs knows no feature {min(unknown)!r}")
    choices = [name if name in wanted else f"^{name}" for name in _CHOSEN]
    words: list[str | Path] = ["mkfs.btrfs", "--quiet", "--force", "--nodiscard"]
    words += [f"--uuid={uuid}", f"--features={','.join([*choices, *(f'^{n}' for n in _NEVER)])}"]
    if label:
        words.append(f"--label={label}")
    if sector_bytes:
        words.append(f"--sectorsize={sector_bytes}")
    run([*words, device])
