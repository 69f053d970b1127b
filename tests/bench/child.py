"""What is measured of ours, in a process of its own, from its first import to its end.

`python -m tests.bench.child MODE …` prints one JSON object; the modes are the functions here.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.model.layout import Ext, Xfs
from agent.store.layout import LayoutFolder
from agent.store.registry import RegistryClient
from agent.store.sources import open_source
from agent.store.target import FolderTarget, RegistryTarget, Target
from agent.store.template import open_template
from agent.stream import chunks
from agent.stream.capture import capture_template
from agent.stream.chunks import VolumeSource
from agent.stream.restore import restore_volume
from agent.stream.usedmap import used_map
from agent.system.command import Run
from agent.system.memory import give_back_memory
from agent.units import Extent
from tests.bench import shares
from tests.bench.peaks import ChildrenPeaks, peak_bytes
from tests.contracts.stream_builders import make_config, make_volume


def capture(
    where: str, repository: str, disk: str, tag: str, level: str, parent: str = ""
) -> dict[str, Any]:
    """Capture the ext4 or XFS on `disk` into a registry or a folder, its used map included.

    `level`: that of zstd, or `adaptive`, as the product does it.
    """
    path = Path(disk)
    content = content_of(path)
    volume = make_volume(path.stat().st_size, content=content)
    target: Target = FolderTarget(LayoutFolder(Path(where)))
    if where.startswith("http"):
        target = RegistryTarget(RegistryClient(where, repository))
    known = open_template(target.reading, parent) if parent else None
    started = time.monotonic()
    with target.at_work(), used_map(Run(), path, content, volume.size_bytes) as used:
        mapped = time.monotonic()
        done = capture_template(
            target,
            make_config(volume),
            [VolumeSource(volume, path, 0, used.extents, zeros=used.zeros)],
            tag=tag,
            level=None if level == "adaptive" else int(level),
            parent=known,
            confirm=used.confirm,
        )
    return {
        "used_bytes": done.used_bytes,
        "stored_bytes": done.stored_bytes,
        "uploaded_bytes": done.uploaded_bytes,
        "digest": done.digest,
        "map_seconds": mapped - started,
        "stages": done.stage_seconds,
    }


def content_of(disk: Path) -> Ext | Xfs:
    """Return what is on `disk`, by its first bytes."""
    with disk.open("rb") as file:
        is_xfs = file.read(4) == b"XFSB"
    return Xfs(uuid=shares.UUID, label="", block_bytes=4096) if is_xfs else shares.EXT4


def restore(url: str, tag: str, disk: str) -> dict[str, Any]:
    """Restore the volume of a template, in a web folder or at `…/v2/NAME`, to `disk`."""
    template = open_template(open_source(url), tag)
    done = restore_volume(template, "root", Path(disk), 0)
    return {
        "bytes_written": done.bytes_written,
        "bytes_fetched": done.bytes_fetched,
        "bytes_kept": done.bytes_kept,
        "stages": done.stage_seconds,
    }


def capture_with_children(*words: str) -> dict[str, Any]:
    """As `capture`, with the peaks of the programs that it runs."""
    with ChildrenPeaks() as peaks:
        answer = capture(*words)
    return {**answer, "children": peaks.by_name}


def capture_extents(url: str, repository: str, disk: str, runs: str, packs: str) -> dict[str, Any]:
    """Capture the runs of bytes that the file `runs` lists, into packs of `packs` bytes.

    At the level that the product takes by itself.
    """
    path = Path(disk)
    volume = make_volume(path.stat().st_size)
    source = VolumeSource(volume, path, 0, listed(Path(runs)))
    chunks.SPAN_LEVELS = 0  # as on a full disk: each window of it has a chunk, however little
    client, config = RegistryClient(url, repository), make_config(volume)
    done = capture_template(
        RegistryTarget(client),
        config,
        [source],
        tag="latest",
        level=None,
        pack_bytes=int(packs),
    )
    return {
        "stored_bytes": done.stored_bytes,
        "layers": len(open_template(client, done.digest).manifest.layers),
        "manifest_bytes": len(done.manifest_bytes),
    }


def listed(runs: Path) -> Any:
    """Return the runs in a file of `OFFSET SIZE` lines as the agent keeps a map of a volume."""
    from agent.model.extents import Extents

    with runs.open() as lines:
        return Extents(Extent(*map(int, line.split())) for line in lines)


MODES: dict[str, Callable[..., dict[str, Any]]] = {
    "capture": capture,
    "capture-with-children": capture_with_children,
    "restore": restore,
    "capture-extents": capture_extents,
    "python-share-deploy": shares.deploy,
    "python-share-capture": shares.capture,
    "python-share-read-back": shares.read_back,
}


if __name__ == "__main__":
    give_back_memory()  # as the agent does
    mode, *words = sys.argv[1:]
    before = os.times()
    answer = MODES[mode](*words)
    after = os.times()
    user, kernel = after.user - before.user, after.system - before.system
    times = {"user_seconds": user, "cpu_seconds": user + kernel}
    print(json.dumps({**answer, **times, "peak_bytes": peak_bytes()}))
