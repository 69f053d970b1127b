"""A capture with a parent, of a disk of which few chunks have changed: what is sent."""

import random
import subprocess
from collections.abc import Iterator, Sequence
from typing import Final

from agent.model.template import IndexEntry
from agent.store.registry import RegistryClient
from agent.store.template import open_template
from tests.bench.extents import change, draw
from tests.bench.line import Line, Peer, floats
from tests.bench.rounds import BenchFailed, say
from tests.bench.setting import LEVEL, REPOSITORY, TAG, Setting

PERCENT: Final = 5
TARGETS: Final = {f"incremental_bytes_{PERCENT}pct": 1.1}


def incremental(setting: Setting, names: Sequence[str]) -> Iterator[Line]:
    """Yield one line: bytes uploaded, index and all, beside the stored bytes of what changed.

    Each run changes other content in a copy of the image, always in the same chunks: file
    contents only, so that the filesystem stays what it was.
    """
    data = setting.small if setting.is_quick else setting.data
    image = setting.work / "changed.img"
    subprocess.run(["cp", "--sparse=always", data.image, image], check=True)
    uploaded: list[int] = []
    stored: list[int] = []
    with setting.registry() as url:
        setting.child("capture", url, REPOSITORY, data.image, TAG, LEVEL)
        client = RegistryClient(url, REPOSITORY)
        before = stored_chunks(client, TAG)
        changed = draw([entry for entry in before if _is_data(entry.extents)], PERCENT)
        for run in range(setting.rounds):
            change(image, changed, seed=random.Random(run).randrange(2**32))
            words = (url, REPOSITORY, image, f"run-{run}", LEVEL, TAG)
            _, answer = setting.child("capture", *words)
            after = {entry.number: entry for entry in stored_chunks(client, f"run-{run}")}
            differ = [
                after[entry.number]
                for entry in before
                if after[entry.number].content_digest != entry.content_digest
            ]
            if {entry.number for entry in differ} != {entry.number for entry in changed}:
                raise BenchFailed("other chunks differ than those that were changed")
            uploaded.append(answer["uploaded_bytes"])
            stored.append(sum(entry.stored_bytes for entry in differ))
            say(f"run {run + 1}/{setting.rounds}: {uploaded[-1]} bytes, {stored[-1]} stored")
        client.close()
    image.unlink()
    what = f"{data.words}; {len(changed)} of {len(before)} chunks changed on the source"
    peer = Peer("stored bytes of the changed chunks", floats(stored))
    note = f"packs and index, zstd level {LEVEL}; the parent is in the same repository"
    yield Line(names[0], "B", floats(uploaded), TARGETS[names[0]], what, peer, note)


def stored_chunks(client: RegistryClient, tag: str) -> list[IndexEntry]:
    return [one for one in open_template(client, tag).entries("root")[1] if one.pack >= 0]


def _is_data(extents: Sequence[tuple[int, int]]) -> bool:
    """Return whether a chunk begins with file content, as far as its long first run tells."""
    return extents[0][1] >= 1024 * 1024
