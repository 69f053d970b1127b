"""What a store keeps, forgets and finds again after it was cut off anywhere."""

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from agent.model.template import CONFIG_TYPE, MANIFEST_TYPE, PACK_TYPE
from netboot import store_content
from netboot.store import Store
from netboot.store_content import Limits
from netboot.store_errors import (
    BlobTooLarge,
    BlobUnknown,
    ManifestUnknown,
    StoreBusy,
    StoreError,
    TooManyUploads,
    UploadOutOfOrder,
    UploadSuperseded,
    UploadUnknown,
)

HOUR_S = 3600.0


class Clock:
    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


def digest_of(data: bytes) -> str:
    return f"sha256:{sha256(data).hexdigest()}"


def open_store(root: Path, clock: Clock | None = None) -> Store:
    limits = Limits(blob_bytes=1000, reserve_bytes=0, uploads=4)
    return Store(root, limits=limits, now=clock or Clock())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    made = open_store(tmp_path, clock)
    yield made
    made.close()


def push(store: Store, repository: str, data: bytes) -> str:
    upload = store.begin_upload(repository)
    writer = store.write_upload(upload, 0, len(data))
    writer.write([data])
    writer.close()
    store.finish_upload(upload, digest_of(data))
    return digest_of(data)


def push_template(store: Store, repository: str, tag: str, *layers: bytes) -> str:
    def link(kind: str, data: bytes) -> dict[str, object]:
        return {"mediaType": kind, "digest": push(store, repository, data), "size": len(data)}

    document = {
        "schemaVersion": 2,
        "config": link(CONFIG_TYPE, b"{}"),
        "layers": [link(PACK_TYPE, layer) for layer in layers],
    }
    data = json.dumps(document).encode()
    return store.put_manifest(repository, tag, MANIFEST_TYPE, data).digest


def files(store: Store) -> set[str]:
    return {f"sha256:{path.name}" for path in store.root.glob("blobs/sha256/*/*")}


def test_a_template_is_listed_and_found(store: Store) -> None:
    digest = push_template(store, "web", "v1", b"one", b"two", b"one")
    (found,) = store.templates()
    assert (found.repository, found.tag, found.digest) == ("web", "v1", digest)
    size_bytes = len(store.manifest("web", "v1").data) + len(b"{}onetwo")
    assert (found.size_bytes, found.config) == (size_bytes, None)
    assert store.resolve("web:v1") == store.resolve(f"web@{digest}") == digest
    with pytest.raises(ManifestUnknown, match="no template web:latest in the store"):
        store.resolve("web")


def test_a_template_goes_with_its_last_tag(store: Store) -> None:
    digest = push_template(store, "web", "v1", b"one")
    assert push_template(store, "web", "v2", b"one") == digest
    store.delete_template("web:v1")
    assert store.resolve("web:v2") == digest
    store.delete_template("web:v2")
    with pytest.raises(ManifestUnknown):
        store.resolve(f"web@{digest}")


def test_only_one_process_has_the_store(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreBusy, match="another process uses"):
        open_store(tmp_path)


# what is collected


def test_what_a_deleted_template_had_is_freed_after_the_grace(store: Store, clock: Clock) -> None:
    push_template(store, "web", "v1", b"one", b"shared")
    kept = push_template(store, "web", "v2", b"shared")
    store.delete_template("web:v1")
    assert store.gc(HOUR_S).blobs == 0
    clock.ahead_s = 2 * HOUR_S
    freed = store.gc(HOUR_S)
    assert freed.blobs == 2  # the layer and the manifest
    assert files(store) == {kept, digest_of(b"{}"), digest_of(b"shared")}
    assert store.find_damage(deep=True) == ()


def test_a_capture_under_way_loses_nothing(store: Store, clock: Clock) -> None:
    first = push(store, "web", b"first pack")
    clock.ahead_s = 5 * HOUR_S
    store.begin_upload("web")
    clock.ahead_s = 5.5 * HOUR_S
    os.utime(store.uploads()[0].path, (clock(), clock()))
    store.gc(HOUR_S)
    assert store.blob("web", first)


def test_a_repository_pushed_to_a_while_ago_loses_nothing(store: Store, clock: Clock) -> None:
    first = push(store, "web", b"first pack")
    clock.ahead_s = 0.9 * HOUR_S
    push(store, "web", b"second pack")
    clock.ahead_s = 1.5 * HOUR_S
    store.gc(HOUR_S)
    assert store.blob("web", first)


def test_a_busy_repository_loses_nothing(store: Store, clock: Clock) -> None:
    first = push(store, "web", b"first pack")
    clock.ahead_s = 9 * HOUR_S
    store.gc(HOUR_S, keep=["web"])
    assert store.blob("web", first)
    store.gc(HOUR_S)
    with pytest.raises(BlobUnknown):
        store.blob("web", first)
    assert files(store) == set()


def test_a_blob_that_was_asked_for_is_spared(store: Store, clock: Clock) -> None:
    first = push(store, "web", b"a pack that somebody counts on")
    clock.ahead_s = 9 * HOUR_S
    store.blob("web", first, touch=True)
    store.gc(HOUR_S)
    assert store.blob("web", first)


def test_stale_uploads_are_swept_and_live_ones_stay(store: Store, clock: Clock) -> None:
    store.begin_upload("web")
    busy = store.begin_upload("web")
    writer = store.write_upload(busy, 0, None)
    clock.ahead_s = 2 * HOUR_S
    assert store.sweep_uploads(HOUR_S) == 1
    assert store.uploads() == (busy,)
    writer.close()
    assert store.sweep_uploads(HOUR_S) == 1
    assert list(store.root.glob("uploads/*")) == []


def test_damage_is_found(store: Store) -> None:
    digest = push(store, "web", b"as it was")
    path = store.blob("web", digest).path
    path.chmod(0o644)
    path.write_bytes(b"as it isn")
    assert store.find_damage() == ()
    assert store.find_damage(deep=True) == (f"{digest} is damaged",)
    path.write_bytes(b"short")
    assert store.find_damage() == (f"{digest} has 5 bytes, not 9",)
    path.unlink()
    assert store.find_damage() == (f"{digest} is lost",)
    push(store, "web", b"as it was")  # pushing it again mends it
    assert store.find_damage(deep=True) == ()


# uploads


def test_one_writer_at_a_time(store: Store) -> None:
    upload = store.begin_upload("web")
    first = store.write_upload(upload, 0, None)
    first.write([b"ab"])
    with pytest.raises(UploadOutOfOrder):
        store.write_upload(upload, 1, None)
    first.write([b"c"])  # who asked for the wrong place took nothing over
    second = store.write_upload(upload, 3, None)
    with pytest.raises(UploadSuperseded):
        first.write([b"x"])
    second.write([b"d"])
    first.close()
    second.close()
    store.finish_upload(upload, digest_of(b"abcd"))
    assert store.small_blob("web", digest_of(b"abcd")) == b"abcd"


def test_no_upload_outgrows_its_limit(store: Store) -> None:
    upload = store.begin_upload("web")
    with pytest.raises(BlobTooLarge):
        store.write_upload(upload, 0, 1001)
    writer = store.write_upload(upload, 0, None)
    with pytest.raises(BlobTooLarge):
        writer.write([b"x" * 600, b"x" * 401])
    writer.close()
    assert upload.offset == 0


def test_there_are_only_so_many_uploads(store: Store) -> None:
    for _ in range(4):
        store.begin_upload("web")
    with pytest.raises(TooManyUploads):
        store.begin_upload("web")


# cut off anywhere


class Cut(BaseException):
    """The process ends here: nothing that comes after it runs."""


@pytest.mark.parametrize("step", ["link", "replace", "sync", "catalog", "unlink"])
def test_a_publication_cut_off_at_any_step_is_whole_or_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def cut(*_: object, **__: object) -> None:
        raise Cut

    store = open_store(tmp_path)
    neighbour = push(store, "other", b"the same bytes")  # a link of two repositories
    upload = store.begin_upload("web")
    writer = store.write_upload(upload, 0, None)
    writer.write([b"the same bytes"])
    writer.close()
    where = {
        "link": (os, "link"),
        "replace": (Path, "replace"),
        "sync": (store_content, "sync_directory"),
        "catalog": (store.catalog, "add_blob"),
        "unlink": (Path, "unlink"),
    }
    with monkeypatch.context() as patched:
        patched.setattr(*where[step], cut)
        with pytest.raises(Cut):
            store.finish_upload(upload, neighbour)
    store.close()

    again = open_store(tmp_path)
    assert again.find_damage(deep=True) == ()
    try:
        again.blob("web", neighbour)
    except BlobUnknown:
        assert step == "link"
        found = again.upload("web", upload.id)
        assert found.offset == len(b"the same bytes")
        again.finish_upload(found, neighbour)
    assert again.small_blob("web", neighbour) == b"the same bytes"
    assert again.uploads() == ()
    assert list(tmp_path.glob("uploads/*")) == []
    again.close()


def test_an_upload_goes_on_after_a_restart(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    upload = store.begin_upload("web")
    writer = store.write_upload(upload, 0, None)
    writer.write([b"be", b"fore"])
    store.close()
    (tmp_path / "uploads" / "junk.manifest").write_bytes(b"x")

    again = open_store(tmp_path)
    found = again.upload("web", upload.id)
    writer = again.write_upload(found, 6, None)
    writer.write([b", after"])
    writer.close()
    again.finish_upload(found, digest_of(b"before, after"))
    assert list(tmp_path.glob("uploads/*")) == []
    again.close()


def test_an_upload_whose_file_is_gone_is_gone(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    upload = store.begin_upload("web")
    upload.path.unlink()
    store.close()
    again = open_store(tmp_path)
    with pytest.raises(UploadUnknown):
        again.upload("web", upload.id)
    again.close()


def test_a_newer_catalog_is_not_touched(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    with sqlite3.connect(tmp_path / "store.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="is of version 99; this release reads 1"):
        open_store(tmp_path)
