"""How hard to compress: as hard as the processors can while everything waits for the upload."""

from typing import Final

from zstandard import ZstdCompressionParameters

from agent.model.template import CHUNK_BYTES
from agent.units import MiB

LEAST: Final = 3
"""Below it a template is larger than `zstd -3` of the same data, and larger means slower later."""
_MOST: Final = 12
_ROOM: Final = 6
"""A level that follows the upload can rise to this at least, by fewer lanes if need be."""
_WINDOW_S: Final = 1.0
_CLEARLY: Final = 0.5
_LANE_BYTES: Final = 2 * CHUNK_BYTES
"""A lane holds a chunk and what was made of it, beside zstd's own memory."""
_WORKING_MEMORY: Final = 80 * MiB
"""What all lanes may take together."""


class Levels:
    """The zstd level for the next chunk: one that was asked for, or one that keeps the balance.

    `waited` is told how long the capture stood still for the upload, and how long for its lanes.
    Mostly for the upload: one level up. Mostly for the lanes: one down, never below LEAST.
    """

    def __init__(self, asked: int | None, lanes: int) -> None:
        self._is_fixed = asked is not None
        self.level = LEAST if asked is None else asked
        able = (level for level in range(LEAST, _MOST + 1) if lanes <= most_lanes(level))
        self._most = max(able, default=LEAST)
        self._for_upload = self._for_lanes = 0.0
        self._since: float | None = None

    def waited(self, now: float, *, for_upload: float = 0.0, for_lanes: float = 0.0) -> None:
        """Take note of seconds waited, at `now` of a monotonic clock."""
        if self._since is None:
            self._since = now
            return
        self._for_upload += for_upload
        self._for_lanes += for_lanes
        spent = now - self._since
        if self._is_fixed or spent < _WINDOW_S:
            return
        if self._for_upload > _CLEARLY * spent:
            self.level = min(self.level + 1, self._most)
        elif self._for_lanes > _CLEARLY * spent:
            self.level = max(self.level - 1, LEAST)
        self._for_upload = self._for_lanes = 0.0
        self._since = now


def most_lanes(level: int | None) -> int:
    """Return how many lanes may compress at `level` (None: one that follows the upload), so that
    a capture stays within its memory."""
    return max(1, _WORKING_MEMORY // (_LANE_BYTES + _memory(level or _ROOM)))


def _memory(level: int) -> int:
    """Return what zstd itself needs for one thread that compresses chunks at `level`."""
    parameters = ZstdCompressionParameters.from_level(level, source_size=CHUNK_BYTES)
    return int(parameters.estimated_compression_context_size())
