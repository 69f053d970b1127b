"""A server's own files on btrfs do not enter a template, and no byte of its disk is written."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.identity.survey import part_of, survey
from agent.model.found import FoundContent
from agent.model.layout import Btrfs
from agent.source.left_out import left_out
from agent.source.open import opened_system
from agent.system.mount import SOURCE_OPTIONS, mounted_system
from agent.tools.btrfs_map import used_extents
from tests.guest.conftest import sh
from tests.guest.layouts import btrfs_of_two, btrfs_subvolumes
from tests.guest.whole_way import bench
from tests.guest.workbench import RUN, Bench, Source, drive_of, fill, mounted_all

SECRETS = {
    # in the trees; in a block of its own; in a subvolume inside the mounted one
    "etc/ssh/ssh_host_ed25519_key": b"a small secret, inline\n",
    "etc/ssh/ssh_host_rsa_key": b"a large secret\n" * 600,
    "var/lib/systemd/random-seed": b"a secret below\n",
}
__all__ = ["bench"]


@pytest.mark.parametrize(
    "made", [btrfs_subvolumes, pytest.param(btrfs_of_two, marks=pytest.mark.full)]
)
def test_secrets_on_btrfs_are_not_captured(
    made: Callable[[Bench], Source], bench: Bench, tmp_path: Path
) -> None:
    source = made(bench)
    where = tmp_path / "mounted"
    fill(source, where)
    with mounted_all(source.mounts, where):
        (where / "var/lib").mkdir(parents=True)
        sh("btrfs", "subvolume", "create", where / "var/lib/systemd")
        for path, secret in SECRETS.items():
            (where / path).parent.mkdir(parents=True, exist_ok=True)
            (where / path).write_bytes(secret)
            (where / path).chmod(0o600)
    before = [hashlib.sha256(disk.read_bytes()).digest() for disk in source.disks]
    drives = {f"disk{number}": drive_of(disk) for number, disk in enumerate(source.disks)}
    with opened_system(RUN, drives) as found:
        seen = survey(RUN, found)
        assert {file.path for file in seen.redacted} >= {f"/{path}" for path in SECRETS}
        assert seen.unfit == ()
        with left_out(RUN, found, seen) as emptied:
            (was,) = [one for one in found.contents if isinstance(one.content, Btrfs)]
            (now,) = [one for one in emptied.contents if one.on == was.on]
            assert now.covered
            assert now.path != was.path
            assert not {now.path, *now.others} & {was.path, *was.others}
            held, left = used_bytes(was), used_bytes(now)
            for secret in SECRETS.values():
                assert secret in held
                assert secret[:14] not in left
            if not now.others:  # else it would find the devices below as well
                sh("btrfs", "check", "--readonly", now.path)
            with mounted_system(RUN, where, [part_of(now, "/", "@rootfs")], SOURCE_OPTIONS):
                for path in SECRETS:
                    assert (where / path).read_bytes() == b""
                    assert (where / path).stat().st_mode & 0o777 == 0o600
                assert (where / "etc/hostname").read_text() == "golden\n"
        assert not list(Path("/dev/mapper").glob("metalcast-emptied-*"))
    assert [hashlib.sha256(disk.read_bytes()).digest() for disk in source.disks] == before


def used_bytes(one: FoundContent) -> bytes:
    """Return what is captured of a btrfs, all of its devices in one."""
    found = []
    devices = {Path(path) for path in (one.path, *one.others)}
    for device in sorted(devices):
        with device.open("rb") as file:
            for extent in used_extents(device, [*(devices - {device})]):
                file.seek(extent.offset)
                found.append(file.read(extent.size))
    return b"".join(found)
