"""A second deployment onto a disk that has nearly all of it: what is fetched, and how long."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from agent.model.template import PACK_TYPE
from agent.store.template import Template
from tests.bench.extents import change, digest_of, draw, extents, seconds_to_read
from tests.bench.line import Line, Peer, floats, joined
from tests.bench.rounds import BenchFailed, fresh_file, in_turns, load_note
from tests.bench.setting import TAG, Setting, warm_template

PERCENTS: Final = (1, 5, 20)
TARGETS: Final = {
    **{f"redeploy_bytes_{percent}pct": 1.1 for percent in PERCENTS},
    **{f"redeploy_time_{percent}pct": 1.2 for percent in PERCENTS},
}


def redeploy(setting: Setting, names: Sequence[str]) -> Iterator[Line]:
    """Yield the lines of `names`. Before each run one page in so many chunks is changed."""
    data = setting.data
    busy = load_note()
    layout, template = setting.template(data)
    entries = list(template.entries("root")[1])
    used = extents(entries)
    target = setting.work / "target.img"
    warm_template(layout)
    fresh_file(target, data.size_bytes)
    url = setting.url_of(layout, counted=True)
    beside = _bytes_beside_packs(layout, template)
    setting.child("restore", url, TAG, target)
    expected = digest_of(data.image, used)
    percents = [one for one in PERCENTS if any(f"_{one}pct" in name for name in names)]
    answers: dict[int, list[dict[str, Any]]] = {percent: [] for percent in percents}
    seed = 0

    def ours(percent: int) -> float:
        nonlocal seed
        seed += 1
        change(target, draw(entries, percent), seed)
        before = setting.server.counted_bytes()
        seconds, answer = setting.child("restore", url, TAG, target)
        answer["bytes_sent"] = setting.server.counted_bytes() - before
        check_count(answer["bytes_sent"], answer["bytes_fetched"], beside)
        answers[percent].append(answer)
        if len(answers[percent]) == 1 and digest_of(target, used) != expected:
            raise BenchFailed(f"after {percent} % were changed the target is not the image again")
        return seconds

    contestants: dict[str, Callable[[], float]] = {
        f"redeploy_{percent}pct": partial(ours, percent) for percent in percents
    }
    contestants["read"] = lambda: seconds_to_read(target, used)
    runs = in_turns(contestants, setting.rounds)
    target.unlink()
    used_bytes = sum(run.size for run in used)
    for name in names:
        percent = next(one for one in percents if f"_{one}pct" in name)
        changed = draw(entries, percent)
        words = f"{data.words}; {len(changed)} of {len(entries)} chunks changed on the target"
        if name.startswith("redeploy_bytes"):
            stored = float(sum(entry.stored_bytes for entry in changed))
            sent = floats([answer["bytes_sent"] for answer in answers[percent]])
            fetched = sorted({answer["bytes_fetched"] for answer in answers[percent]})
            peer = Peer("stored bytes of the changed chunks", (stored,))
            note = (
                "bodies sent by nginx, by its log; ours says "
                f"{' or '.join(map(str, fetched))} B of chunks; index, manifest and the like "
                f"have {beside} B"
            )
            yield Line(name, "B", sent, TARGETS[name], words, peer, note)
            continue
        peer = Peer("read the used bytes once: one thread, O_DIRECT, 4 MiB", runs["read"])
        note = joined(f"{used_bytes / 1e9:.2f} GB used; what is changed is also written", busy)
        found = runs[f"redeploy_{percent}pct"]
        yield Line(name, "s", found, TARGETS[name], words, peer, note)


def _bytes_beside_packs(layout: Path, template: Template) -> int:
    """Return what a deployment fetches of a template beside chunks."""
    packs = sum(one.size for one in template.manifest.layers if one.media_type == PACK_TYPE)
    every = (path.stat().st_size for path in layout.rglob("*") if path.is_file())
    return sum(every) - packs


def check_count(sent: int, fetched: int, beside: int) -> None:
    """Raise BenchFailed unless what nginx sent is what ours says that it fetched."""
    if not 0 <= sent - fetched <= beside:
        raise BenchFailed(
            f"nginx sent {sent} bytes, ours counts {fetched} of chunks, and there are no more "
            f"than {beside} beside them"
        )
