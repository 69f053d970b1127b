"""Capture beside partclone and zstd: its time, what it takes in the store, what a change costs."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tests.bench.line import Line, Peer, joined
from tests.bench.rounds import in_turns, load_note, timed_pipe
from tests.bench.setting import LEVEL, REPOSITORY, TAG, Setting, partclone_capture, warm

TARGETS: Final = {"capture_vs_partclone": 0.50, "capture_size_vs_partclone": 1.00}
PUSHED: Final = "capture_to_registry_vs_partclone"
"""No target: the same two cores then are the server's, too, which checks, writes and syncs."""
WORDS: Final = "partclone.extfs -c | zstd -3 -T2 > FILE"
_LEVELS: Final = f"both at zstd level {LEVEL}, which ours would raise where the upload is slow"


def capture(setting: Setting, names: Sequence[str]) -> Iterator[Line]:
    """Yield the lines of `names`. Each run of ours goes to a place that has nothing yet."""
    data = setting.data
    busy = load_note()
    warm(data.image)
    file = setting.work / "partclone.zst"
    sizes: dict[str, list[float]] = {"ours": [], "peer": []}
    answers: list[dict[str, Any]] = []

    def ours() -> float:
        store = Path(tempfile.mkdtemp(prefix="store-", dir=setting.work))
        seconds, answer = setting.child("capture", store, REPOSITORY, data.image, TAG, LEVEL)
        shutil.rmtree(store)
        answers.append(answer)
        sizes["ours"].append(answer["stored_bytes"])
        return seconds

    def pushed() -> float:
        with setting.registry() as url:
            return setting.child("capture", url, REPOSITORY, data.image, TAG, LEVEL)[0]

    def peer() -> float:
        file.unlink(missing_ok=True)
        seconds = timed_pipe(partclone_capture(data.image, file), setting.work / "pipeline.log")
        sizes["peer"].append(file.stat().st_size)
        return seconds

    contestants = {"ours": ours, "peer": peer}
    if PUSHED in names:
        contestants["pushed"] = pushed
    runs = in_turns(contestants, setting.rounds)
    file.unlink()
    words = f"{data.words}, {answers[-1]['used_bytes'] / 1e9:.2f} GB used"
    if "capture_vs_partclone" in names:
        target = TARGETS["capture_vs_partclone"]
        note = joined(f"ours to a folder, synced; partclone to a file; {_LEVELS}", busy)
        found = Peer(WORDS, runs["peer"])
        yield Line("capture_vs_partclone", "s", runs["ours"], target, words, found, note)
    if PUSHED in names:
        found = Peer(WORDS, runs["peer"])
        where = "ours to our registry, loopback, which checks and syncs"
        note = joined(f"{where}; {_LEVELS}", busy)
        yield Line(PUSHED, "s", runs["pushed"], None, words, found, note)
    if "capture_size_vs_partclone" in names:
        yield Line(
            "capture_size_vs_partclone",
            "B",
            tuple(sizes["ours"]),
            TARGETS["capture_size_vs_partclone"],
            words,
            Peer(WORDS, tuple(sizes["peer"])),
            f"index and packs; {_LEVELS}",
        )
