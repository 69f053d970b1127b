"""What of the CPU time of a deployment, a capture, a reading back is Python: for a process alone.

Each is done once before anything is counted: modules are loaded then, and connections made.
"""

import os
import time
from pathlib import Path
from typing import Any, Final

from agent.model.job import Verify
from agent.model.layout import Ext
from agent.store.registry import RegistryClient
from agent.store.sources import open_source
from agent.store.target import RegistryTarget
from agent.store.template import open_template
from agent.stream.capture import Captured, capture_template
from agent.stream.chunks import VolumeSource
from agent.stream.restore import restore_volume
from agent.stream.usedmap import used_map
from agent.stream.verify import verify_volume
from agent.system.command import Run
from agent.units import MiB
from tests.bench.native import NativeTime
from tests.contracts.stream_builders import make_config, make_volume

UUID: Final = "7c1d4f0a-5b0e-4c55-9d0f-2f6f1c9be001"
EXT4: Final = Ext(uuid=UUID, label="", block_bytes=4096, features=())
_TURNS: Final = 3
_FIRST_BYTES: Final = 64 * MiB


def deploy(url: str, tag: str, disk: str) -> dict[str, Any]:
    """Restore a template to a blank `disk`, three times that count."""
    size = Path(disk).stat().st_size
    native = NativeTime("write", "receive", "digest", "unpack")
    native.watch()

    def turn() -> tuple[int, int]:
        os.truncate(disk, 0)
        os.truncate(disk, size)
        done = restore_volume(open_template(open_source(url), tag), "root", Path(disk), 0)
        return done.chunks, done.bytes_written

    turn()
    native.reset()
    started = time.process_time()
    turns = [turn() for _ in range(_TURNS)]
    whole = time.process_time() - started
    chunks, content_bytes = (sum(column) for column in zip(*turns, strict=True))
    return _answer(native, whole, chunks, content_bytes)


def read_back(url: str, tag: str, disk: str) -> dict[str, Any]:
    """Read all of a template back from `disk`, which holds it; a sample of it before that."""
    template = open_template(open_source(url), tag)
    native = NativeTime("read", "digest")
    native.watch()
    verify_volume(template, "root", Path(disk), 0, Verify.SAMPLE)
    native.reset()
    started = time.process_time()
    done = verify_volume(template, "root", Path(disk), 0, Verify.FULL)
    whole = time.process_time() - started
    return _answer(native, whole, done.chunks_checked, done.bytes_checked)


def capture(url: str, repository: str, disk: str, level: str) -> dict[str, Any]:
    """Capture the ext4 on `disk` once that counts, into a registry; its first bytes before that.

    The used map is made before, and confirmed: it is no work of a chunk. `placing_seconds` is the
    CPU time of the one thread that takes chunks from the lanes, in order, finds their place,
    hashes the packs and writes the index.
    """
    path = Path(disk)
    volume = make_volume(path.stat().st_size, content=EXT4)
    target = RegistryTarget(RegistryClient(url, repository))
    native = NativeTime("read", "digest", "compress", "sha256", "send")
    native.watch()
    with target.at_work(), used_map(Run(), path, volume.content, volume.size_bytes) as used:
        used.confirm()

        def store(source: VolumeSource, tag: str) -> Captured:
            return capture_template(
                target, make_config(volume), [source], tag=tag, level=int(level)
            )

        few = tuple(run for run in used.extents if run.end <= _FIRST_BYTES)
        store(VolumeSource(volume, path, 0, few), "first")
        native.reset()
        started, here = time.process_time(), time.thread_time()
        done = store(VolumeSource(volume, path, 0, used.extents, zeros=used.zeros), "all")
        whole, placing = time.process_time() - started, time.thread_time() - here
    chunks = sum(1 for _ in open_template(target.reading, "all").entries("root")[1])
    return {**_answer(native, whole, chunks, done.used_bytes), "placing_seconds": placing}


def _answer(native: NativeTime, whole: float, chunks: int, content_bytes: int) -> dict[str, Any]:
    return {
        "chunks": chunks,
        "content_bytes": content_bytes,
        "all_seconds": whole,
        "python_seconds": whole - native.total,
        "native": native.seconds,
    }
