"""One line of the bench: what was measured, beside its peer or its bound, and whether it is met."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom we are compared with: its command line in short, and what it took in each run."""

    words: str
    runs: tuple[float, ...]

    @property
    def value(self) -> float:
        return median(self.runs)


@dataclass(frozen=True, slots=True)
class Line:
    """A figure: the median of `runs`, or the worst. `target` bounds its ratio to the peer.

    Without a peer, it bounds the value; None bounds nothing.
    """

    name: str
    unit: str
    runs: tuple[float, ...]
    target: float | None
    data: str
    peer: Peer | None = None
    note: str = ""
    is_worst_case: bool = False
    """The value is the highest of the runs, not their median."""

    @property
    def value(self) -> float:
        return max(self.runs) if self.is_worst_case else median(self.runs)

    @property
    def ratio(self) -> float | None:
        return self.value / self.peer.value if self.peer else None

    @property
    def is_met(self) -> bool | None:
        if self.target is None:
            return None
        return (self.value if self.ratio is None else self.ratio) <= self.target

    def as_json(self) -> str:
        line: dict[str, object] = {
            "name": self.name,
            "value": _short(self.value),
            "unit": self.unit,
            "target": self.target,
            "met": self.is_met,
            "runs": [_short(run) for run in self.runs],
            "data": self.data,
        }
        if self.peer is not None and self.ratio is not None:
            line |= {
                "peer": self.peer.words,
                "peer_value": _short(self.peer.value),
                "peer_runs": [_short(run) for run in self.peer.runs],
                "ratio": round(self.ratio, 4),
            }
        if self.note:
            line["note"] = self.note
        return json.dumps(line)


def joined(*notes: str) -> str:
    """Return the notes that are not empty, as one."""
    return "; ".join(note for note in notes if note)


def floats(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _short(value: float) -> float | int:
    return int(value) if value == int(value) else round(value, 3)
