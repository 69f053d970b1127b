"""The power fails while a template is pushed: whatever the disk holds then is a whole store."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from agent.model.template import CONFIG_TYPE, MANIFEST_TYPE, PACK_TYPE
from agent.units import MiB
from netboot.store import Store
from netboot.store_content import Limits
from netboot.store_errors import UploadUnknown
from tests.conftest import cannot_run
from tests.harness.powercut import State, daemon, epochs, recorded, states

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]
LIMITS = Limits(reserve_bytes=0)
PACKS = tuple(bytes([number]) * 150_000 for number in range(1, 4))


def digest_of(data: bytes) -> str:
    return f"sha256:{sha256(data).hexdigest()}"


@contextmanager
def mounted(disk: Path, where: Path) -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", disk, where], check=True, capture_output=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


def push(store: Store, data: bytes) -> dict[str, object]:
    upload = store.begin_upload("web")
    for at in range(0, len(data), 60_000):
        writer = store.write_upload(upload, at, None)
        writer.write([data[at : at + 60_000]])
        writer.close()
    store.finish_upload(upload, digest_of(data))
    return {"digest": digest_of(data), "size": len(data)}


def push_template(store: Store, log: Path) -> dict[str, int]:
    """Return each digest that was acknowledged, with the flushes that were done by then."""
    acknowledged: dict[str, int] = {}

    def note(digest: object) -> None:
        acknowledged[str(digest)] = sum(1 for _ in epochs(log)) - 1

    links = []
    for data in (b"{}", *PACKS):
        links.append(push(store, data))
        note(links[-1]["digest"])
    document = {
        "schemaVersion": 2,
        "config": {"mediaType": CONFIG_TYPE, **links[0]},
        "layers": [{"mediaType": PACK_TYPE, **link} for link in links[1:]],
    }
    data = json.dumps(document).encode()
    note(store.put_manifest("web", "v1", MANIFEST_TYPE, data).digest)
    store.begin_upload("web")
    return acknowledged


def write_out(state: State, disk: Path) -> None:
    subprocess.run(["cp", "--sparse=always", state.durable, disk], check=True)
    with disk.open("r+b") as file, state.log.open("rb") as log:
        for write in state.writes:
            log.seek(write.log_offset)
            file.seek(write.offset)
            file.write(bytes(write.size) if write.is_discard else log.read(write.size))


def check_store(root: Path, needed: set[str]) -> int:
    """Fail unless the store is whole and has what it must; return how many templates it has."""
    store = Store(root, limits=LIMITS)
    try:
        assert store.find_damage(deep=True) == ()
        assert needed <= set(store.catalog.contents())
        for upload in store.uploads():
            assert upload.offset <= max(map(len, PACKS))
        found = store.templates()
        for template in found:
            for pack in PACKS:
                assert store.blob(template.repository, digest_of(pack)).path.exists()
        store.gc(grace_s=0)
        held = {f"sha256:{path.name}" for path in root.glob("blobs/sha256/*/*")}
        assert held == set(store.catalog.contents())
        with pytest.raises(UploadUnknown):
            store.upload("web", "never-begun")
        return len(found)
    finally:
        store.close()


def test_the_store_survives_every_power_cut(tmp_path: Path) -> None:
    if why := daemon():
        cannot_run(why)
    disk, before, log = tmp_path / "disk", tmp_path / "before", tmp_path / "log"
    with disk.open("wb") as file:
        file.truncate(24 * MiB)
    subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0", disk], check=True)
    with mounted(disk, tmp_path / "mnt") as root:
        Store(root / "store", limits=LIMITS).close()  # a server that was set up before
    shutil.copyfile(disk, before)
    with (
        recorded(disk, log, tmp_path / "node") as node,
        mounted(node, tmp_path / "mnt") as root,
    ):
        store = Store(root / "store", limits=LIMITS)
        acknowledged = push_template(store, log)
        store.close()
    assert max(acknowledged.values()) > min(acknowledged.values()) > 0

    count = 0
    seen: set[int] = set()
    for state in states(before, log, some=2, at_most=3):
        if state.name.endswith("torn") and state.writes[-1].size <= 2048:
            continue  # a disk writes 4 KiB whole, and ext4 counts on it for its superblock
        count += 1
        needed = {digest for digest, epoch in acknowledged.items() if epoch <= state.epoch}
        write_out(state, tmp_path / "state")
        with mounted(tmp_path / "state", tmp_path / "mnt") as root:
            try:
                seen.add(check_store(root / "store", needed))
            except BaseException as error:
                error.add_note(f"{state.name}: {len(needed)} acknowledged")
                raise
    assert seen == {0, 1}
    assert count > 100
