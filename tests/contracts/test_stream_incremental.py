"""A capture with a parent sends what differs, and is a whole template all the same."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import TemplateError
from agent.model.job import Verify
from agent.model.template import CHUNK_BYTES, FROM_ANNOTATION, PACK_TYPE, TITLE_ANNOTATION
from agent.store.registry import RegistryClient
from agent.store.target import RegistryTarget
from agent.store.template import open_template
from agent.stream.capture import Captured, capture_template
from agent.stream.chunks import VolumeSource
from agent.stream.restore import restore_volume
from agent.stream.verify import verify_volume
from agent.units import Extent, MiB
from tests.contracts.fake_registry import FakeRegistry
from tests.contracts.registries import REGISTRIES
from tests.contracts.stream_builders import (
    BASE,
    make_client,
    make_config,
    make_source,
    make_target,
    make_volume,
    mixed_bytes,
)

CHUNKS = 24
SIZE = CHUNKS * CHUNK_BYTES - 12345
DATA = mixed_bytes(SIZE, seed=5)


@pytest.fixture(params=sorted(REGISTRIES))
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RegistryClient]:
    with REGISTRIES[request.param](tmp_path) as url:
        found = make_client(url)
        yield found
        found.close()


def capture(
    client: RegistryClient, source: VolumeSource, parent: str | None = None, tag: str = "latest"
) -> Captured:
    return capture_template(
        RegistryTarget(client),
        make_config(source.volume),
        [source],
        tag=tag,
        pack_bytes=8 * MiB,
        parent=open_template(client, parent) if parent else None,
    )


def change(disk: Path, numbers: list[int], seed: int) -> None:
    """Write other bytes somewhere into each of those chunks of the volume."""
    draw = random.Random(seed)
    with disk.open("r+b") as file:
        for number in numbers:
            file.seek(BASE + number * CHUNK_BYTES + draw.randrange(CHUNK_BYTES // 2))
            file.write(draw.randbytes(5000))


def restored(client: RegistryClient, captured: Captured, folder: Path) -> bytes:
    target = make_target(folder, SIZE)
    template = open_template(client, captured.digest)
    restore_volume(template, "root", target, BASE)
    verify_volume(template, "root", target, BASE, Verify.FULL)
    return target.read_bytes()[BASE : BASE + SIZE]


def stored_bytes(client: RegistryClient, captured: Captured, numbers: list[int]) -> int:
    _, entries = open_template(client, captured.digest).entries("root")
    return sum(entry.stored_bytes for entry in entries if entry.number in numbers)


def test_only_changed_chunks_travel_and_a_chain_of_them_is_whole(
    client: RegistryClient, tmp_path: Path
) -> None:
    source = make_source(tmp_path, DATA)
    last = capture(client, source)
    index_bytes = last.uploaded_bytes - stored_bytes(client, last, list(range(CHUNKS)))
    draw = random.Random(9)
    for turn in range(4):
        changed = draw.sample(range(CHUNKS), 3)
        change(source.device, changed, turn)
        child = capture(client, source, last.digest)
        assert child.config.parent == last.digest
        sent = child.uploaded_bytes - stored_bytes(client, child, changed)
        assert 0 <= sent < 2 * index_bytes
        wanted = source.device.read_bytes()[BASE : BASE + SIZE]
        assert restored(client, child, tmp_path) == wanted
        last = child
    packs = open_template(client, last.digest).manifest.packs
    assert any(FROM_ANNOTATION in pack.annotations for pack in packs)
    assert all(pack.media_type == PACK_TYPE for pack in packs)
    titles = [pack.annotations[TITLE_ANNOTATION] for pack in packs]
    assert titles == [f"root.{number:05}.pack.zst" for number in range(len(packs))]


def test_nothing_changed_is_next_to_nothing_sent(client: RegistryClient, tmp_path: Path) -> None:
    source = make_source(tmp_path, DATA)
    first = capture(client, source)
    again = capture(client, source, first.digest, tag="again")
    assert again.uploaded_bytes < 8000
    assert again.stored_bytes == pytest.approx(first.stored_bytes, rel=0.01)
    assert restored(client, again, tmp_path) == DATA


def test_a_volume_that_the_parent_has_not_is_sent_whole(
    client: RegistryClient, tmp_path: Path
) -> None:
    first = capture(client, make_source(tmp_path, DATA))
    other = make_source(tmp_path, DATA)
    other = VolumeSource(make_volume(SIZE, "data"), other.device, BASE, other.used)
    assert capture(client, other, first.digest).uploaded_bytes > 0.9 * first.uploaded_bytes


def test_other_extents_with_the_same_bytes_are_the_same_content(
    client: RegistryClient, tmp_path: Path
) -> None:
    """What is compared is the content; where it lies in the chunk is the child's own."""
    half = CHUNK_BYTES // 2
    data = DATA[:half] * 2
    first_half = make_source(tmp_path, data, used=(Extent(0, half),))
    first = capture(client, first_half)
    second_half = make_source(tmp_path, data, used=(Extent(half, half),))
    again = capture(client, second_half, first.digest)
    target = make_target(tmp_path, CHUNK_BYTES)
    restore_volume(open_template(client, again.digest), "root", target, BASE)
    found = target.read_bytes()[BASE : BASE + CHUNK_BYTES]
    assert found == b"\xa5" * half + data[half:]


def test_a_parent_whose_index_is_damaged_ends_the_capture(tmp_path: Path) -> None:
    registry = FakeRegistry()
    with registry.serving() as url:
        client = make_client(url)
        source = make_source(tmp_path, DATA)
        first = capture(client, source)
        index = open_template(client, first.digest).blobs["root"].index.digest
        registry.blobs[index] = registry.blobs[index][:-1] + b"?"
        with pytest.raises(TemplateError, match="damaged"):
            capture(client, source, first.digest, tag="child")
        assert "child" not in registry.manifests
        client.close()
