"""A disk that takes writes and does something else: reading back finds each one, by its chunk.

Every write of a restore is spoilt in turn, in each of these ways, while the disk says that all is
well; then the volume is read back.
"""

import errno
import fcntl
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.errors import DiskError
from agent.model.job import Verify
from agent.model.template import CHUNK_BYTES
from agent.store.template import Template, open_template
from agent.stream import chunks
from agent.stream.chunks import VolumeSource
from agent.stream.restore import restore_volume
from agent.stream.verify import verify_volume
from agent.system import block
from agent.units import Extent
from tests.contracts.fake_registry import FakeRegistry
from tests.contracts.seeds import draw, tried
from tests.contracts.stream_builders import BASE, capture, make_client, make_volume

CHUNKS = 60
SIZE = CHUNKS * CHUNK_BYTES
OLD = b"\xa5"
Spoil = Callable[["Disk", int, bytes], None]
"""Does with the bytes for an offset what a bad disk would do."""


@dataclass
class Disk:
    """Stands between the restore and the file. `spoil` is what happens to write number `at`."""

    path: Path
    pwritev: Callable[[int, Sequence[memoryview], int], int] = os.pwritev
    punch: Callable[[int, Extent], None] = block.punch_hole
    at: int | None = None
    spoil: Spoil | None = None
    writes: list[Extent] = field(default_factory=list)
    zeroed: list[Extent] = field(default_factory=list)
    """Those of them that were the kernel's to make."""

    def write(self, fd: int, pieces: Sequence[memoryview], offset: int) -> int:
        data = b"".join(pieces)
        self.writes.append(Extent(offset, len(data)))
        if self.spoil is None or len(self.writes) - 1 != self.at:
            return self.pwritev(fd, pieces, offset)
        self.spoil(self, offset, data)
        return len(data)

    def zero(self, fd: int, extent: Extent) -> None:
        self.writes.append(extent)
        self.zeroed.append(extent)
        if self.spoil is None or len(self.writes) - 1 != self.at:
            return self.punch(fd, extent)
        return self.spoil(self, extent.offset, bytes(extent.size))

    def put(self, offset: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)


def dropped(disk: Disk, offset: int, data: bytes) -> None:
    """Nothing is written at all."""


def torn(disk: Disk, offset: int, data: bytes) -> None:
    disk.put(offset, data[: len(data) // 1024 * 512])


def with_a_flipped_bit(disk: Disk, offset: int, data: bytes) -> None:
    bad = bytearray(data)
    dice = random.Random(offset)
    bad[dice.randrange(len(bad))] ^= 1 << dice.randrange(8)
    disk.put(offset, bytes(bad))


def misplaced(disk: Disk, offset: int, data: bytes) -> None:
    """Written, but 512 bytes further on."""
    disk.put(offset + 512, data)


def with_a_sector_of_another_place(disk: Disk, offset: int, data: bytes) -> None:
    disk.put(offset, data[-512:] + data[512:])


def refused(disk: Disk, offset: int, data: bytes) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


SPOILS: dict[str, Spoil] = {
    "dropped": dropped,
    "torn": torn,
    "flipped": with_a_flipped_bit,
    "misplaced": misplaced,
    "other bytes": with_a_sector_of_another_place,
}


@dataclass
class World:
    template: Template
    used: tuple[Extent, ...]
    disk: Disk
    data: dict[Extent, bytes]

    def restore(self) -> None:
        self.disk.writes.clear()
        self.disk.zeroed.clear()
        for run in self.used:
            self.disk.put(BASE + run.offset, OLD * run.size)
        restore_volume(self.template, "root", self.disk.path, BASE, serial="T-7", lanes=1)

    def verify(self, mode: Verify, seed: int | None = None) -> int:
        done = verify_volume(
            self.template, "root", self.disk.path, BASE, mode, serial="T-7", seed=seed, lanes=1
        )
        return done.chunks_checked


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A volume with a little in each of its chunks: sectors, odd bytes, many runs, zeros."""
    # a chunk of each window, as if all were full
    with make_world(tmp_path_factory, span_levels=0) as found:
        yield found


@contextmanager
def make_world(
    tmp_path_factory: pytest.TempPathFactory, span_levels: int = chunks.SPAN_LEVELS
) -> Iterator[World]:
    dice = draw("readback")
    folder = tmp_path_factory.mktemp("readback")
    data: dict[Extent, bytes] = {}
    for number in range(CHUNKS):
        start = number * CHUNK_BYTES + dice.randrange(8) * 65536
        kind = number % 5
        sizes = {0: [8192], 1: [4096, 2048], 2: [1000, 3333], 3: [4096], 4: [1024] * 12}[kind]
        for place, size in enumerate(sizes):
            run = Extent(start + place * 16384, size)
            data[run] = bytes(size) if kind == 3 else dice.randbytes(size)
    used = tuple(sorted(data))
    source = folder / "source.img"
    source.touch()
    os.truncate(source, BASE + SIZE)
    with source.open("r+b") as file:
        for run, content in data.items():
            file.seek(BASE + run.offset)
            file.write(content)
    target = folder / "target.img"
    target.touch()
    os.truncate(target, SIZE + 2 * BASE)
    registry = FakeRegistry()
    with registry.serving() as url:
        client = make_client(url)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chunks, "SPAN_LEVELS", span_levels)
            captured = capture(client, VolumeSource(make_volume(SIZE), source, BASE, used))
        yield World(open_template(client, captured.digest), used, Disk(target), data)
        client.close()


@pytest.fixture
def world(made: World, monkeypatch: pytest.MonkeyPatch) -> World:
    disk = made.disk = Disk(made.disk.path)
    monkeypatch.setattr(os, "pwritev", disk.write)
    monkeypatch.setattr(block, "punch_hole", disk.zero)
    return made


def test_a_good_disk_gives_back_what_was_written(world: World) -> None:
    world.restore()
    assert world.verify(Verify.FULL) == CHUNKS
    assert 3 <= world.verify(Verify.SAMPLE) <= 2 + -(-CHUNKS // 20)
    assert len(world.disk.writes) >= CHUNKS
    assert len(world.disk.zeroed) == CHUNKS // 5
    with world.disk.path.open("rb") as file:
        for run, content in world.data.items():
            file.seek(BASE + run.offset)
            assert file.read(run.size) == content


@pytest.mark.parametrize("kind", SPOILS)
def test_a_full_read_back_finds_each_spoilt_write(world: World, kind: str) -> None:
    world.restore()
    writes = tuple(world.disk.writes)
    dice = draw(kind)
    every = kind in ("dropped", "flipped")
    chosen = range(len(writes)) if every else dice.sample(range(len(writes)), 20)
    cases = 0
    for number in chosen:
        where = writes[number]
        if kind == "other bytes" and not any(content_at(world, where)):
            continue  # of zeros, all sectors are the same: nothing is wrong
        world.disk.at, world.disk.spoil = number, SPOILS[kind]
        world.restore()
        chunk = (where.offset - BASE) // CHUNK_BYTES
        with pytest.raises(DiskError, match=rf"chunk {chunk} of root differs") as caught:
            world.verify(Verify.FULL)
        found = str(caught.value)
        assert f"{world.disk.path} (serial T-7) does not give back what was written at" in found
        offset = int(found.partition("written at ")[2].partition(":")[0])
        assert BASE + chunk * CHUNK_BYTES <= offset <= where.offset
        cases += 1
    assert cases >= 10
    tried(cases, f"writes that were {kind}")


def test_a_spoilt_write_of_a_chunk_of_many_windows_is_found(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_world(tmp_path_factory) as world:
        monkeypatch.setattr(os, "pwritev", world.disk.write)
        world.restore()
        assert world.verify(Verify.FULL) < 5
        writes = tuple(world.disk.writes)
        for number in draw("wide").sample(range(len(writes)), 20):
            if any(content_at(world, writes[number])):
                world.disk.at, world.disk.spoil = number, dropped
                world.restore()
                with pytest.raises(DiskError, match=r"chunk \d+ of root differs"):
                    world.verify(Verify.FULL)


def test_known_zeros_are_written_in_each_place_and_read_back(tmp_path: Path) -> None:
    """In more runs than go past the cache at once, one of them longer than any chunk's content."""
    mib = 1024**2
    places = [Extent((1 + 2 * at) * mib, mib) for at in range(20)]
    zeros = (*places, Extent(48 * mib, 10 * mib))
    used = tuple(sorted((*zeros, *(Extent(2 * at * mib, 4096) for at in range(20)))))
    source, target = tmp_path / "source.img", tmp_path / "target.img"
    source.write_bytes(bytes(BASE) + b"\x11" * 64 * mib)  # that they are zeros, the map says
    target.write_bytes(OLD * (64 * mib + 2 * BASE))
    volume = VolumeSource(make_volume(64 * mib), source, BASE, used, zeros=zeros)
    with FakeRegistry().serving() as url:
        client = make_client(url)
        template = open_template(client, capture(client, volume).digest)
        assert max(one.content_bytes for one in template.entries("root")[1]) > CHUNK_BYTES
        restore_volume(template, "root", target, BASE)
        verify_volume(template, "root", target, BASE, Verify.FULL)
        data = target.read_bytes()
        for run in used:
            wanted = bytes(run.size) if run in zeros else b"\x11" * run.size
            assert data[BASE + run.offset : BASE + run.end] == wanted
        assert data.count(OLD) == len(data) - sum(run.size for run in used)
        for run in (zeros[0], zeros[-2], zeros[-1]):
            bad = BASE + run.end - 1
            Disk(target).put(bad, b"x")
            with pytest.raises(DiskError, match="does not give back what was written") as caught:
                verify_volume(template, "root", target, BASE, Verify.FULL)
            offset = int(str(caught.value).partition("written at ")[2].partition(":")[0])
            assert 0 <= bad - offset < CHUNK_BYTES
            Disk(target).put(bad, bytes(1))
        client.close()


def test_zeros_that_were_never_made_are_found_wherever_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known to be zeros is no write but a word to the kernel: dropped, the old stays."""
    kib, mib = 1024, 1024**2
    places = [Extent((1 + 2 * at) * mib, 64 * kib) for at in range(16)]
    zeros = (*places, Extent(36 * mib, 9 * mib))
    size = 48 * mib
    used = tuple(sorted((*zeros, *(Extent(2 * at * mib, 4096) for at in range(18)))))
    source, target = tmp_path / "source.img", tmp_path / "target.img"
    source.write_bytes(b"\x11" * (BASE + size))
    target.touch()
    os.truncate(target, size + 2 * BASE)
    volume = VolumeSource(make_volume(size), source, BASE, used, zeros=zeros)
    with FakeRegistry().serving() as url:
        client = make_client(url)
        template = open_template(client, capture(client, volume).digest)
        disk = Disk(target)
        monkeypatch.setattr(os, "pwritev", disk.write)
        monkeypatch.setattr(block, "punch_hole", disk.zero)
        world = World(template, used, disk, {})
        world.restore()
        world.verify(Verify.FULL)
        made = tuple(disk.zeroed)
        assert sorted(made) == [Extent(BASE + run.offset, run.size) for run in zeros]
        for where in made:
            disk.at, disk.spoil = disk.writes.index(where), dropped
            world.restore()
            with pytest.raises(DiskError, match="does not give back what was written") as caught:
                world.verify(Verify.FULL)
            offset = int(str(caught.value).partition("written at ")[2].partition(":")[0])
            assert offset == where.offset
        client.close()
    tried(len(made), "zeros that were dropped")


def content_at(world: World, where: Extent) -> bytes:
    for run, content in world.data.items():
        start = where.offset - BASE - run.offset
        if 0 <= start < run.size:
            return content[start : start + where.size]
    raise AssertionError(where)


def test_a_sample_always_has_the_first_and_the_last_chunk(world: World) -> None:
    world.restore()
    windows = [(write.offset - BASE) // CHUNK_BYTES for write in world.disk.writes]
    for chunk in (0, CHUNKS - 1):
        number = windows.index(chunk)
        world.disk.at, world.disk.spoil = number, with_a_flipped_bit
        world.restore()
        for seed in range(20):
            with pytest.raises(DiskError, match=rf"chunk {chunk} of root differs"):
                world.verify(Verify.SAMPLE, seed)


def test_a_sample_finds_one_of_twenty(world: World) -> None:
    """With many seeds, each chunk is looked at about as often as it should be."""
    world.restore()
    middle = next(
        n for n, write in enumerate(world.disk.writes) if write.offset - BASE > 25 * CHUNK_BYTES
    )
    world.disk.at, world.disk.spoil = middle, dropped
    world.restore()
    found = 0
    for seed in range(200):
        try:
            world.verify(Verify.SAMPLE, seed)
        except DiskError:
            found += 1
    assert 2 <= found <= 30, "10 are to be expected"


def test_a_write_that_fails_is_named_by_its_place(world: World) -> None:
    world.restore()
    writes = tuple(world.disk.writes)
    for number in draw("refused").sample(range(len(writes)), 20):
        world.disk.at, world.disk.spoil = number, refused
        with pytest.raises(DiskError) as caught:
            world.restore()
        assert str(caught.value) == (
            f"cannot write {world.disk.path} (serial T-7) at {writes[number].offset}: "
            "Input/output error"
        )
        assert len(world.disk.writes) == number + 1, "nothing is written after that"
    tried(20, "writes that were refused")


def test_what_fails_only_at_the_sync_is_an_error_and_is_not_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel says it once; a second fsync would say that all is well."""
    synced: list[int] = []

    def sync(fd: int) -> None:
        synced.append(fd)
        if len(synced) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(DiskError, match=r"target.img \(serial T-7\) lost what was written: Input"):
        world.restore()
    assert len(synced) == 1


def test_reading_back_passes_the_cache(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole sectors are read with O_DIRECT; for the rest the cache is dropped before."""
    world.restore()
    seen: list[tuple[bool, bool]] = []
    dropped: list[int] = []

    def read(fd: int, buffers: list[memoryview], offset: int) -> int:
        direct = bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)
        sectors = offset % 512 == 0 and len(buffers[0]) % 512 == 0
        if dropped:  # before that, it is found out what the disk can do
            seen.append((direct, sectors))
        return really(fd, buffers, offset)

    really = os.preadv
    monkeypatch.setattr(os, "preadv", read)
    monkeypatch.setattr(os, "posix_fadvise", lambda *words: dropped.append(words[-1]))
    assert world.verify(Verify.FULL) == CHUNKS
    assert dropped == [os.POSIX_FADV_DONTNEED]
    assert (True, True) in seen
    assert (False, True) not in seen
    assert (False, False) in seen, "there are odd runs, too"
