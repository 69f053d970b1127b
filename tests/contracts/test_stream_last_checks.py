"""What is looked at once more at the end, though nothing known to us gets that far."""

import errno
import os
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.errors import AgentError, DiskError, TemplateError, hint_of
from agent.model import wire
from agent.model.template import MANIFEST_MAX_BYTES, IndexEntry, Manifest
from agent.store.registry import RegistryClient
from agent.store.target import RegistryTarget
from agent.store.template import Template, open_template
from agent.stream import capture as stream_capture
from agent.stream import restore
from agent.stream.blocks import DiskFile
from agent.stream.capture import Captured
from agent.stream.chunks import VolumeSource
from agent.stream.fetch import ChunkRun, in_runs
from agent.units import MiB
from tests.contracts.fake_registry import FakeRegistry
from tests.contracts.stream_builders import make_client, make_config, make_source
from tests.contracts.stream_world import world_of

NOISE = random.Random(41).randbytes(16 * MiB)


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
def client(registry: FakeRegistry) -> Iterator[RegistryClient]:
    with registry.serving() as url:
        made = make_client(url)
        yield made
        made.close()


def test_chunks_that_were_lost_on_the_way_are_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever groups chunks into runs may forget the last: the disk is not called restored."""

    def forgetful(entries: Iterable[IndexEntry], *rest: Any, **named: Any) -> Iterator[ChunkRun]:
        *runs, _ = in_runs(entries, *rest, **named)
        yield from runs

    monkeypatch.setattr(restore, "in_runs", forgetful)
    with (
        world_of(tmp_path, 41 * MiB, seed=5, pack_bytes=24 * MiB) as world,
        pytest.raises(TemplateError, match=r"^\d+ of 11 chunks of root were written$"),
    ):
        world.restore()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    made = tmp_path / "disk.img"
    made.write_bytes(bytes(MiB))
    return made


@pytest.mark.parametrize("which", ["_direct", "_buffered"])
def test_an_error_that_closing_a_disk_brings_is_told(
    disk: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """Some filesystems and network disks say only then that a write went wrong."""
    opened = DiskFile(disk, serial="S-1", writable=True)
    closed = bad_when_closed(monkeypatch, opened, which)
    with pytest.raises(
        DiskError, match=rf"^{disk} \(serial S-1\) lost what was written: Input/out"
    ):
        opened.__exit__(None, None, None)
    assert sorted(closed) == sorted((opened._direct, opened._buffered)), "both, all the same"


def test_an_error_of_closing_does_not_hide_what_went_wrong_before(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = DiskFile(disk, writable=True)
    closed = bad_when_closed(monkeypatch, opened, "_direct")
    with pytest.raises(DiskError, match="^it began here$"), opened:
        raise DiskError("it began here")
    assert len(closed) == 2


def bad_when_closed(monkeypatch: pytest.MonkeyPatch, disk: DiskFile, which: str) -> list[int]:
    """Let closing one of the disk's two files say that a write failed; return what was closed."""
    both, bad = (disk._direct, disk._buffered), getattr(disk, which)
    closed: list[int] = []
    close = os.close

    def closing(fd: int) -> None:
        close(fd)
        if fd in both:
            closed.append(fd)
        if fd == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("agent.stream.blocks.os.close", closing)
    return closed


def noisy(folder: Path, *parts: int) -> VolumeSource:
    """Return a volume of random bytes; the 4 MiB of each of `parts` are other ones."""
    data = bytearray(NOISE)
    for part in parts:
        data[part * 4 * MiB : (part + 1) * 4 * MiB] = random.Random(part).randbytes(4 * MiB)
    return make_source(folder, bytes(data))


def with_room_for(monkeypatch: pytest.MonkeyPatch, layers_bytes: int) -> None:
    """Let a manifest have room for so many bytes of layers, commas included."""
    size_bytes = layers_bytes + stream_capture._HEAD_BYTES
    assert size_bytes < MANIFEST_MAX_BYTES
    monkeypatch.setattr(stream_capture, "MANIFEST_MAX_BYTES", size_bytes)


def layers_bytes(captured: Captured) -> int:
    layers = msgspec.json.decode(captured.manifest_bytes, type=Manifest).layers
    taken = sum(len(wire.encode(layer)) + 1 for layer in layers)
    beside = len(captured.manifest_bytes) - taken
    assert 0 < beside < stream_capture._HEAD_BYTES / 4, "what is kept free for it is more"
    return taken


def refused(client: RegistryClient, source: VolumeSource, parent: Template | None = None) -> None:
    with pytest.raises(AgentError, match="the manifest") as caught:
        captured_from(client, source, parent)
    assert "capture without a parent" in (hint_of(caught.value) or "")


def captured_from(
    client: RegistryClient, source: VolumeSource, parent: Template | None = None
) -> Captured:
    return stream_capture.capture_template(
        RegistryTarget(client),
        make_config(source.volume),
        [source],
        tag="latest",
        pack_bytes=4 * MiB,
        parent=parent,
    )


def test_a_manifest_longer_than_may_be_is_not_pushed(
    registry: FakeRegistry,
    client: RegistryClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever reads templates would refuse it, if it were but a byte."""
    source = noisy(tmp_path)
    most = layers_bytes(captured_from(client, source))
    for room in (0, most // 2, most - 1):
        registry.manifests.clear()
        with_room_for(monkeypatch, room)
        refused(client, source)
        assert registry.manifests == {}
    with_room_for(monkeypatch, most)
    assert open_template(client, captured_from(client, source).digest)


def test_it_is_refused_before_all_packs_are_made(
    registry: FakeRegistry,
    client: RegistryClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_room_for(monkeypatch, 0)
    refused(client, noisy(tmp_path))
    assert len(registry.blobs) <= 1, "of four"


def test_neither_is_one_that_took_over_too_many_packs(
    registry: FakeRegistry,
    client: RegistryClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parent = open_template(client, captured_from(client, noisy(tmp_path)).digest)
    before = dict(registry.manifests)
    source = noisy(tmp_path, 1)
    most = layers_bytes(captured_from(client, source, parent))
    for room in (most // 2, most - 1):
        registry.manifests = dict(before)
        with_room_for(monkeypatch, room)
        refused(client, source, parent)
        assert registry.manifests == before
    with_room_for(monkeypatch, most)
    assert open_template(client, captured_from(client, source, parent).digest)
