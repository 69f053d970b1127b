"""mount(8) as context managers. Unmounting that fails is an error: data may not be written."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.system.command import Runner
from agent.system.rooted import RootedTree

SOURCE_OPTIONS: Final = "ro,nosuid,nodev,noexec,noatime"
"""For capture: no write at all, not even the journal's."""
TARGET_OPTIONS: Final = "rw,nosuid,nodev,noexec,noatime"
"""For a deployed system: its programs and device nodes mean nothing to us."""

SYSTEM_OPTIONS: Final = "rw,noatime"
"""For a system whose own programs are to run, in a sandbox."""

_READ_ONLY_WORDS: Final = {"xfs": "norecovery,nouuid", "btrfs": "norecovery", "ext4": "noload"}
"""What keeps a filesystem from replaying its journal when it is mounted read-only."""


@dataclass(frozen=True, slots=True)
class Part:
    """One filesystem of a system: its device, where the system mounts it, and how."""

    device: Path
    where: str
    fstype: str = "ext4"
    subvolume: str | None = None
    further: tuple[Path, ...] = ()
    """The further devices of a btrfs."""
    own_words: str | None = None
    """Its mount options, where they are not those of the whole system."""

    def options(self, words: str) -> str:
        """Return mount options: `words`, and what this kind of filesystem needs beside."""
        words = self.own_words or words
        found = [words]
        if "ro" in words.split(",") and self.fstype in _READ_ONLY_WORDS:
            found.append(_READ_ONLY_WORDS[self.fstype])
        elif self.fstype == "xfs":
            found.append("nouuid")
        if self.subvolume is not None:
            found.append(f"subvol={self.subvolume}")
        found += [f"device={device}" for device in self.further]
        return ",".join(found)


@contextmanager
def mounted(run: Runner, device: Path, where: Path, fstype: str, options: str) -> Iterator[Path]:
    """Yield `where` with `device` mounted on it; afterwards it is written out and unmounted."""
    where.mkdir(parents=True, exist_ok=True)
    run(["mount", "-t", fstype, "-o", options, device, where])
    try:
        yield where
    finally:
        _unmount(run, where)


@contextmanager
def mounted_below(
    run: Runner, tree: RootedTree, device: Path, where: str, fstype: str, options: str
) -> Iterator[None]:
    """Mount `device` on the directory `where` *of the system* `tree`, whatever links say.

    The real directory is found inside the root first, so a link cannot make us mount over ours.
    """
    with tree.directory(where) as handle:
        real = handle.readlink()
    with mounted(run, device, real, fstype, options):
        yield


@contextmanager
def mounted_system(
    run: Runner, where: Path, parts: Iterable[Part], words: str, *, make_places: bool = False
) -> Iterator[RootedTree]:
    """Yield the files of a system made of `parts`, `/` the first. `words` are mount options.

    A part whose mount point is missing is left out, unless `make_places`: then it is made.
    """
    root, *others = parts
    assert root.where == "/"
    with ExitStack() as stack:
        stack.enter_context(mounted(run, root.device, where, root.fstype, root.options(words)))
        for part in others:
            with RootedTree(where) as tree:
                if make_places:
                    tree.make_directories(part.where)
                if tree.is_directory(part.where):
                    options = part.options(words)
                    stack.enter_context(
                        mounted_below(run, tree, part.device, part.where, part.fstype, options)
                    )
        yield stack.enter_context(RootedTree(where))


def _unmount(run: Runner, where: Path) -> None:
    if "rw" in _options_of(where):
        run(["sync", "--file-system", where])
    run(["umount", where])


def _options_of(where: Path) -> tuple[str, ...]:
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _device, point, _kind, options, *_ = line.split(" ")
        if point == str(where):
            return tuple(options.split(","))
    return ("rw",)
