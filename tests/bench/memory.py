"""Peak memory of a whole process of ours: of real data, and of a disk with 2 TiB in use.

The value is the largest of the runs, three whatever the rounds are: it hardly differs, and those of
2 TiB take minutes. Captures have the level that the product gives them.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from agent.model.template import CHUNK_BYTES, INDEX_TYPE, Manifest
from agent.model.wire import decode
from agent.units import KiB, MiB, TiB
from tests.bench.contents import DIGITS
from tests.bench.line import Line, joined
from tests.bench.rounds import LEAST_ROUNDS, fresh_file, in_turns, say
from tests.bench.setting import ADAPTIVE, REPOSITORY, TAG, Data, Setting
from tests.bench.synthetic import PAGE, make_source, make_template

SIZES: Final = ("1g", "6g", "2t")
TARGET_MIB: Final = 160.0
TARGETS: Final = {
    f"peak_memory_{way}_{size}": TARGET_MIB for size in SIZES for way in ("capture", "deploy")
}
_CHUNKS: Final = 2 * TiB // CHUNK_BYTES
_WHOLE_EVERY: Final = 8192
"""One chunk of so many is 4 MiB of random bytes, so that buffers are as full as they can be."""

Answer = Mapping[str, Any]


@dataclass
class _Case:
    """One line: what is run, of what data; `note` says what is to say of the answers."""

    run: Callable[[], Answer]
    data: str
    note: Callable[[Sequence[Answer]], str] = lambda _: ""
    answers: list[Answer] = field(default_factory=list)

    def peak_mib(self) -> float:
        answer = self.run()
        self.answers.append(answer)
        return float(answer["peak_bytes"]) / MiB


def memory(setting: Setting, names: Sequence[str]) -> Iterator[Line]:
    """Yield the lines of `names`, all measured in one set of rounds."""
    with ExitStack() as stack:
        cases = {name: _case(setting, name, stack) for name in names}
        runs = in_turns({name: case.peak_mib for name, case in cases.items()}, LEAST_ROUNDS)
    for name, case in cases.items():
        most = f"the largest of {LEAST_ROUNDS} runs; VmHWM of the process, interpreter included"
        note = joined(most, case.note(case.answers))
        yield Line(name, "MiB", runs[name], TARGETS[name], case.data, note=note, is_worst_case=True)


def _case(setting: Setting, name: str, stack: ExitStack) -> _Case:
    _, _, mode, size = name.split("_")
    if size == "2t":
        folder = setting.work / f"2t-{mode}"
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return (_capture_2t if mode == "capture" else _deploy_2t)(setting, folder)
    data = setting.small if size == "1g" else setting.system
    if mode == "capture":
        return _Case(partial(_capture, setting, data), data.words, _children_note)
    layout, _ = setting.template(data)
    return _Case(partial(_deploy, setting, layout, data.size_bytes), data.words)


def _capture(setting: Setting, data: Data) -> Answer:
    with setting.registry() as url:
        words = (url, REPOSITORY, data.image, TAG, ADAPTIVE)
        return setting.child("capture-with-children", *words)[1]


def _children_note(answers: Sequence[Answer]) -> str:
    """Say what the programs took that the capture ran beside itself, the map's among them."""
    names = sorted({name for answer in answers for name in answer["children"]})
    peaks = {
        name: max(answer["children"].get(name, 0) for answer in answers) / MiB for name in names
    }
    shown = ", ".join(f"{name} {peak:.1f} MiB" for name, peak in peaks.items())
    return f"zstd level as the upload allows; beside it ran {shown or 'nothing that was seen'}"


def _deploy(setting: Setting, layout: Path, size_bytes: int) -> Answer:
    target = fresh_file(setting.work / "target.img", size_bytes)
    answer = setting.child("restore", setting.url_of(layout), TAG, target)[1]
    target.unlink()
    return answer


def _filled(number: int) -> int:
    if number % _WHOLE_EVERY == 0:
        return CHUNK_BYTES
    return PAGE if number % 8 == 0 else 0


def _capture_2t(setting: Setting, folder: Path) -> _Case:
    say("making a sparse disk of 2 TiB")
    folder.mkdir()
    disk, runs = folder / "disk.img", folder / "runs"
    digest = make_source(disk, _CHUNKS, _filled, runs)

    def run() -> Answer:
        with setting.registry() as url:
            words = (url, REPOSITORY, disk, runs, str(32 * KiB))
            return setting.child("capture-extents", *words)[1]

    def note(answers: Sequence[Answer]) -> str:
        last = answers[-1]
        return (
            "zstd level as the upload allows; synthetic: the map is a list with two pages of each "
            "chunk, and no program looks beside it; of one chunk in 8 the first page is random, "
            f"one in {_WHOLE_EVERY} is random as a whole, the rest is holes; packs end at 32 KiB, "
            f"so that there are as many as of 2 TiB: {last['layers']} layers, manifest "
            f"{last['manifest_bytes']} bytes"
        )

    return _Case(run, f"sparse file of 2 TiB, {_CHUNKS} chunks in use (sha256 {digest})", note)


def _deploy_2t(setting: Setting, folder: Path) -> _Case:
    say("making a template of 2 TiB")
    data = make_template(folder, _CHUNKS, lambda number: _filled(number * 2), per_pack=16)
    layers = decode(data, Manifest, "manifest").layers
    (index,) = (one.size for one in layers if one.media_type == INDEX_TYPE)
    note = (
        "synthetic: one chunk in 4 is a page of random bytes, one in 4096 is random as a whole, "
        f"the rest is zeros; manifest {len(data)} bytes, index {index} bytes"
    )
    digest = sha256(data).hexdigest()[:DIGITS]
    words = f"template of 2 TiB, {_CHUNKS} chunks (sha256 of its manifest {digest})"
    return _Case(partial(_deploy, setting, folder, 2 * TiB), words, lambda _: note)
