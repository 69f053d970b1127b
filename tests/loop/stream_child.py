"""Capture or restore one raw volume in a process of its own and say what it took.

`python -m tests.loop.stream_child capture|restore|verify URL DISK [LANES [LEVEL]]`: a bench, too.
"""

import json
import sys
import time
from pathlib import Path

from agent.model.job import Verify
from agent.store.registry import RegistryClient
from agent.store.target import RegistryTarget
from agent.store.template import open_template
from agent.stream.capture import capture_template
from agent.stream.chunks import VolumeSource
from agent.stream.restore import restore_volume
from agent.stream.verify import verify_volume
from agent.system.memory import give_back_memory
from agent.units import Extent
from tests.bench.peaks import peak_bytes
from tests.contracts.stream_builders import make_config, make_volume


def main(
    mode: str, url: str, disk: Path, lanes: int | None, level: int | None
) -> dict[str, object]:
    client = RegistryClient(url, "demo")
    before = peak_bytes()
    started = time.monotonic()
    cpu = time.process_time()
    if mode == "capture":
        size = disk.stat().st_size
        volume = make_volume(size)
        source = VolumeSource(volume, disk, 0, (Extent(0, size),))
        done = capture_template(
            RegistryTarget(client),
            make_config(volume),
            [source],
            tag="latest",
            level=level,
            lanes=lanes,
        )
        moved, stages = done.used_bytes, done.stage_seconds
        stored = done.stored_bytes
    else:
        template = open_template(client, "latest")
        stored = template.stored_bytes
        if mode == "restore":
            restored = restore_volume(template, "root", disk, 0, lanes=lanes)
            moved, stages = restored.bytes_written, restored.stage_seconds
        else:
            verified = verify_volume(template, "root", disk, 0, Verify.FULL, lanes=lanes)
            moved, stages = verified.bytes_checked, verified.stage_seconds
    seconds = time.monotonic() - started
    return {
        "mode": mode,
        "bytes": moved,
        "stored_bytes": stored,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "mb_per_s": round(moved / 1e6 / seconds),
        "peak_bytes": peak_bytes(),
        "imports_bytes": before,
        "stages": stages,
    }


if __name__ == "__main__":
    mode, url, disk, *more = sys.argv[1:]
    lanes, level = (int(word) if word else None for word in (*more, "", "")[:2])
    give_back_memory(lanes)  # as the agent does
    print(json.dumps(main(mode, url, Path(disk), lanes, level)))
