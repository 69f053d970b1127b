"""A server's own files on btrfs do not enter a template, and no byte of its disk is written."""

import hashlib
from pathlib import Path

from agent.identity.survey import survey
from agent.source.left_out import left_out
from agent.source.open import opened_system
from agent.tools.btrfs_map import used_extents
from tests.guest.conftest import sh
from tests.guest.layouts import RUN, Bench, btrfs_subvolumes, drive_of, fill, mounted_all
from tests.guest.whole_way import bench

SECRETS = {
    # in the trees; in a block of its own; in a subvolume inside the mounted one
    "etc/ssh/ssh_host_ed25519_key": b"a small secret, inline\n",
    "etc/ssh/ssh_host_rsa_key": b"a large secret\n" * 600,
    "var/lib/systemd/random-seed": b"a secret below\n",
}
__all__ = ["bench"]


def test_secrets_on_btrfs_are_not_captured(bench: Bench, tmp_path: Path) -> None:
    source = btrfs_subvolumes(bench)
    where = tmp_path / "mounted"
    fill(source, where)
    with mounted_all(source.mounts, where):
        (where / "var/lib").mkdir(parents=True)
        sh("btrfs", "subvolume", "create", where / "var/lib/systemd")
        for path, secret in SECRETS.items():
            (where / path).parent.mkdir(parents=True, exist_ok=True)
            (where / path).write_bytes(secret)
            (where / path).chmod(0o600)
    (disk,) = source.disks
    before = hashlib.sha256(disk.read_bytes()).digest()
    with opened_system(RUN, {"disk0": drive_of(disk)}) as found:
        seen = survey(RUN, found)
        assert {file.path for file in seen.redacted} >= {f"/{path}" for path in SECRETS}
        assert seen.unfit == ()
        with left_out(RUN, found, seen) as emptied:
            (was,) = [one for one in found.contents if one.what == "btrfs"]
            (now,) = [one for one in emptied.contents if one.on == was.on]
            assert now.covered
            assert now.path != was.path
            held, left = used_bytes(Path(was.path)), used_bytes(Path(now.path))
            for secret in SECRETS.values():
                assert secret in held
                assert secret[:14] not in left
            sh("btrfs", "check", "--readonly", now.path)
            root = source.mounts[0]
            sh("mount", "-o", f"{root.options},ro,rescue=nologreplay", now.path, where)
            try:
                for path in SECRETS:
                    assert (where / path).read_bytes() == b""
                    assert (where / path).stat().st_mode & 0o777 == 0o600
                assert (where / "etc/hostname").read_text() == "golden\n"
            finally:
                sh("umount", where)
        assert not list(Path("/dev/mapper").glob("metalcast-emptied-*"))
    assert hashlib.sha256(disk.read_bytes()).digest() == before


def used_bytes(device: Path) -> bytes:
    """Return what is captured of a btrfs, all in one."""
    found = []
    with device.open("rb") as file:
        for extent in used_extents(device):
            file.seek(extent.offset)
            found.append(file.read(extent.size))
    return b"".join(found)
