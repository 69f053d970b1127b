"""A place to run a captured system's own programs: its files, its disks, and nothing else.

The programs are a stranger's code run as root. They get namespaces of their own, a root that is
the mounted system alone, a /dev with only the disks named, no network, few capabilities, a filter
of system calls, and bounds of memory, processes, output and time. `agent.system.sandboxed` is the
first process inside; when it ends, the kernel ends all others and takes the mounts away.
"""

import json
import os
import stat
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.errors import CommandFailed
from agent.system.command import Runner
from agent.units import KiB, MiB

OUTPUT_BYTES: Final = 512 * KiB
PROCESSES: Final = 512
SETUP_FAILED: Final = 125
"""The status of the first process when the sandbox itself could not be made."""
_QUOTED_LINES: Final = 8
_LEAST_MEMORY: Final = 192 * MiB
_MD_MAP: Final = Path("/run/mdadm/map")
_HOME: Final = Path(__file__).parents[2]
_WORDS: Final = (
    *("unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork"),
    "--kill-child=SIGKILL",
)


class SandboxFailed(CommandFailed):
    """A program of the captured system failed; the message ends with its last lines."""


@dataclass(frozen=True, slots=True)
class DeviceTree:
    """The block devices of a sandbox: nodes by name, links by name; names are below /dev."""

    nodes: dict[str, int]
    """Each with its device number."""
    links: dict[str, str]
    has_mapper: bool
    """One of them is device-mapper's: programs must ask it what lies below."""


@dataclass(slots=True)
class _Heard:
    data: bytearray = field(default_factory=bytearray)

    def add(self, piece: bytes) -> None:
        self.data += piece
        if len(self.data) > OUTPUT_BYTES:
            raise CommandFailed(f"it wrote more than {OUTPUT_BYTES} bytes and was ended")

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "replace")


def run_inside(
    run: Runner,
    root: Path,
    argv: Sequence[str],
    *,
    devices: Sequence[Path],
    timeout_s: float,
    ok: Collection[int] = (0,),
    dev: Path = Path("/dev"),
) -> str:
    """Run `argv` in the system mounted at `root`; return what it said, both streams in order.

    `devices` are all block devices that it may see: disks, partitions, arrays, mapped volumes.
    Afterwards no process and no mount of it is left. Raises SandboxFailed.
    """
    tree = find_devices(run, devices, dev)
    order = {
        "root": str(root.resolve()),
        "argv": list(argv),
        "nodes": tree.nodes,
        "links": tree.links,
        "mapper": tree.has_mapper,
        "md_map": known_arrays(_MD_MAP, tree.nodes),
        "memory_bytes": memory_bound(Path("/proc/meminfo").read_text(encoding="ascii")),
        "processes": PROCESSES,
    }
    heard = _Heard()
    try:
        said = run(
            [*_WORDS, sys.executable, "-m", "agent.system.sandboxed"],
            stdin=json.dumps(order),
            timeout_s=timeout_s,
            ok=range(256),
            env={"PYTHONPATH": str(_HOME), "PYTHONDONTWRITEBYTECODE": "1"},
            into=heard.add,
        )
    except CommandFailed as error:
        raise SandboxFailed(f"{argv[0]} did not end well: {error}{quoted(heard.text)}") from error
    if said.status == SETUP_FAILED and said.stderr:
        raise SandboxFailed(f"there is no sandbox for {argv[0]}: {said.stderr.strip()[-500:]}")
    if said.status not in ok:
        raise SandboxFailed(f"{argv[0]} failed with status {said.status}{quoted(heard.text)}")
    return heard.text


def quoted(text: str) -> str:
    """Return the last lines of `text` as one, for a message; unprintable signs become `?`."""
    lines = [line.strip() for line in text.splitlines() if line.strip()][-_QUOTED_LINES:]
    joined = " | ".join(lines)[-2000:]
    clean = "".join(sign if sign.isprintable() else "?" for sign in joined)
    return f": {clean}" if clean else ""


def memory_bound(meminfo: str) -> int:
    """Return how many bytes a sandbox may use: three quarters of what is free now."""
    for line in meminfo.splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return max(_LEAST_MEMORY, int(value.split()[0]) * KiB * 3 // 4)
    return _LEAST_MEMORY


def find_devices(run: Runner, devices: Sequence[Path], dev: Path = Path("/dev")) -> DeviceTree:
    """Return the nodes of `devices` and every link of udev's, or by UUID, that leads to one."""
    nodes = {}
    for device in devices:
        real = device.resolve(strict=True)
        found = real.stat()
        if not stat.S_ISBLK(found.st_mode):
            raise CommandFailed(f"{device} is not a block device")
        nodes[str(real.relative_to(dev))] = found.st_rdev
    numbers = {number: name for name, number in nodes.items()}
    links = {
        str(path.relative_to(dev)): numbers[found.st_rdev]
        for path, found in _block_paths(dev)
        if found.st_rdev in numbers and str(path.relative_to(dev)) not in nodes
    }
    for name in nodes:
        asked: list[str | Path] = ["blkid", "-p", "-o", "value", "-s", "UUID", dev / name]
        uuid = run(asked, ok=(0, 2, 4, 8)).text.strip()
        if uuid and "/" not in uuid and uuid.isprintable():
            links.setdefault(f"disk/by-uuid/{uuid}", name)
    return DeviceTree(nodes, links, any(_is_mapped(number) for number in numbers))


def known_arrays(path: Path, nodes: Collection[str]) -> str:
    """Return the lines of mdadm's map at `path` that are about `nodes`.

    Without it mdadm would make a device node for each member to read its UUID, which it may not.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ""
    return "".join(f"{line}\n" for line in lines if line.split(" ")[0] in nodes)


def _is_mapped(number: int) -> bool:
    return Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/dm").is_dir()


def _block_paths(dev: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield what stands for a block device in a folder of /dev, links followed."""
    for folder, _folders, names in os.walk(dev):
        if Path(folder) == dev:
            continue
        for name in names:
            path = Path(folder) / name
            try:
                found = path.stat()
            except OSError:
                continue
            if stat.S_ISBLK(found.st_mode):
                yield path, found
