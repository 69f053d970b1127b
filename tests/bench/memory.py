"""Peak memory of capture and deploy: the whole process, the interpreter included."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from agent.model.template import CHUNK_BYTES, MANIFEST_MAX_BYTES
from agent.units import MiB, TiB
from tests.bench.line import Line
from tests.bench.rounds import BenchFailed, fresh_file, in_turns, say
from tests.bench.setting import REPOSITORY, TAG, Data, Setting, warm
from tests.bench.synthetic import scattered_source
from tests.contracts.registries import netboot

TARGET_MIB: Final = 160.0
NAMES: Final = tuple(
    f"peak_memory_{mode}_{size}" for size in ("1g", "6g", "2t") for mode in ("capture", "deploy")
)
CHUNKS_OF_2T: Final = 2 * TiB // CHUNK_BYTES
_PACK_BYTES: Final = 2560
"""Closes a pack after some 64 of the synthetic chunks: 8192 packs, as many as 2 TiB ever have."""
_REAL: Final = "VmHWM of the process, the highest of the runs"


def peak_memory(setting: Setting, names: Sequence[str]) -> Iterator[Line]:
    """Yield the lines of `names`."""
    if mine := [name for name in names if name.endswith("1g")]:
        yield from _of_real_data(setting, setting.small, mine)
    if mine := [name for name in names if name.endswith("6g")]:
        yield from _of_real_data(setting, setting.system, mine)
    if mine := [name for name in names if name.endswith("2t")]:
        yield from _of_two_tebibytes(setting, mine)


def _of_real_data(setting: Setting, data: Data, names: Sequence[str]) -> Iterator[Line]:
    target = setting.work / "target.img"

    def capture() -> float:
        with _registry(setting) as url:
            answer = setting.child("capture", url, REPOSITORY, data.image, TAG)[1]
        return _peak_mib(answer)

    def deploy() -> float:
        layout, _ = setting.template(data)
        fresh_file(target, data.size_bytes)
        answer = setting.child("restore", setting.url_of(layout), TAG, target)[1]
        target.unlink()
        return _peak_mib(answer)

    ways = {"capture": capture, "deploy": deploy}
    warm(data.image)
    contestants: dict[str, Callable[[], float]] = {name: ways[_mode(name)] for name in names}
    for name, peaks in in_turns(contestants, setting.rounds).items():
        yield Line(name, "MiB", peaks, TARGET_MIB, data.words, note=_REAL, is_worst_case=True)


def _of_two_tebibytes(setting: Setting, names: Sequence[str]) -> Iterator[Line]:
    """Capture and deploy as many chunks as 2 TiB have, each with 8 KiB instead of 4 MiB."""
    source, runs = setting.work / "source.img", setting.work / "runs"
    target = setting.work / "target.img"
    say("making a source of 2 TiB")
    scattered_source(source, runs, CHUNKS_OF_2T, extents=2)
    answers: dict[str, dict[str, Any]] = {}
    with _registry(setting) as url:
        seconds, captured = setting.child(
            "capture-extents", url, REPOSITORY, source, runs, str(_PACK_BYTES)
        )
        if captured["manifest_bytes"] > MANIFEST_MAX_BYTES:
            raise BenchFailed(f"a manifest of {captured['manifest_bytes']} bytes")
        answers["capture"] = {**captured, "seconds": seconds}
        source.unlink()
        if any(_mode(name) == "deploy" for name in names):
            fresh_file(target, 2 * TiB)
            place = f"{url}/v2/{REPOSITORY}"
            seconds, restored = setting.child("restore", place, TAG, target)
            answers["deploy"] = {**restored, "seconds": seconds}
            target.unlink()
    for name in names:
        answer = answers[_mode(name)]
        words = f"synthetic: a sparse file of 2 TiB, {CHUNKS_OF_2T} chunks of two blocks of 4 KiB"
        note = (
            f"VmHWM of one run, {answer['seconds']:.0f} s; real: extents, index, "
            f"{captured['layers'] - 1} packs, a manifest of {captured['manifest_bytes']} bytes; "
            "not real: a chunk has 8 KiB where a full one has 4 MiB, so what lanes and queues "
            "hold of full chunks shows in the lines of 1g and 6g only"
        )
        peak = (_peak_mib(answer),)
        yield Line(name, "MiB", peak, TARGET_MIB, words, note=note, is_worst_case=True)


@contextmanager
def _registry(setting: Setting) -> Iterator[str]:
    """Serve a registry that has nothing yet; forget what it got."""
    store = Path(setting.work / "store")
    store.mkdir()
    try:
        with netboot(store) as url:
            yield url
    finally:
        shutil.rmtree(store)


def _mode(name: str) -> str:
    return name.split("_")[2]


def _peak_mib(answer: dict[str, Any]) -> float:
    return float(answer["peak_bytes"]) / MiB
