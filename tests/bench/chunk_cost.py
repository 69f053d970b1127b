"""What Python itself costs a chunk: the part of the work that one interpreter lock serialises.

Measured is a deploy of 20,000 chunks of one 4 KiB block each: its user CPU time, all threads,
from opening the template to the end, divided by the chunks. Whatever runs under the lock is in
that time. Beside it there are things that do not need the lock: digests and zstd of 4 KiB (a few
µs), waiting for the lock, reading the index. So it is an upper bound of what a chunk keeps the
lock for; kernel time (sockets, writes), for which the lock is released, is told in the note.

The lock is not what limits n cores as long as a chunk keeps it for less than 1/n of the CPU time
that a full chunk of 4 MiB takes. Half of that is the target, for 16 cores: 1/32. Threads then
find the lock free every other time.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from agent.model.template import CHUNK_BYTES
from agent.units import MiB
from tests.bench.line import Line, Peer, joined
from tests.bench.rounds import fresh_file, in_turns, load_note
from tests.bench.setting import REPOSITORY, TAG, Setting, warm_template
from tests.bench.synthetic import scattered_source
from tests.contracts.registries import netboot

CHUNKS: Final = 20_000
CORES: Final = 16
TARGET: Final = 1 / (2 * CORES)


def chunk_cost(setting: Setting, names: Sequence[str]) -> Iterator[Line]:
    """Yield Python's µs a chunk beside the CPU's µs for 4 MiB of real data."""
    busy = load_note()
    data = setting.small
    source, runs = setting.work / "source.img", setting.work / "runs"
    store, target = setting.work / "store", setting.work / "target.img"
    scattered_source(source, runs, CHUNKS, extents=1)
    layout, _ = setting.template(data)
    warm_template(layout)
    store.mkdir()
    last: dict[str, dict[str, Any]] = {}

    with netboot(store) as url:
        captured = setting.child("capture-extents", url, REPOSITORY, source, runs, str(MiB))[1]

        def tiny() -> float:
            fresh_file(target, CHUNKS * CHUNK_BYTES)
            found = setting.child("restore", f"{url}/v2/{REPOSITORY}", TAG, target)[1]
            last["tiny"] = found
            return float(found["user_seconds"]) / CHUNKS * 1e6

        def full() -> float:
            fresh_file(target, data.size_bytes)
            found = setting.child("restore", setting.url_of(layout), TAG, target)[1]
            return float(found["cpu_seconds"]) * CHUNK_BYTES / int(found["bytes_written"]) * 1e6

        measured = in_turns({"tiny": tiny, "full": full}, setting.rounds)
    target.unlink()
    peer = Peer("CPU time, user and kernel, of 4 MiB of real data", measured["full"])
    words = f"deploy of {CHUNKS} chunks of 4 KiB; real data: {data.words}"
    for name in names:
        line = Line(name, "us", measured["tiny"], TARGET, words, peer)
        with_kernel = last["tiny"]["cpu_seconds"] / CHUNKS * 1e6
        capture_us = captured["user_seconds"] / CHUNKS * 1e6
        note = joined(
            f"an upper bound; one lock then lets {CHUNK_BYTES / line.value / 1e3:.1f} GB/s of "
            f"4 MiB chunks through, and is always taken at {1 / (line.ratio or 1):.0f} cores",
            f"the target leaves it half free at {CORES} cores",
            f"with kernel time {with_kernel:.0f} us; capture, user time, {capture_us:.0f} us",
            busy,
        )
        yield Line(name, "us", measured["tiny"], TARGET, words, peer, note)
