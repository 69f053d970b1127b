"""One flipped bit anywhere in a template, a byte too many or too few, or another template's
blob: it is found, named, and never reaches the disk."""

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, permutations
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
from agent.store.template import open_template
from agent.stream.restore import restore_volume
from agent.units import MiB
from tests.contracts.fake_registry import FakeRegistry, Handler, sha256
from tests.contracts.seeds import SEED, draw, tried
from tests.contracts.stream_builders import (
    BASE,
    capture,
    make_client,
    make_source,
    make_target,
    mixed_bytes,
)
from tests.contracts.stream_world import OLD, World, flipped, world_of

SIZE = 13 * MiB
FLIPS = 200


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    print(f"METALCAST_SEED={SEED}")
    with world_of(tmp_path, SIZE, seed=11) as made:
        yield made


def places(size: int) -> Iterator[tuple[int, int]]:
    """Yield where to flip which bit of so many bytes; the last one printed has failed."""
    dice = draw(size)
    for at in dice.choices(range(size), k=FLIPS):
        bit = dice.randrange(8)
        print(f"bit {bit} of byte {at}")
        yield at, bit
    tried(FLIPS, "flipped bits")


def test_a_flipped_bit_of_the_manifest(world: World) -> None:
    good = world.registry.manifests[world.captured.digest]
    for at, bit in places(len(good)):
        world.registry.manifests[world.captured.digest] = flipped(good, at, bit)
        with pytest.raises(TemplateError, match="manifest at .* is damaged"):
            world.restore()
    assert world.is_untouched()


@pytest.mark.parametrize("which", ["config", "index"])
def test_a_flipped_bit_of_a_small_blob(world: World, which: str) -> None:
    template = world.template
    config, index = template.manifest.config.digest, template.blobs["root"].index.digest
    digest = config if which == "config" else index
    for at, bit in places(len(world.registry.blobs[digest])):
        good = world.flip(digest, at, bit)
        with pytest.raises(TemplateError, match=f"blob at .*{digest} is damaged"):
            world.restore()
        world.registry.blobs[digest] = good
    assert world.is_untouched()


def test_a_flipped_bit_of_a_pack_fails_the_chunk_it_is_in(tmp_path: Path) -> None:
    with world_of(tmp_path, 6 * MiB, seed=12) as world:
        flip_packs(world)


def flip_packs(world: World) -> None:
    template = world.template
    entries = [entry for entry in template.entries("root")[1] if entry.pack >= 0]
    packs = template.blobs["root"].packs
    stored = sum(entry.stored_bytes for entry in entries)
    for place, bit in places(stored):
        at = place
        for entry in entries:
            if at < entry.stored_bytes:
                break
            at -= entry.stored_bytes
        digest = packs[entry.pack].digest
        good = world.flip(digest, entry.offset + at, bit)
        world.blank_target()
        with pytest.raises(ChunkCorrupt, match=f"^chunk {entry.number} .*{digest[:19]}"):
            world.restore()
        assert world.wrong_chunks() == [], f"bit {bit} of byte {place}"
        world.registry.blobs[digest] = good
    world.restore()
    assert world.target_is_right()


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
    assert world.target_is_right()


def test_a_pack_cut_or_grown_anywhere_is_found(world: World) -> None:
    """Also where a frame ends: the rest is a sound pack, only not this one."""
    template = world.template
    entries = [entry for entry in template.entries("root")[1] if entry.pack >= 0]
    cases = 0
    for number, pack in template.blobs["root"].packs.items():
        good = world.registry.blobs[pack.digest]
        ends = [entry.offset for entry in entries if entry.pack == number]
        frame = good[: ends[1]] if len(ends) > 1 else good
        spoilt = {f"cut at {end}": good[:end] for end in (*ends, len(good) - 1)}
        spoilt |= {f"less {n}": good[n:] for n in (1, *ends[1:])}
        spoilt |= {"a byte more": good + b"x", "a frame more": good + frame}
        spoilt |= {"one before": b"x" + good, "a frame before": frame + good}
        for name, bad in spoilt.items():
            world.registry.blobs[pack.digest] = bad
            world.blank_target()
            with pytest.raises(AgentError, match=pack.digest[:19]):
                world.restore()
            assert world.wrong_chunks() == [], f"{name} of pack {number}"
            cases += 1
        del world.registry.blobs[pack.digest]
        with pytest.raises(AgentError, match=pack.digest):
            world.restore()
        world.registry.blobs[pack.digest] = good
    tried(cases, "packs of another length")


def test_no_chunk_goes_to_another_place(world: World) -> None:
    """Two sound frames of one pack, exchanged; and a sound pack in the place of another."""
    template = world.template
    entries = [entry for entry in template.entries("root")[1] if entry.pack >= 0]
    packs = template.blobs["root"].packs
    for one, other in pairwise(entries):
        if one.pack != other.pack:
            continue
        digest = packs[one.pack].digest
        good = world.registry.blobs[digest]
        middle, end = other.offset, other.offset + other.stored_bytes
        swapped = good[: one.offset] + good[middle:end] + good[one.offset : middle] + good[end:]
        world.registry.blobs[digest] = swapped
        world.blank_target()
        with pytest.raises(
            ChunkCorrupt, match=f"^chunk ({one.number}|{other.number}) .*{digest[:19]}"
        ):
            world.restore()
        assert world.wrong_chunks() == []
        world.registry.blobs[digest] = good
    for mine, foreign in permutations([pack.digest for pack in packs.values()], 2):
        good = world.registry.blobs[mine]
        world.registry.blobs[mine] = world.registry.blobs[foreign]
        world.blank_target()
        with pytest.raises(AgentError, match=mine[:19]):
            world.restore()
        assert world.wrong_chunks() == []
        world.registry.blobs[mine] = good
        tried(1, "exchanged blobs")


def test_blobs_of_another_template_are_not_taken(world: World, tmp_path: Path) -> None:
    """Each blob of the same kind and role, of a template of the same shape, under our digest."""
    folder = tmp_path / "other"
    folder.mkdir()
    other = capture(world.client, make_source(folder, mixed_bytes(SIZE, seed=12)))
    theirs = open_template(world.client, other.digest).manifest
    ours = world.template.manifest
    pairs = [*zip(ours.layers, theirs.layers, strict=False), (ours.config, ours.layers[0])]
    assert len(pairs) > 3
    for mine, foreign in pairs:
        good = world.registry.blobs[mine.digest]
        world.registry.blobs[mine.digest] = world.registry.blobs[foreign.digest]
        world.blank_target()
        with pytest.raises(AgentError, match=mine.digest[:19]):
            world.restore()
        assert world.wrong_chunks() == []
        world.registry.blobs[mine.digest] = good
        tried(1, "exchanged blobs")
    mixed = msgspec.structs.replace(ours, layers=(ours.layers[0], *theirs.layers[1:]))
    world.captured = replace(world.captured, digest=push(world, mixed))
    with pytest.raises(TemplateError):
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
        (b'"format":6', b'"format":7', "format 7 is newer than this release, which reads 6"),
        (b'"format":6', b'"format":0', "there is no format 0"),
        (b'"format":6', b'"format":NaN', "config"),
        (b'"format":6', b'"format":6,"more":1', "unknown field `more`"),
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
    assert world.is_untouched()


def test_a_disk_too_short_is_refused_before_a_byte_is_written(world: World) -> None:
    with pytest.raises(TemplateError, match="beyond"):
        restore_volume(world.template, "root", world.target, 3 * BASE)
    assert world.is_untouched()


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
    assert world.is_untouched()
    damaged = False
    reads.clear()
    world.restore()
    assert len(reads) > 4
    assert sorted(reads)[::2] == sorted(reads)[1::2], "each piece twice"
    assert world.target_is_right()
    world.flip(digest, 50)
    with pytest.raises(TemplateError, match=f"blob {digest} is damaged"):
        world.restore()
