"""A capture into a folder of this machine: no server, and the same template."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import DiskError, ServerError
from agent.model.template import CHUNK_BYTES
from agent.store.layout import LayoutFolder
from agent.store.registry import RegistryClient
from agent.store.target import FolderTarget, RegistryTarget
from agent.store.template import open_template
from agent.store.transfer import copy_template
from agent.stream.capture import Captured, capture_template
from agent.stream.chunks import VolumeSource
from agent.stream.restore import restore_volume
from agent.units import Extent, MiB
from tests.contracts.registries import netboot
from tests.contracts.stream_builders import BASE, make_config, make_source, make_volume

SEED = 5


def data_of(size: int = 21 * MiB) -> bytearray:
    return bytearray(random.Random(SEED).randbytes(size // 2) + bytes(size // 2))


def capture(folder: Path, source: VolumeSource, tag: str = "latest", **more: object) -> Captured:
    target = FolderTarget(LayoutFolder(folder))
    with target.at_work():
        return capture_template(
            target,
            make_config(source.volume),
            [source],
            tag=tag,
            pack_bytes=8 * MiB,
            **more,  # type: ignore[arg-type]
        )


def restored(folder: Path, reference: str, size: int, place: Path) -> bytes:
    place.write_bytes(bytes(size))
    restore_volume(open_template(LayoutFolder(folder), reference), "root", place, 0)
    return place.read_bytes()


def test_what_was_captured_is_restored(tmp_path: Path) -> None:
    data = data_of()
    folder = tmp_path / "stick"
    done = capture(folder, make_source(tmp_path, bytes(data)))
    assert restored(folder, "latest", len(data), tmp_path / "target") == data
    assert restored(folder, done.digest, len(data), tmp_path / "target") == data
    listed = json.loads((folder / "index.json").read_bytes())["manifests"]
    assert [one["digest"] for one in listed] == [done.digest]
    assert not list((folder / "blobs/sha256").glob(".*"))


def test_it_is_the_template_that_a_registry_would_have(tmp_path: Path) -> None:
    data = data_of()
    source = make_source(tmp_path, bytes(data))
    mine = capture(tmp_path / "stick", source)
    with netboot(tmp_path) as url:
        target = RegistryTarget(RegistryClient(url, "web"))
        other = capture_template(
            target, make_config(source.volume), [source], tag="latest", pack_bytes=8 * MiB
        )
        assert mine.digest == other.digest
        moved = copy_template(LayoutFolder(tmp_path / "stick"), "latest", target, "again")
        assert moved.moved_bytes == 0


def test_what_is_known_to_be_zeros_is_not_read_and_is_zeros_again(tmp_path: Path) -> None:
    data = random.Random(SEED).randbytes(12 * MiB)
    zeros = (Extent(CHUNK_BYTES, CHUNK_BYTES),)  # a lie, to see that nobody looks
    capture(tmp_path / "stick", replace(make_source(tmp_path, data), zeros=zeros))
    wanted = data[:CHUNK_BYTES] + bytes(CHUNK_BYTES) + data[2 * CHUNK_BYTES :]
    assert restored(tmp_path / "stick", "latest", len(data), tmp_path / "target") == wanted


def test_a_second_capture_takes_over_what_the_folder_has(tmp_path: Path) -> None:
    data = data_of()
    folder = tmp_path / "stick"
    first = capture(folder, make_source(tmp_path, bytes(data)))
    data[CHUNK_BYTES : CHUNK_BYTES + 9] = b"something"
    parent = open_template(LayoutFolder(folder), first.digest)
    second = capture(folder, make_source(tmp_path, bytes(data)), "next", parent=parent)
    assert second.uploaded_bytes < first.uploaded_bytes // 2
    assert restored(folder, "next", len(data), tmp_path / "target") == data


def test_a_capture_that_fails_leaves_nothing_listed_and_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "stick"
    short = tmp_path / "short.img"
    short.write_bytes(bytes(BASE) + bytes(data_of(9 * MiB)))
    source = make_source(tmp_path, bytes(data_of()))
    lost = VolumeSource(make_volume(21 * MiB), short, BASE, source.used)
    with pytest.raises(DiskError, match="too soon"):
        capture(folder, lost)
    assert not (folder / "index.json").exists()
    assert not list((folder / "blobs/sha256").iterdir())


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "stick"
    folder.mkdir()
    (folder / "holiday.jpg").write_bytes(b"me")
    with pytest.raises(ServerError, match="not empty"):
        capture(folder, make_source(tmp_path, bytes(data_of())))
    assert [one.name for one in folder.iterdir()] == ["holiday.jpg"]
