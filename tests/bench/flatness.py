"""The same files on a small and on a huge disk: what the size of the disk costs."""

import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

from tests.bench.line import Line, Peer, joined
from tests.bench.rounds import fresh_file, in_turns, load_note
from tests.bench.setting import REPOSITORY, TAG, Data, Setting, warm
from tests.contracts.registries import netboot

TARGET: Final = 1.25


def flatness(setting: Setting, names: Sequence[str]) -> Iterator[Line]:
    """Yield the time of capture and deploy of 1 GiB on 16 TiB over that on 4 GiB."""
    busy = load_note()
    warm(setting.small.image)
    last: dict[str, dict[str, Any]] = {}

    def both(data: Data) -> float:
        store, target = setting.work / "store", setting.work / "target.img"
        store.mkdir()
        fresh_file(target, data.size_bytes)
        with netboot(store) as url:
            first, captured = setting.child("capture", url, REPOSITORY, data.image, TAG)
            second, _ = setting.child("restore", f"{url}/v2/{REPOSITORY}", TAG, target)
        last[data.name] = {**captured, "capture": first, "deploy": second}
        target.unlink()
        shutil.rmtree(store)
        return first + second

    wide, small = partial(both, setting.wide), partial(both, setting.small)
    runs = in_turns({"wide": wide, "small": small}, setting.rounds)
    for name in names:
        note = joined(*(_words(data, answer) for data, answer in last.items()), busy)
        words = f"{setting.wide.words}, against {setting.small.words}"
        peer = Peer("ours on 4 GiB", runs["small"])
        yield Line(name, "s", runs["wide"], TARGET, words, peer, note)


def _words(data: str, answer: dict[str, Any]) -> str:
    return (
        f"{data}: {answer['used_bytes'] / 1e9:.2f} GB in use with the filesystem's own tables, "
        f"capture {answer['capture']:.1f} s (map {answer['map_seconds']:.1f} s), "
        f"deploy {answer['deploy']:.1f} s in the last round"
    )
