"""What a disk holds already need not be fetched: whether it pays to look, and the look itself."""

import threading
from collections.abc import Sequence
from typing import Final

from agent.model.template import IndexEntry
from agent.store.digests import ChunkDigest
from agent.stream.blocks import ChunkReader, DiskFile
from agent.stream.fetch import extents_of
from agent.stream.progress import Stages

_FIRST: Final = 16
"""So many chunks are looked at on any disk: 64 MiB of reading decide about the rest."""
_MEMORY: Final = 64
_WORTH: Final = 1 / 8
"""A look costs a read and a hash: below this share of hits it does not pay."""
_NOW_AND_THEN: Final = 64


class Odds:
    """How often looking has paid lately. Shared by the lanes of one volume.

    A blank or foreign disk is left alone after the first few chunks; one of every 64 is still
    looked at, in case the template begins to match further on.
    """

    def __init__(self) -> None:
        self.unreadable = 0
        """Chunks that could not be read: they are written anew, which may mend the disk."""
        self._lock = threading.Lock()
        self._share = 1.0
        self._looked = 0
        self._passed = 0

    def worth(self) -> bool:
        """Return whether to look at the next chunk."""
        with self._lock:
            if self._looked < _FIRST or self._share >= _WORTH:
                return True
            self._passed += 1
            return self._passed % _NOW_AND_THEN == 0

    def saw(self, *, same: bool, readable: bool = True) -> None:
        with self._lock:
            self.unreadable += not readable
            self._looked += 1
            weight = 1 / min(self._looked, _FIRST if same else _MEMORY)
            self._share += (float(same) - self._share) * weight


class Look:
    """Compares chunks on the disk with the index. For one thread.

    What it finds equal was read from the medium, and has the digest that the template gives. What
    cannot be read is not held: a disk finds another place for a bad sector when it is written.
    """

    def __init__(
        self,
        disk: DiskFile,
        base: int,
        buffer: memoryview,
        digest: ChunkDigest,
        odds: Odds,
        stages: Stages,
    ) -> None:
        """`base` is where the volume begins on `disk`; `buffer`: an aligned one of CHUNK_BYTES."""
        self._reader = ChunkReader(disk, base, disk.read_once, buffer)
        self._digest = digest
        self._odds = odds
        self._stages = stages

    def missing(self, entries: Sequence[IndexEntry]) -> tuple[IndexEntry, ...]:
        """Return those of `entries` that the disk does not hold, as far as it pays to look."""
        return tuple(entry for entry in entries if not (self._odds.worth() and self._holds(entry)))

    def _holds(self, entry: IndexEntry) -> bool:
        try:
            with self._stages.timed("read"):
                content = self._reader.read(extents_of(entry))
        except OSError:
            self._odds.saw(same=False, readable=False)
            return False
        with self._stages.timed("hash"):
            same = self._digest(content) == entry.content_digest
        self._odds.saw(same=same)
        return same
