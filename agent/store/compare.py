"""What changed between two templates: the system, the layout, and the data by content digest."""

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import msgspec

from agent.model.nodes import Bytes
from agent.model.template import Digest, IndexEntry, TemplateConfig
from agent.model.wire import Value
from agent.store.template import Template


class Change(Value, frozen=True, kw_only=True):
    """A fact that differs. `before` or `after` is None where there is no such thing."""

    what: str
    before: Any
    after: Any


class Count(Value, frozen=True, kw_only=True):
    chunks: int = 0
    bytes: Bytes = 0
    """Of content, before compression."""


class Chunks(Value, frozen=True, kw_only=True):
    """How much of a volume's data is alike, by content."""

    same: Count = Count()
    changed: Count = Count()
    """In both, with other content; the bytes are those of the second."""
    added: Count = Count()
    removed: Count = Count()


class VolumeDifference(Value, frozen=True, kw_only=True):
    volume: str
    state: str
    """`same`, `changed`, `added` or `removed`."""
    changes: tuple[Change, ...]
    chunks: Chunks | None
    """None where data cannot be compared: without data, or digests of two kinds."""


class Difference(Value, frozen=True, kw_only=True):
    """What the second template has that the first has not, and the reverse."""

    before: Digest
    after: Digest
    facts: tuple[Change, ...]
    layout: tuple[Change, ...]
    volumes: tuple[VolumeDifference, ...]

    @property
    def is_same(self) -> bool:
        data = all(volume.state == "same" for volume in self.volumes)
        return data and not self.facts and not self.layout


def compare(before: Template, after: Template) -> Difference:
    """Return what changed from `before` to `after`. Only the indexes are read."""
    return Difference(
        before=before.digest,
        after=after.digest,
        facts=_facts(before.config, after.config),
        layout=_layout(before.config, after.config),
        volumes=tuple(_volumes(before, after)),
    )


def _facts(before: TemplateConfig, after: TemplateConfig) -> tuple[Change, ...]:
    def facts(config: TemplateConfig) -> dict[str, Any]:
        found = _plain(config)
        system = found.pop("os") or {}
        for left_out in ("layout", "source", "name", "format"):
            found.pop(left_out)
        found["redactions"] = len(config.redactions)
        found["holes"] = sum(hole.size for hole in config.holes)
        source = config.source
        found["source.memory_bytes"] = source.memory_bytes
        found["source.cpu"] = f"{source.cpus} × {source.cpu_model}"
        found["source.board"] = f"{source.board.vendor or ''} {source.board.product or ''}".strip()
        return {**{f"os.{name}": value for name, value in system.items()}, **found}

    return tuple(_changes("", facts(before), facts(after)))


def _layout(before: TemplateConfig, after: TemplateConfig) -> tuple[Change, ...]:
    def nodes(config: TemplateConfig) -> dict[str, dict[str, Any]]:
        return {node.id: _plain(node) for node in config.layout.nodes}

    return tuple(_changes_by_name(nodes(before), nodes(after)))


def _changes_by_name(
    before: Mapping[str, dict[str, Any]], after: Mapping[str, dict[str, Any]]
) -> Iterator[Change]:
    for name in sorted(before.keys() | after.keys()):
        if name not in after or name not in before:
            yield Change(what=name, before=before.get(name), after=after.get(name))
        else:
            yield from _changes(f"{name}.", before[name], after[name])


def _changes(prefix: str, before: dict[str, Any], after: dict[str, Any]) -> Iterator[Change]:
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _changes(f"{prefix}{name}.", old, new)
        elif old != new:
            yield Change(what=f"{prefix}{name}", before=old, after=new)


def _volumes(before: Template, after: Template) -> Iterator[VolumeDifference]:
    old = {volume.id: volume for volume in before.layout.volumes}
    new = {volume.id: volume for volume in after.layout.volumes}
    for name in dict.fromkeys((*old, *new)):
        was = _plain(old[name]) if name in old else None
        now = _plain(new[name]) if name in new else None
        if was is None or now is None:
            whole = before if now is None else after
            chunks = _all_chunks(whole, name, is_new=was is None)
            change = Change(what=name, before=was, after=now)
            state = "added" if was is None else "removed"
            yield VolumeDifference(volume=name, state=state, changes=(change,), chunks=chunks)
            continue
        changes = tuple(_changes("", was, now))
        chunks = _compared(before, after, name)
        is_same = not changes and (chunks is None or chunks == Chunks(same=chunks.same))
        if chunks is None and name in before.blobs:
            is_same = False
        state = "same" if is_same else "changed"
        yield VolumeDifference(volume=name, state=state, changes=changes, chunks=chunks)


def _all_chunks(template: Template, volume: str, *, is_new: bool) -> Chunks | None:
    if volume not in template.blobs:
        return None
    tally = _Tally()
    for entry in template.entries(volume)[1]:
        tally.add("added" if is_new else "removed", entry)
    return tally.chunks()


def _compared(before: Template, after: Template, volume: str) -> Chunks | None:
    if volume not in before.blobs or volume not in after.blobs:
        return None
    old_head, old = before.entries(volume)
    new_head, new = after.entries(volume)
    if old_head.content_digest != new_head.content_digest:
        return None
    tally = _Tally()
    befores, afters = _placed(old), _placed(new)
    left, right = next(befores, None), next(afters, None)
    while left or right:
        if right is None or (left and left[0] < right[0]):
            assert left is not None
            tally.add("removed", left[1])
            left = next(befores, None)
        elif left is None or right[0] < left[0]:
            tally.add("added", right[1])
            right = next(afters, None)
        else:
            was, now = left[1], right[1]
            is_same = (was.content_digest, was.extents) == (now.content_digest, now.extents)
            tally.add("same" if is_same else "changed", now)
            left, right = next(befores, None), next(afters, None)
    return tally.chunks()


def _placed(entries: Iterator[IndexEntry]) -> Iterator[tuple[tuple[int, int], IndexEntry]]:
    """Yield each entry behind its number, and which of those with that number it is."""
    for number, same in groupby(entries, key=lambda entry: entry.number):
        for which, entry in enumerate(same):
            yield (number, which), entry


class _Tally:
    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}

    def add(self, kind: str, entry: IndexEntry) -> None:
        count = self._counts.setdefault(kind, [0, 0])
        count[0] += 1
        count[1] += entry.content_bytes

    def chunks(self) -> Chunks:
        found = {kind: Count(chunks=n, bytes=size) for kind, (n, size) in self._counts.items()}
        return Chunks(**found)


def _plain(value: Any) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(value)
    return plain
