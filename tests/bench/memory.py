"""Peak memory of a whole process of ours: of real data, and of a disk with 2 TiB in use."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from agent.model.template import CHUNK_BYTES, INDEX_TYPE, Descriptor
from agent.store.layout import LayoutFolder
from agent.store.template import open_template
from agent.units import KiB, MiB, TiB
from tests.bench.line import Line
from tests.bench.rounds import fresh_file, say
from tests.bench.setting import REPOSITORY, TAG, Data, Setting
from tests.bench.synthetic import PAGE, make_source, make_template
from tests.contracts.registries import netboot

SIZES: Final = ("1g", "6g", "2t")
TARGET_MIB: Final = 160.0
_CHUNKS: Final = 2 * TiB // CHUNK_BYTES
_WHOLE_EVERY: Final = 8192
"""One chunk of so many is 4 MiB of random bytes, so that buffers are as full as they can be."""


def memory(setting: Setting, names: Sequence[str]) -> Iterator[Line]:
    """Yield the lines of `names`; the value is the worst of the runs."""
    for name in names:
        _, _, mode, size = name.split("_")
        data = {"1g": setting.small, "6g": setting.system}.get(size)
        if data is None:
            yield (_capture_2t if mode == "capture" else _deploy_2t)(setting, name)
            continue
        run = _capture if mode == "capture" else _deploy
        rounds = 1 if setting.is_quick else setting.rounds
        yield _line(name, [run(setting, data) for _ in range(rounds)], data.words, "")


def _line(name: str, answers: Sequence[dict[str, Any]], data: str, note: str) -> Line:
    peaks = tuple(answer["peak_bytes"] / MiB for answer in answers)
    note = note or "VmHWM of the process, interpreter included"
    return Line(name, "MiB", peaks, TARGET_MIB, data, note=note, is_worst_case=True)


def _capture(setting: Setting, data: Data) -> dict[str, Any]:
    return _into_store(
        setting, lambda url: setting.child("capture", url, REPOSITORY, data.image, TAG)
    )


def _into_store(
    setting: Setting, run: Callable[[str], tuple[float, dict[str, Any]]]
) -> dict[str, Any]:
    store = Path(tempfile.mkdtemp(prefix="store-", dir=setting.work))
    try:
        with netboot(store) as url:
            return run(url)[1]
    finally:
        shutil.rmtree(store)


def _deploy(setting: Setting, data: Data) -> dict[str, Any]:
    layout, _ = setting.template(data)
    target = fresh_file(setting.work / "target.img", data.size_bytes)
    answer = setting.child("restore", setting.url_of(layout), TAG, target)[1]
    target.unlink()
    return answer


def _filled(number: int) -> int:
    if number % _WHOLE_EVERY == 0:
        return CHUNK_BYTES
    return PAGE if number % 8 == 0 else 0


def _capture_2t(setting: Setting, name: str) -> Line:
    disk, runs = setting.work / "2t.img", setting.work / "2t.runs"
    say("making a sparse disk of 2 TiB")
    make_source(disk, _CHUNKS, _filled, runs)
    pack = str(32 * KiB)
    answer = _into_store(
        setting, lambda url: setting.child("capture-extents", url, REPOSITORY, disk, runs, pack)
    )
    disk.unlink()
    runs.unlink()
    note = (
        "synthetic: the map is a list with two pages of each chunk; of one chunk in 8 the first "
        f"page is random, one in {_WHOLE_EVERY} is random as a whole, the rest is holes; packs "
        f"end at 32 KiB, so that there are as many as of 2 TiB: {answer['layers']} layers, "
        f"manifest {answer['manifest_bytes']} bytes; one run"
    )
    return _line(name, [answer], f"sparse file of 2 TiB, {_CHUNKS} chunks in use", note)


def _layers(folder: Path) -> Sequence[Descriptor]:
    return open_template(LayoutFolder(folder), TAG).manifest.layers


def _deploy_2t(setting: Setting, name: str) -> Line:
    say("making a template of 2 TiB")

    def stored(number: int) -> int:
        return _filled(number * 2)

    folder, manifest_bytes = make_template(setting.work / "2t", _CHUNKS, stored, per_pack=16)
    (index,) = (one.size for one in _layers(folder) if one.media_type == INDEX_TYPE)
    target = fresh_file(setting.work / "target.img", 2 * TiB)
    answer = setting.child("restore", setting.url_of(folder), TAG, target)[1]
    target.unlink()
    shutil.rmtree(folder)
    note = (
        "synthetic: one chunk in 4 is a page of random bytes, one in 4096 is random as a whole, "
        f"the rest is zeros; manifest {manifest_bytes} bytes, index {index} bytes; one run"
    )
    return _line(name, [answer], f"template of 2 TiB, {_CHUNKS} chunks", note)
