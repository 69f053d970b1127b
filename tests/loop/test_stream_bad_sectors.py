"""Disks with bad sectors: refused by default, recorded with consent, found when read back."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.errors import DiskError
from agent.model.event import Happening, Level, Logged
from agent.model.job import Verify
from agent.model.template import CHUNK_BYTES, Hole
from agent.store.registry import RegistryClient
from agent.store.target import RegistryTarget
from agent.store.template import open_template
from agent.stream.capture import Captured, capture_template
from agent.stream.chunks import VolumeSource
from agent.stream.damage import Bounds, Damage
from agent.stream.restore import restore_volume
from agent.stream.verify import verify_volume
from agent.units import Extent, MiB
from tests.contracts.fake_registry import FakeRegistry, Handler
from tests.contracts.stream_builders import (
    BASE,
    make_client,
    make_config,
    make_source,
    make_target,
    mixed_bytes,
)
from tests.harness.bad_disk import bad_disk

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("needs_daemon")]
SIZE = 13 * MiB
DATA = random.Random(3).randbytes(4 * MiB) + mixed_bytes(SIZE - 4 * MiB, seed=3)


@dataclass
class World:
    registry: FakeRegistry
    client: RegistryClient
    folder: Path

    def capture(
        self,
        unreadable: tuple[Extent, ...],
        damage: Damage | None,
        *,
        used: tuple[Extent, ...] = (),
        heard: list[Happening] | None = None,
    ) -> Captured:
        """Capture a disk whose volume has bad sectors there."""
        source = make_source(self.folder, DATA, used=used)
        bad = tuple(Extent(BASE + run.offset, run.size) for run in unreadable)
        with bad_disk(source.device, self.folder / "bad", unreadable=bad) as device:
            there = VolumeSource(source.volume, device, BASE, source.used, serial="SOURCE-1")
            return capture_template(
                RegistryTarget(self.client),
                make_config(there.volume),
                [there],
                (lambda _: None) if heard is None else heard.append,
                tag="latest",
                lanes=2,
                damage=damage,
            )

    def restored(self, captured: Captured) -> bytes:
        target = make_target(self.folder, SIZE)
        template = open_template(self.client, captured.digest)
        restore_volume(template, "root", target, BASE)
        return target.read_bytes()[BASE : BASE + SIZE]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    registry = FakeRegistry()
    with registry.serving() as url:
        client = make_client(url)
        yield World(registry, client, tmp_path)
        client.close()


def with_zeros(*holes: Extent) -> bytes:
    data = bytearray(DATA)
    for hole in holes:
        data[hole.offset : hole.end] = bytes(hole.size)
    return bytes(data)


def test_a_bad_sector_ends_the_capture_and_is_named(world: World) -> None:
    bad = Extent(5 * MiB + 512, 512)
    with pytest.raises(DiskError, match=r"bad \(serial SOURCE-1\) at (\d+): Input/out") as caught:
        world.capture((bad,), None)
    assert f" at {BASE + bad.offset // 4096 * 4096}:" in str(caught.value)
    assert world.registry.manifests == {}


FAR_APART = tuple(Extent(at * MiB // 2, 4096) for at in range(26))
"""More runs than are read one by one, further from each other than one read reaches."""


def test_a_bad_sector_among_scattered_runs_ends_the_capture_and_is_named(world: World) -> None:
    bad = FAR_APART[17]
    with pytest.raises(DiskError, match=f"SOURCE-1\\) at {BASE + bad.offset}: Input/output"):
        world.capture((Extent(bad.offset + 512, 512),), None, used=FAR_APART)
    assert world.registry.manifests == {}


def test_with_consent_scattered_runs_keep_all_that_can_be_read(world: World) -> None:
    bad = Extent(FAR_APART[17].offset + 512, 512)
    captured = world.capture((bad,), Damage(), used=FAR_APART)
    assert captured.config.holes == (Hole(volume="root", offset=bad.offset, size=bad.size),)
    restored, wanted = world.restored(captured), with_zeros(bad)
    for run in FAR_APART:
        assert restored[run.offset : run.end] == wanted[run.offset : run.end]


def test_with_consent_just_the_bad_sectors_become_zeros_and_are_recorded(world: World) -> None:
    bad = (
        Extent(5 * MiB + 512, 1024),
        Extent(2 * CHUNK_BYTES - 512, 1024),  # on both sides of a border of chunks
        Extent(SIZE - 512, 512),
    )
    heard: list[Happening] = []
    captured = world.capture(bad, Damage(), heard=heard)
    assert captured.config.holes == tuple(
        Hole(volume="root", offset=run.offset, size=run.size) for run in bad
    )
    assert open_template(world.client, captured.digest).config.holes == captured.config.holes
    assert world.restored(captured) == with_zeros(*bad)
    warned = [one.message for one in heard if isinstance(one, Logged)]
    assert len(warned) == 1
    assert "root cannot be read at " in warned[0]
    assert next(one.level for one in heard if isinstance(one, Logged)) is Level.WARNING


def test_a_sound_disk_has_no_holes(world: World) -> None:
    captured = world.capture((), Damage())
    assert captured.config.holes == ()
    assert world.restored(captured) == DATA


def test_a_bad_sector_in_unused_space_is_no_matter(world: World) -> None:
    """Also where many short runs are read in one go, with what lies between them."""
    used = tuple(Extent(at, 4096) for at in range(0, 1 * MiB, 16384))
    captured = world.capture((Extent(8192, 4096), Extent(5 * MiB, 512)), None, used=used)
    assert captured.config.holes == ()
    damaged = world.capture((Extent(8192, 4096), Extent(16384, 512)), Damage(), used=used)
    assert damaged.config.holes == (Hole(volume="root", offset=16384, size=512),)


def test_a_dead_stretch_is_given_up_after_some_holes_or_bytes(world: World) -> None:
    scattered = tuple(Extent(5 * MiB + n * 8192, 512) for n in range(5))
    with pytest.raises(DiskError, match="too damaged .* more than 4 unreadable runs") as caught:
        world.capture(scattered, Damage(Bounds(holes=4)))
    assert "SOURCE-1" in str(caught.value)
    assert "ddrescue" in (caught.value.hint or "")
    with pytest.raises(DiskError, match=r"too damaged .* more than 64.0 KiB unreadable"):
        world.capture((Extent(5 * MiB, 128 * 1024),), Damage(Bounds(bytes=64 * 1024)))
    with pytest.raises(DiskError, match="too damaged .* s went by in failing reads"):
        world.capture((Extent(5 * MiB, 512),), Damage(Bounds(failing_s=0)))
    assert world.registry.manifests == {}


def test_a_long_dead_stretch_is_one_hole(world: World) -> None:
    dead = Extent(5 * MiB + 4096, 256 * 1024)
    captured = world.capture((dead,), Damage())
    assert captured.config.holes == (Hole(volume="root", offset=dead.offset, size=dead.size),)
    assert world.restored(captured) == with_zeros(dead)


def test_what_the_server_lost_is_made_again_without_a_look_at_the_holes(world: World) -> None:
    """The frames of a pack, made a second time, are the same: holes are not tried again."""
    bad = (Extent(1 * MiB, 512), Extent(5 * MiB + 4096, 4096))
    lost: list[int] = []

    def lie(handler: Handler) -> bool:
        upload = handler.registry.uploads.get(handler.path.rpartition("/")[2])
        if handler.command != "PATCH" or not upload or len(upload) < CHUNK_BYTES or lost:
            return False
        lost.append(len(upload))
        del upload[:]
        handler.hang_up(reset=False)
        return True

    world.registry.lie = lie
    captured = world.capture(bad, Damage())
    assert lost
    assert [(hole.offset, hole.size) for hole in captured.config.holes] == [
        (run.offset, run.size) for run in bad
    ]
    assert world.restored(captured) == with_zeros(*bad)


@pytest.mark.parametrize("offset", [MiB + 7 * 512, 3 * MiB - 512, 4 * MiB])
def test_a_sector_that_cannot_be_written_is_named(world: World, offset: int) -> None:
    """By its page, not by where the large write began that it was in."""
    captured = world.capture((), None)
    template = open_template(world.client, captured.digest)
    target = make_target(world.folder, SIZE)
    bad = Extent(BASE + offset, 512)
    page = bad.offset // 4096 * 4096
    with (
        bad_disk(target, world.folder / "worn", unwritable=(bad,)) as device,
        pytest.raises(DiskError, match=rf"write .*worn \(serial T-1\) at {page}: Input/out"),
    ):
        restore_volume(template, "root", device, BASE, serial="T-1")


def test_what_cannot_be_read_on_the_target_is_written_anew(world: World) -> None:
    """A disk finds another place for a bad sector when it is written: reading it is no must."""
    captured = world.capture((), None)
    template = open_template(world.client, captured.digest)
    target = make_target(world.folder, SIZE)
    restore_volume(template, "root", target, BASE)
    bad = Extent(BASE + MiB, 512)
    told: list[Happening] = []
    with bad_disk(target, world.folder / "worn", unreadable=(bad,)) as device:
        done = restore_volume(template, "root", device, BASE, report=told.append, serial="T-1")
        with pytest.raises(DiskError, match=rf"cannot read .*worn at {bad.offset}"):
            verify_volume(template, "root", device, BASE, Verify.FULL)  # nor is it now
    first = next(template.entries("root")[1])
    assert done.bytes_written == first.content_bytes
    assert done.bytes_kept == captured.used_bytes - first.content_bytes
    warnings = [one.message for one in told if isinstance(one, Logged)]
    assert warnings == [
        f"{device} (serial T-1) could not be read in 1 chunks of root: they were written anew"
    ]


def test_a_write_that_is_lost_at_the_end_is_an_error(world: World) -> None:
    captured = world.capture((), None)
    template = open_template(world.client, captured.digest)
    target = make_target(world.folder, SIZE)
    with (
        bad_disk(target, world.folder / "worn", no_flush=True) as device,
        pytest.raises(DiskError, match=r"worn \(serial T-1\) lost what was written: Input/out"),
    ):
        restore_volume(template, "root", device, BASE, serial="T-1")


@pytest.mark.parametrize("mode", [Verify.SAMPLE, Verify.FULL])
def test_a_sector_that_cannot_be_read_back_is_named(world: World, mode: Verify) -> None:
    captured = world.capture((), None)
    template = open_template(world.client, captured.digest)
    target = make_target(world.folder, SIZE)
    restore_volume(template, "root", target, BASE)
    bad = Extent(BASE + SIZE - 4096, 512)
    with (
        bad_disk(target, world.folder / "worn", unreadable=(bad,)) as device,
        pytest.raises(DiskError, match=rf"worn \(serial T-1\) at {bad.offset}: Input/out"),
    ):
        verify_volume(template, "root", device, BASE, mode, serial="T-1")
