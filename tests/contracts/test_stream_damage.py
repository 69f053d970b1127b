"""One flipped byte anywhere in a template is found, named, and never reaches the disk."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from agent.errors import AgentError, ChunkCorrupt, TemplateError
from agent.model import wire
from agent.model.template import (
    CHUNK_BYTES,
    INDEX_TYPE,
    PACK_TYPE,
    VOLUME_ANNOTATION,
    Descriptor,
    Manifest,
)
from agent.store.registry import RegistryClient
from agent.store.template import Template, open_template
from agent.stream.capture import Captured
from agent.stream.restore import restore_volume
from agent.units import MiB
from tests.contracts.fake_registry import FakeRegistry, Handler, sha256
from tests.contracts.seeds import SEED
from tests.contracts.stream_builders import (
    BASE,
    capture,
    make_client,
    make_source,
    make_target,
    mixed_bytes,
)

SIZE = 13 * MiB
DATA = mixed_bytes(SIZE, seed=11)
OLD = b"\xa5"
FLIPS = 200


@dataclass
class World:
    registry: FakeRegistry
    client: RegistryClient
    captured: Captured
    target: Path

    @property
    def template(self) -> Template:
        return open_template(self.client, self.captured.digest)

    def restore(self) -> None:
        restore_volume(self.template, "root", self.target, BASE, lanes=2)

    def untouched(self) -> bool:
        return self.target.read_bytes() == OLD * (SIZE + 2 * BASE)

    def wrong_chunks(self) -> list[int]:
        """Return the chunks of the target that are neither old nor right."""
        found = self.target.read_bytes()[BASE : BASE + SIZE]
        wrong = []
        for number in range(-(-SIZE // CHUNK_BYTES)):
            place = slice(number * CHUNK_BYTES, (number + 1) * CHUNK_BYTES)
            if found[place] != DATA[place] and found[place] != OLD * len(found[place]):
                wrong.append(number)
        return wrong

    def flip(self, digest: str, at: int) -> bytes:
        """Damage one blob; return what it was."""
        good = self.registry.blobs[digest]
        bad = bytearray(good)
        bad[at] ^= 0x40
        self.registry.blobs[digest] = bytes(bad)
        return good


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    print(f"METALCAST_SEED={SEED}")
    registry = FakeRegistry()
    with registry.serving() as url:
        client = make_client(url)
        captured = capture(client, make_source(tmp_path, DATA))
        yield World(registry, client, captured, make_target(tmp_path, SIZE))
        client.close()


def test_a_flipped_byte_of_the_manifest(world: World) -> None:
    draw = random.Random(SEED)
    good = world.registry.manifests[world.captured.digest]
    for at in draw.sample(range(len(good)), min(FLIPS, len(good))):
        bad = bytearray(good)
        bad[at] ^= 0x40
        world.registry.manifests[world.captured.digest] = bytes(bad)
        with pytest.raises(TemplateError, match="manifest at .* is damaged"):
            world.restore()
    assert world.untouched()


def test_a_flipped_byte_of_the_config(world: World) -> None:
    draw = random.Random(SEED)
    digest = world.template.manifest.config.digest
    for at in draw.sample(
        range(len(world.registry.blobs[digest])), min(FLIPS, len(world.registry.blobs[digest]))
    ):
        good = world.flip(digest, at)
        with pytest.raises(TemplateError, match=f"blob at .*{digest} is damaged"):
            world.restore()
        world.registry.blobs[digest] = good
    assert world.untouched()


def test_a_flipped_byte_of_the_index(world: World) -> None:
    draw = random.Random(SEED)
    digest = world.template.blobs["root"].index.digest
    for at in draw.sample(
        range(len(world.registry.blobs[digest])), min(FLIPS, len(world.registry.blobs[digest]))
    ):
        good = world.flip(digest, at)
        with pytest.raises(TemplateError, match=f"blob at .*{digest} is damaged"):
            world.restore()
        world.registry.blobs[digest] = good
    assert world.untouched()


def test_a_flipped_byte_of_a_pack_fails_the_chunk_it_is_in(world: World) -> None:
    draw = random.Random(SEED)
    template = world.template
    _, entries = template.entries("root")
    stored = [entry for entry in entries if entry.pack >= 0]
    packs = template.blobs["root"].packs
    for _ in range(FLIPS):
        entry = draw.choice(stored)
        digest = packs[entry.pack].digest
        good = world.flip(digest, entry.offset + draw.randrange(entry.stored_bytes))
        world.target.write_bytes(OLD * world.target.stat().st_size)  # a right chunk is not fetched
        with pytest.raises(ChunkCorrupt, match=f"^chunk {entry.number} .*{digest[:19]}"):
            world.restore()
        assert world.wrong_chunks() == []
        world.registry.blobs[digest] = good
    world.restore()
    assert world.target.read_bytes()[BASE : BASE + SIZE] == DATA


def test_a_sound_frame_of_other_bytes_is_not_written(tmp_path: Path) -> None:
    """What zstd's own checksum cannot see: a whole chunk put in place of another."""
    registry = FakeRegistry()
    noise = random.Random(SEED).randbytes(2 * CHUNK_BYTES)
    target = make_target(tmp_path, len(noise))
    with registry.serving() as url:
        client = make_client(url)
        captured = capture(client, make_source(tmp_path, noise), pack_bytes=16 * MiB)
        template = open_template(client, captured.digest)
        first, second = template.entries("root")[1]
        assert first.stored_bytes == second.stored_bytes
        (pack,) = template.manifest.packs
        frame = registry.blobs[pack.digest][: first.stored_bytes]
        registry.blobs[pack.digest] = frame * 2
        with pytest.raises(ChunkCorrupt, match=r"^chunk 1 .*the digest that the index gives"):
            restore_volume(template, "root", target, BASE)
        client.close()
    found = target.read_bytes()[BASE + CHUNK_BYTES : BASE + 2 * CHUNK_BYTES]
    assert found == OLD * CHUNK_BYTES


def test_a_byte_flipped_on_the_way_is_fetched_again(world: World) -> None:
    lies: list[str] = []

    def lie(handler: Handler) -> bool:
        if "Range" not in handler.headers or lies:
            return False
        lies.append(handler.path)
        data, first, last = handler.ranged()
        piece = bytearray(data[first : last + 1])
        piece[len(piece) // 2] ^= 1
        headers = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        handler.answer(206, bytes(piece), headers)
        return True

    world.registry.lie = lie
    world.restore()
    assert lies
    assert world.target.read_bytes()[BASE : BASE + SIZE] == DATA


@pytest.mark.parametrize("change", ["short", "long", "missing"])
def test_a_pack_of_another_length(world: World, change: str) -> None:
    digest = world.template.manifest.packs[-1].digest
    good = world.registry.blobs.pop(digest)
    if change != "missing":
        world.registry.blobs[digest] = good[:-1] if change == "short" else good + b"x"
    with pytest.raises(AgentError):
        world.restore()
    assert world.wrong_chunks() == []


def push(world: World, manifest: Manifest) -> str:
    data = wire.encode(manifest)
    world.registry.manifests[sha256(data)] = data
    return sha256(data)


def test_packs_in_another_order_are_refused(world: World) -> None:
    manifest = world.template.manifest
    index, first, second, *rest = manifest.layers
    digest = push(world, msgspec.structs.replace(manifest, layers=(index, second, first, *rest)))
    template = open_template(world.client, digest)
    with pytest.raises(TemplateError):
        restore_volume(template, "root", world.target, BASE)
    assert world.wrong_chunks() == []


def layer(kind: str, volume: str | None, size: int = 10) -> Descriptor:
    annotations = {} if volume is None else {VOLUME_ANNOTATION: volume}
    return Descriptor(
        media_type=kind, digest="sha256:" + "ab" * 32, size=size, annotations=annotations
    )


BAD_LAYERS = {
    "foreign volume": ([layer(INDEX_TYPE, "other")], "no volume 'other'"),
    "no volume": ([layer(INDEX_TYPE, None)], "no volume None"),
    "two indexes": ([layer(INDEX_TYPE, "root")] * 2, "a second index of root"),
    "pack first": ([layer(PACK_TYPE, "root")], "follows no index"),
    "empty pack": ([layer(INDEX_TYPE, "root"), layer(PACK_TYPE, "root", 0)], "a pack of 0 bytes"),
    "huge pack": ([layer(INDEX_TYPE, "root"), layer(PACK_TYPE, "root", 2**40)], "a pack of 109951"),
    "other type": ([layer("application/x-tar", "root")], "unknown media type"),
    "no index": ([], "volume root has no index"),
    "index missing": ([layer(INDEX_TYPE, "root")], "the index of root is missing"),
}


@pytest.mark.parametrize("name", BAD_LAYERS)
def test_layers_that_cannot_be_are_refused(world: World, name: str) -> None:
    layers, message = BAD_LAYERS[name]
    digest = push(world, msgspec.structs.replace(world.template.manifest, layers=tuple(layers)))
    with pytest.raises(TemplateError, match=message):
        open_template(world.client, digest)


def test_what_is_no_template_is_refused(world: World) -> None:
    manifest = world.template.manifest
    for other in (
        msgspec.structs.replace(manifest, artifact_type="application/vnd.oci.image"),
        msgspec.structs.replace(manifest, schema_version=1),
        msgspec.structs.replace(manifest, media_type="application/json"),
    ):
        with pytest.raises(TemplateError, match="not "):
            open_template(world.client, push(world, other))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"format":2', b'"format":3', "format 3 is newer than this release, which reads 2"),
        (b'"format":2', b'"format":0', "there is no format 0"),
        (b'"format":2', b'"format":NaN', "config"),
        (b'"format":2', b'"format":2,"more":1', "unknown field `more`"),
        (b'"size_bytes":13631488', b'"size_bytes":-1', r"\$.layout.volumes\[0\].size_bytes"),
    ],
)
def test_a_config_that_breaks_the_schema_is_refused(
    world: World, old: bytes, new: bytes, message: str
) -> None:
    manifest = world.template.manifest
    data = world.registry.blobs[manifest.config.digest]
    assert old in data
    changed = data.replace(old, new)
    world.registry.blobs[sha256(changed)] = changed
    config = msgspec.structs.replace(manifest.config, digest=sha256(changed), size=len(changed))
    digest = push(world, msgspec.structs.replace(manifest, config=config))
    with pytest.raises(AgentError, match=message):
        open_template(world.client, digest)


def test_an_index_of_another_volume_is_refused(world: World) -> None:
    manifest = world.template.manifest
    data = world.registry.blobs[manifest.config.digest]
    changed = data.replace(b'"size_bytes":13631488', b'"size_bytes":13632000')
    world.registry.blobs[sha256(changed)] = changed
    config = msgspec.structs.replace(manifest.config, digest=sha256(changed), size=len(changed))
    digest = push(world, msgspec.structs.replace(manifest, config=config))
    template = open_template(world.client, digest)
    with pytest.raises(TemplateError, match="is for root of 13631488 bytes, not for root of 13632"):
        restore_volume(template, "root", world.target, BASE)
    assert world.untouched()


def test_a_disk_too_short_is_refused_before_a_byte_is_written(world: World) -> None:
    with pytest.raises(TemplateError, match="beyond"):
        restore_volume(world.template, "root", world.target, 3 * BASE)
    assert world.untouched()


def test_a_long_index_is_read_twice_and_compared(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.store.template._INDEX_IN_MEMORY", 0)
    monkeypatch.setattr("agent.store.template._INDEX_PIECE", 100)
    digest = world.template.blobs["root"].index.digest
    reads: list[int] = []

    def lie(handler: Handler) -> bool:
        if handler.path.endswith(digest) and "Range" in handler.headers:
            reads.append(handler.ranged()[1])
            if damaged and reads.count(reads[-1]) == 2:
                data, first, last = handler.ranged()
                piece = bytes(last - first + 1)
                whole = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
                handler.answer(206, piece, whole)
                return True
        return False

    world.registry.lie = lie
    damaged = True
    with pytest.raises(TemplateError, match=f"{digest} changed while it was read"):
        world.restore()
    assert world.untouched()
    damaged = False
    reads.clear()
    world.restore()
    assert len(reads) > 4
    assert sorted(reads)[::2] == sorted(reads)[1::2], "each piece twice"
    assert world.target.read_bytes()[BASE : BASE + SIZE] == DATA
    world.flip(digest, 50)
    with pytest.raises(TemplateError, match=f"blob {digest} is damaged"):
        world.restore()
