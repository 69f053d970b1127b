"""What Python costs a chunk, where only one thread at a time may run it.

Measured are a deployment, a capture and a reading back of real data: the CPU time of the process,
all threads, less that inside the native calls that release Python's lock (receive, digest, unpack,
write; read, compress, hash, send), each timed by its thread's own clock. What is left is an upper
bound of the time that the lock is held: it has the bytecode, requests and their answers, copies of
what was received, and also the clocks themselves, waiting for the lock, and page faults. What a
process does first is not counted.

The lock does not limit n cores while a chunk holds it for less than 1/n of its CPU time in all: the
target is 16 cores. Reading back has none: it does so little else that the disk is its limit. A
capture has also one thread through which all chunks pass in order; it limits n cores if it takes
more than 1/n of the CPU time of a chunk, with or without the lock.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any, Final

from tests.bench.line import Line, Peer, joined
from tests.bench.rounds import fresh_file, load_note, say
from tests.bench.setting import LEVEL, REPOSITORY, TAG, Setting, warm_template

CORES: Final = 16
TARGET: Final = 1 / CORES
DEPLOY: Final = "per_chunk_python_us"
CAPTURE: Final = "per_chunk_python_us_capture"
READ_BACK: Final = "per_chunk_python_us_read_back"


def per_chunk(setting: Setting, names: Sequence[str]) -> Iterator[Line]:
    """Yield the lines of `names`: microseconds of Python a chunk, beside those of the CPU."""
    for name in names:
        yield _line(setting, name, WAYS[name])


def _deploy(setting: Setting) -> dict[str, Any]:
    layout, _ = setting.template(setting.data)
    target = fresh_file(setting.work / "target.img", setting.data.size_bytes)
    answer = setting.child("python-share-deploy", setting.url_of(layout), TAG, target)[1]
    target.unlink()
    return answer


def _capture(setting: Setting) -> dict[str, Any]:
    with setting.registry() as url:
        words = (url, REPOSITORY, setting.data.image, LEVEL)
        return setting.child("python-share-capture", *words)[1]


def _read_back(setting: Setting) -> dict[str, Any]:
    """The image itself holds what the template says."""
    layout, _ = setting.template(setting.data)
    words = (setting.url_of(layout), TAG, setting.data.image)
    return setting.child("python-share-read-back", *words)[1]


WAYS: Final[Mapping[str, Callable[[Setting], dict[str, Any]]]] = {
    DEPLOY: _deploy,
    CAPTURE: _capture,
    READ_BACK: _read_back,
}


def _line(setting: Setting, name: str, way: Callable[[Setting], dict[str, Any]]) -> Line:
    busy = load_note()
    data = setting.data
    warm_template(setting.template(data)[0])
    answers: list[dict[str, Any]] = []
    for number in range(1, setting.rounds + 1):
        answers.append(way(setting))
        python, whole = (_each(answers[-1], what) for what in ("python_seconds", "all_seconds"))
        say(f"round {number}/{setting.rounds}: {python:.0f} of {whole:.0f} us a chunk")
    runs = tuple(_each(answer, "python_seconds") for answer in answers)
    peer = Peer(
        "CPU time of the same chunk in all",
        tuple(_each(answer, "all_seconds") for answer in answers),
    )
    content_bytes = answers[-1]["content_bytes"] / answers[-1]["chunks"]
    python, whole = median(runs), peer.value
    note = joined(
        f"an upper bound; {content_bytes / 2**20:.1f} MiB of content a chunk, so one lock lets "
        f"{content_bytes / python / 1e3:.1f} GB/s through; it is always taken at "
        f"{whole / python:.0f} cores",
        _placing_note(answers),
        f"native us a chunk in the last round: {_natives(answers[-1])}",
        busy,
    )
    target = None if name == READ_BACK else round(TARGET, 4)
    return Line(name, "us", runs, target, data.words, peer, note)


def _each(answer: Mapping[str, Any], what: str) -> float:
    """Return microseconds a chunk."""
    return float(answer[what]) / int(answer["chunks"]) * 1e6


def _natives(answer: Mapping[str, Any]) -> dict[str, int]:
    took = answer["native"].items()
    return {name: round(seconds / answer["chunks"] * 1e6) for name, seconds in took}


def _placing_note(answers: Sequence[Mapping[str, Any]]) -> str:
    """Say what the serial part of a capture takes, and so how many lanes it can serve."""
    if "placing_seconds" not in answers[-1]:
        return ""
    placing = median(_each(answer, "placing_seconds") for answer in answers)
    others = median(
        _each(answer, "all_seconds") - _each(answer, "placing_seconds") for answer in answers
    )
    sha256 = _natives(answers[-1])["sha256"]
    return (
        f"into our registry, zstd level {LEVEL}; the one thread that places chunks and hashes "
        f"packs takes {placing:.0f} us a chunk, {sha256} of them SHA-256 without the lock, all "
        f"others together {others:.0f}: it keeps up with {others / placing:.0f} cores of lanes"
    )
