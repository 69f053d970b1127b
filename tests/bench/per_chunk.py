"""What Python costs a chunk, where only one thread at a time may run it.

Measured is a deployment of real data: the CPU time of the process, all threads, less that inside
the native calls that release Python's lock (receive, digest, unpack, write), each timed by its
thread's own clock. What is left is an upper bound of the time that the lock is held: it has the
bytecode, requests and their answers, copies of what was received, and also the clocks themselves,
waiting for the lock, and page faults. The first deployment of each process is not counted.

The lock does not limit n cores while a chunk holds it for less than 1/n of its CPU time in all: the
target is 16 cores.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from tests.bench.line import Line, Peer, joined
from tests.bench.rounds import fresh_file, load_note, say
from tests.bench.setting import TAG, Setting, warm_template

CORES: Final = 16
TARGET: Final = 1 / CORES


def per_chunk(setting: Setting, names: Sequence[str]) -> Iterator[Line]:
    """Yield one line: microseconds of Python a chunk in a deployment, beside those of the CPU."""
    busy = load_note()
    data = setting.data
    layout, _ = setting.template(data)
    warm_template(layout)
    target = setting.work / "target.img"
    python: list[float] = []
    whole: list[float] = []
    content_bytes = 0.0
    native: dict[str, float] = {}
    for number in range(1, setting.rounds + 1):
        fresh_file(target, data.size_bytes)
        answer = setting.child("python-share", setting.url_of(layout), TAG, target)[1]
        chunks = answer["chunks"]
        python.append(answer["python_seconds"] / chunks * 1e6)
        whole.append(answer["all_seconds"] / chunks * 1e6)
        content_bytes = answer["bytes_written"] / chunks
        native = {name: round(took / chunks * 1e6) for name, took in answer["native"].items()}
        say(f"round {number}/{setting.rounds}: {python[-1]:.0f} of {whole[-1]:.0f} us a chunk")
    target.unlink()
    peer = Peer("CPU time of the same chunk in all", tuple(whole))
    line = Line(names[0], "us", tuple(python), round(TARGET, 4), data.words, peer)
    note = joined(
        f"an upper bound; {content_bytes / 2**20:.1f} MiB of content a chunk, so one lock lets "
        f"{content_bytes / line.value / 1e3:.1f} GB/s through; it is always taken at "
        f"{1 / (line.ratio or 1):.0f} cores",
        f"native us a chunk in the last round: {native}",
        busy,
    )
    yield Line(names[0], "us", tuple(python), round(TARGET, 4), data.words, peer, note)
