"""A template's volume as a block device of a real kernel, and its files on other filesystems."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.errors import ChunkCorrupt, DiskError, Refused, ServerError, reasons
from agent.model.event import Happening, Progressed
from agent.model.layout import Content, Ext, Xfs
from agent.model.template import CHUNK_BYTES
from agent.store.body import Limits
from agent.store.registry import RegistryClient
from agent.store.target import RegistryTarget
from agent.store.template import Template, open_template
from agent.stream.capture import capture_template
from agent.stream.chunks import VolumeSource
from agent.stream.view import VolumeView, volume_device
from agent.system import block
from agent.system.command import Run
from agent.system.mount import mounted
from agent.tools.copy_files import copy_tree, finish_flags
from agent.units import MiB
from tests.contracts.fake_registry import FakeRegistry, Handler
from tests.contracts.stream_builders import make_client, make_config, make_volume, used_extents
from tests.contracts.stream_world import flipped
from tests.guest.conftest import sh
from tests.guest.trees import (
    BIG,
    MAKE,
    TARGET_BYTES,
    UUID,
    differences,
    flags_of,
    in_use,
    is_none_left,
    loop,
    make_tree,
    tree_of,
)

FULL = pytest.mark.full
"""Other tests of the short run write to these too."""
PATIENT = Limits(connect_s=10, read_s=30, window_s=30)
CONTENTS: dict[str, Content] = {
    "ext4": Ext(uuid=UUID, label="", block_bytes=4096, features=()),
    "xfs": Xfs(uuid=UUID, label="", block_bytes=4096),
}
SOURCE_OPTIONS = {"ext4": "ro,noload", "xfs": "ro,norecovery,nouuid"}
SOURCE_BYTES = 512 * MiB


@dataclass
class Captured:
    """A template of one filesystem, its registry, and what its tree was."""

    kind: str
    registry: FakeRegistry
    url: str
    client: RegistryClient
    digest: str
    tree: dict[str, tuple[object, ...]]

    @property
    def template(self) -> Template:
        return open_template(self.client, self.digest)


@pytest.fixture(scope="module", params=[pytest.param("ext4", marks=FULL), "xfs"])
def captured(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Captured]:
    kind: str = request.param
    sh("ip", "link", "set", "lo", "up")
    folder = tmp_path_factory.mktemp(f"source-{kind}")
    registry = FakeRegistry()
    with registry.serving() as url:
        client = make_client(url, limits=PATIENT)
        with loop(folder, "source.img", SOURCE_BYTES, *MAKE[kind]) as device:
            with mounted(Run(), device, folder / "mnt", kind, "rw") as top:
                make_tree(top)
                tree = tree_of(top)
            content = CONTENTS[kind]
            used = used_extents(device, content, SOURCE_BYTES)
            source = VolumeSource(
                make_volume(SOURCE_BYTES, content=content), device, 0, used, serial="SOURCE"
            )
            made = capture_template(
                RegistryTarget(client),
                make_config(source.volume),
                [source],
                tag="latest",
                pack_bytes=16 * MiB,
            )
        yield Captured(kind, registry, url, client, made.digest, tree)
        client.close()


@contextmanager
def viewed(
    captured: Captured, where: Path, *, block_bytes: int = 512
) -> Iterator[tuple[VolumeView, Path]]:
    """Yield the view of the captured volume and where it is mounted."""
    run, options = Run(), SOURCE_OPTIONS[captured.kind]
    with (
        volume_device(run, captured.template, "root", block_bytes) as (view, device),
        mounted(run, device, where, captured.kind, options) as top,
    ):
        yield view, top


@pytest.mark.parametrize(
    "kind", [pytest.param("ext4", marks=FULL), pytest.param("xfs", marks=FULL), "btrfs"]
)
def test_all_files_reach_a_smaller_filesystem(
    kind: str, captured: Captured, tmp_path: Path
) -> None:
    run = Run()
    heard: list[Happening] = []
    with (
        loop(tmp_path, "target.img", TARGET_BYTES[kind], *MAKE[kind]) as target,
        viewed(captured, tmp_path / "source") as (view, source),
    ):
        with mounted(run, target, tmp_path / "target", kind, "rw") as top:
            copied = copy_tree(run, source, top, heard.append)
            assert finish_flags(copied) == ()
        with mounted(run, target, tmp_path / "target", kind, "ro") as top:
            assert not differences(captured.tree, tree_of(top))
            assert (top / "sparse").stat().st_blocks * 512 < MiB
            assert (top / "swap").stat().st_blocks * 512 >= 4 * MiB
            if kind != "xfs":
                assert not [x for x in os.listxattr(top / "secret") if "SGI" in x]
            assert flags_of(top / "tool") == flags_of(top / "secret") == {"i"}
            assert flags_of(top / "swap") == {"a"}
            assert not flags_of(top / "big")
        assert view.statistics.chunks_fetched <= 2 * view.statistics.chunks
    last = heard[-1]
    assert isinstance(last, Progressed)
    assert last.progress.done_bytes == last.progress.total_bytes == copied.bytes > 28 * MiB
    assert is_none_left()


def test_a_listing_fetches_a_part(captured: Captured, tmp_path: Path) -> None:
    # XFS that was made on sectors of 512 is not mounted from larger ones.
    sector = 512 if captured.kind == "xfs" else 4096
    with viewed(captured, tmp_path / "source", block_bytes=sector) as (view, source):
        names = [path.lstat() for path in source.rglob("*")]
        assert len(names) > 300
        statistics = view.statistics
        # XFS spreads its inodes over all of its groups
        most = statistics.chunks / 2 if captured.kind == "ext4" else statistics.chunks
        assert 0 < statistics.chunks_fetched < most, statistics
        assert block.is_read_only(Path("/dev") / in_use()[0])
        assert block.sector_bytes(Path("/dev") / in_use()[0]) == sector


def test_a_target_too_small_is_refused_before_the_first_file(
    captured: Captured, tmp_path: Path
) -> None:
    run = Run()
    with (
        loop(tmp_path, "target.img", 24 * MiB, *MAKE["ext4"]) as target,
        viewed(captured, tmp_path / "source") as (_, source),
        mounted(run, target, tmp_path / "target", "ext4", "rw") as top,
    ):
        with pytest.raises(Refused, match=r"the files need \d+\.\d MiB, the new filesystem has"):
            copy_tree(run, source, top)
        assert [path.name for path in top.iterdir()] == ["lost+found"]


def test_a_flipped_bit_is_an_io_error_and_its_reason(captured: Captured, tmp_path: Path) -> None:
    registry, run = captured.registry, Run()
    template = captured.template
    with VolumeView(template, "root") as view:
        wanted = BIG[10 * MiB : 10 * MiB + 512]
        place = next(
            at + behind
            for at in range(0, SOURCE_BYTES, CHUNK_BYTES)
            if (behind := view.read(at, CHUNK_BYTES).find(wanted)) >= 0
        )
    (entry,) = (
        entry
        for entry in template.entries("root")[1]
        if any(offset <= place < offset + size for offset, size in entry.extents)
    )
    pack = template.data_of("root").packs[entry.pack]
    good = registry.blobs[pack.digest]
    registry.blobs[pack.digest] = flipped(good, entry.offset + entry.stored_bytes // 2, 3)
    try:
        with (
            loop(tmp_path, "target.img", 320 * MiB, *MAKE["ext4"]) as target,
            mounted(run, target, tmp_path / "target", "ext4", "rw") as top,
        ):
            with (
                pytest.raises(DiskError, match="could not copy the files: error reading") as info,
                viewed(captured, tmp_path / "source") as (_, source),
            ):
                copy_tree(run, source, top)
            found = reasons(info.value)
            assert "big" in found[0]
            assert f"chunk {entry.number} (" in found[1]
            assert pack.digest[:19] in found[1]
            assert captured.url in found[1]
            assert is_none_left()
            # A caller that reads and ignores the EIO still hears of it at the end.
            with (
                pytest.raises(ChunkCorrupt),
                viewed(captured, tmp_path / "source") as (_, source),
                pytest.raises(OSError, match=os.strerror(errno.EIO)),
            ):
                (source / "big").read_bytes()
    finally:
        registry.blobs[pack.digest] = good
    assert is_none_left()


@contextmanager
def lying(registry: FakeRegistry, lie: Callable[[Handler], bool]) -> Iterator[None]:
    registry.lie = lie
    try:
        yield
    finally:
        registry.lie = None


def test_a_server_that_goes_away_ends_the_copy(captured: Captured, tmp_path: Path) -> None:
    def gone(handler: Handler) -> bool:
        handler.close_connection = True  # hangs up without a word
        return True

    run = Run()
    with (
        loop(tmp_path, "target.img", 320 * MiB, *MAKE["ext4"]) as target,
        mounted(run, target, tmp_path / "target", "ext4", "rw") as top,
        pytest.raises(DiskError) as info,
        viewed(captured, tmp_path / "source") as (_, source),
        lying(captured.registry, gone),
    ):
        copy_tree(run, source, top)
    assert isinstance(info.value.__cause__, ServerError), reasons(info.value)
    assert is_none_left()
