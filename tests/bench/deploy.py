"""Deploy beside what people script today, and beside the disk's own limit."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from agent.units import MiB
from tests.bench.extents import digest_of, extents
from tests.bench.line import Line, Peer, joined
from tests.bench.rounds import BenchFailed, fresh_file, in_turns, load_note, say, timed_pipe
from tests.bench.setting import TAG, Data, Setting, warm, warm_template

TARGETS: Final = {
    "deploy_vs_partclone": 0.15,
    "deploy_vs_dd": 0.40,
    "deploy_vs_write_limit": 1.5,
}
WORDS: Final = {
    "deploy_vs_partclone": "curl | zstd -dc | partclone.restore -C -s - -O FILE",
    "deploy_vs_dd": "curl | zstd -dc | dd bs=4M oflag=direct iflag=fullblock",
    "deploy_vs_write_limit": "dd if=/dev/zero bs=4M oflag=direct conv=fsync, as many bytes",
}


def deploy(setting: Setting, names: Sequence[str]) -> Iterator[Line]:
    """Yield the lines of `names`, all contestants in one set of rounds, each on a fresh file."""
    data = setting.data
    busy = load_note()
    layout, template = setting.template(data)
    peers = setting.peers(data)
    used = extents(template.entries("root")[1])
    used_bytes = sum(run.size for run in used)
    target = setting.work / "target.img"
    warm_template(layout)
    warm(peers / "partclone.zst", peers / "raw.zst", data.image)
    expected = digest_of(data.image, used)
    checked: set[str] = set()

    def ours() -> float:
        fresh_file(target, data.size_bytes)
        return setting.child("restore", setting.url_of(layout), TAG, target)[0]

    def pipeline(line: str) -> float:
        fresh_file(target, data.size_bytes)
        return timed_pipe(line, setting.work / "pipeline.log")

    def proved(name: str, run: Callable[[], float]) -> float:
        """Run it; the first time, compare what it wrote with the image."""
        seconds = run()
        if name not in checked:
            if digest_of(target, used) != expected:
                raise BenchFailed(f"{name} did not restore the bytes of {data.image}")
            checked.add(name)
            say(f"  {name}: the used bytes are those of the image")
        return seconds

    contestants: dict[str, Callable[[], float]] = {"ours": partial(proved, "ours", ours)}
    for name, line in _pipelines(setting, data, peers, target, used_bytes).items():
        if name in names:
            run = partial(pipeline, line)
            proves = name != "deploy_vs_write_limit"
            contestants[name] = partial(proved, name, run) if proves else run
    runs = in_turns(contestants, setting.rounds)
    target.unlink()
    for name in names:
        words = f"{data.words}, {used_bytes / 1e9:.2f} GB used, to a fresh sparse file"
        peer = Peer(WORDS[name], runs[name])
        note = joined("from nginx, loopback; ours from exec to exit, fsync included", busy)
        yield Line(name, "s", runs["ours"], TARGETS[name], words, peer, note)


def _pipelines(
    setting: Setting, data: Data, peers: Path, target: Path, used_bytes: int
) -> dict[str, str]:
    partclone = setting.url_of(peers / "partclone.zst")
    raw = setting.url_of(peers / "raw.zst")
    count = -(-used_bytes // (4 * MiB))
    return {
        "deploy_vs_partclone": f"curl -sSf {partclone} | zstd -dc"
        f" | partclone.restore -C -L /dev/null -s - -O {target}",
        "deploy_vs_dd": f"curl -sSf {raw} | zstd -dc"
        f" | dd of={target} bs=4M oflag=direct iflag=fullblock conv=notrunc",
        "deploy_vs_write_limit": f"dd if=/dev/zero of={target} bs=4M count={count}"
        " oflag=direct conv=notrunc,fsync",
    }
