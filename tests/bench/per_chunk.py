"""What Python costs a chunk, where only one thread at a time may run it.

Two templates are used. 20,000 chunks of one page each: what is native about them (hashing,
unpacking and writing 4 KiB) takes a few microseconds, so the user time of a restore, divided by
its chunks, is an upper bound of what Python does for a chunk: index line, queue, slices, calls.
To that is added what a large chunk needs more: the user time of receiving 4 MiB of a pack, piece
by piece. Time in the kernel is not counted: system calls release Python's lock.

The target follows from a real deployment in the same run: its CPU time a chunk, divided by 16
cores, and by two, so that the lock is free half of the time when all of them are busy.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from agent.model.template import CHUNK_BYTES
from tests.bench.line import Line
from tests.bench.rounds import fresh_file, say
from tests.bench.setting import TAG, Setting, warm_template
from tests.bench.synthetic import PAGE, make_template

CHUNKS: Final = 20_000
CORES: Final = 16


def per_chunk(setting: Setting, names: Sequence[str]) -> Iterator[Line]:
    """Yield one line: microseconds of Python a chunk in a deployment; a smaller value is better."""
    folder, _ = make_template(setting.work / "pages", CHUNKS, lambda _: PAGE, per_pack=CHUNKS)
    layout, template = setting.template(setting.small)
    warm_template(layout)
    real = len(list(template.entries("root")[1]))
    target = setting.work / "target.img"
    small: list[float] = []
    drained: list[float] = []
    whole: list[float] = []
    for _ in range(setting.rounds):
        fresh_file(target, CHUNKS * CHUNK_BYTES)
        answer = setting.child("restore", setting.url_of(folder), TAG, target)[1]
        small.append(answer["user_seconds"] / CHUNKS * 1e6)
        answer = setting.child("drain", setting.url_of(layout), TAG)[1]
        drained.append(answer["user_seconds"] / (answer["bytes"] / CHUNK_BYTES) * 1e6)
        fresh_file(target, setting.small.size_bytes)
        answer = setting.child("restore", setting.url_of(layout), TAG, target)[1]
        whole.append(answer["cpu_seconds"] / real * 1e6)
        say(f"chunk {small[-1]:.0f} us, receiving {drained[-1]:.0f} us, all {whole[-1]:.0f} us")
    target.unlink()
    values = tuple(one + other for one, other in zip(small, drained, strict=True))
    busy = sorted(whole)[len(whole) // 2]
    middle = sorted(values)[len(values) // 2]
    note = (
        f"upper bound, user time: {min(small):.0f}-{max(small):.0f} us for a chunk of 4 KiB, and "
        f"{min(drained):.0f}-{max(drained):.0f} us to receive 4 MiB; one lock allows "
        f"{CHUNK_BYTES / middle / 1e3:.1f} GB/s of 4 MiB chunks; a chunk of {setting.small.name} "
        f"data takes {busy:.0f} us of CPU in all: target = that / {CORES} cores / 2"
    )
    words = f"{CHUNKS} chunks of 4 KiB; {setting.small.words}"
    yield Line(names[0], "us", values, round(busy / CORES / 2, 1), words, note=note)
