"""The same files on a small and on a huge disk: capture and deploy should cost the same."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from tests.bench.line import Line, Peer, joined
from tests.bench.rounds import fresh_file, in_turns, load_note, say
from tests.bench.setting import LEVEL, REPOSITORY, TAG, Data, Setting, warm_template

TARGET: Final = 1.25
"""For the same bytes. What the huge disk stores more is bytes in use, and may cost as much more."""

XFS: Final = "disk_size_flatness"
EXT4: Final = "disk_size_flatness_ext4"


def flatness(setting: Setting, names: Sequence[str]) -> Iterator[Line]:
    """Yield a line each: seconds of a capture and a deployment, the huge disk beside the small."""
    if XFS in names:
        yield _flatness(setting, XFS, "XFS", setting.small_xfs, setting.wide_xfs)
    if EXT4 in names:
        yield _flatness(setting, EXT4, "ext4", setting.small, setting.wide)


def _flatness(setting: Setting, name: str, kind: str, *contestants: Data) -> Line:
    busy = load_note()
    layouts = {data.name: setting.template(data)[0] for data in contestants}
    for layout in layouts.values():
        warm_template(layout)
    used: dict[str, int] = {}
    stored: dict[str, int] = {}
    parts: dict[str, list[str]] = {data.name: [] for data in contestants}

    def both(data: Data) -> float:
        with setting.registry() as url:
            captured, answer = setting.child("capture", url, REPOSITORY, data.image, TAG, LEVEL)
        used[data.name], stored[data.name] = answer["used_bytes"], answer["stored_bytes"]
        target = fresh_file(setting.work / "target.img", data.size_bytes)
        url = setting.url_of(layouts[data.name])
        deployed, _ = setting.child("restore", url, TAG, target)
        target.unlink()
        parts[data.name].append(f"{captured:.1f}+{deployed:.1f}")
        say(f"  {data.name}: capture {captured:.2f} s, deploy {deployed:.2f} s")
        return captured + deployed

    runs = in_turns({data.name: partial(both, data) for data in contestants}, setting.rounds)
    small, wide = (data.name for data in contestants)
    more = stored[wide] / stored[small]
    target = round(TARGET * max(1.0, more), 3)
    note = joined(
        f"target: {TARGET} for the same bytes, {more:.3f} times as many are stored; in use are "
        f"{used[wide] / 1e9:.2f} GB of the huge disk and {used[small] / 1e9:.2f} of the small one; "
        f"capture+deploy: {', '.join(parts[wide])} s beside {', '.join(parts[small])} s",
        busy,
    )
    peer = Peer("the same on 4 GiB", runs[small])
    words = f"{setting.subset}, {kind} of just below 16 TiB (sparse) beside one of 4 GiB"
    return Line(name, "s", runs[wide], target, words, peer, note)
