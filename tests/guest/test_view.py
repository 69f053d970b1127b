"""A template's volume as a block device of a real kernel, and its files on other filesystems."""

import errno
import hashlib
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.errors import AgentError, ChunkCorrupt, DiskError, Refused, ServerError, reasons
from agent.model.event import Happening, Progressed
from agent.model.layout import Content, Ext, Xfs
from agent.model.template import CHUNK_BYTES
from agent.report import silent
from agent.store.body import Limits
from agent.store.registry import RegistryClient
from agent.store.template import Template, open_template
from agent.stream.capture import capture_template
from agent.stream.chunks import VolumeSource
from agent.stream.view import VolumeView
from agent.system import block
from agent.system.command import Run
from agent.system.mount import mounted
from agent.system.nbd import attached
from agent.tools.copy_files import copy_tree
from agent.tools.subvolumes import copy_subvolumes, find_subvolumes
from agent.units import MiB
from tests.contracts.fake_registry import FakeRegistry, Handler
from tests.contracts.stream_builders import make_client, make_config, make_volume, used_extents
from tests.contracts.stream_world import flipped
from tests.guest.conftest import sh

PATIENT = Limits(connect_s=10, read_s=30, window_s=30)
UUID = "ce3cc2af-727f-4b57-b60d-5d98c0dda39f"
CONTENTS: dict[str, Content] = {
    "ext4": Ext(uuid=UUID, label="", block_bytes=4096, features=()),
    "xfs": Xfs(uuid=UUID, label="", block_bytes=4096),
}
MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-U", UUID),
    "xfs": ("mkfs.xfs", "-q", "-m", f"uuid={UUID}"),
    "btrfs": ("mkfs.btrfs", "-q"),
}
SOURCE_OPTIONS = {"ext4": "ro,noload", "xfs": "ro,norecovery,nouuid"}
SOURCE_BYTES = 512 * MiB
TARGET_BYTES = {"ext4": 160 * MiB, "xfs": 320 * MiB, "btrfs": 256 * MiB}
BIG = random.Random(1).randbytes(20 * MiB)
# user::rw-, user:1000:rw-, group::r--, mask::rw-, other::---
ACL = bytes.fromhex(
    "02000000"
    "01000600ffffffff" "02000600e8030000" "04000400ffffffff" "10000600ffffffff" "20000000ffffffff"
)  # fmt: skip
# cap_net_bind_service=ep, revision 2.
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


def make_tree(top: Path) -> None:
    """Fill `top` with one of everything that a copy can lose."""
    draw = random.Random(2)
    for number in range(300):
        folder = top / f"d{number % 17}"
        folder.mkdir(exist_ok=True)
        (folder / f"f{number}").write_bytes(draw.randbytes(draw.randrange(60_000)))
    (top / "big").write_bytes(BIG)
    with (top / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(150 * MiB)
        file.write(b"end")
    (top / "swap").write_bytes(bytes(4 * MiB))
    names = top / "names"
    names.mkdir()
    for name in (b"not-utf8-\xff\xfe", b"new\nline", b"-rf", b" ", b"x" * 255, b"'\"$(id)"):
        (names / os.fsdecode(name)).write_bytes(name)
    os.link(top / "big", names / "big-again")
    os.link(top / "d1" / "f1", top / "d2" / "linked")
    (top / "link").symlink_to("nowhere/at all")
    os.setxattr(top / "link", "security.selinux", b"a:b:c:s1\0", follow_symlinks=False)
    os.setxattr(top / "link", "trusted.note", b"on a link", follow_symlinks=False)
    os.utime(top / "link", ns=(1, 1_234_567_890_123_456_789), follow_symlinks=False)
    os.link(top / "link", names / "link-again", follow_symlinks=False)
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "disk", stat.S_IFBLK | 0o660, os.makedev(8, 1))
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chown(top / "fifo", 33, 44)
    tool = top / "tool"
    tool.write_bytes(b"#!/bin/true\n")
    os.chown(tool, 4_000_000_000, 1000)
    tool.chmod(0o6755)
    os.setxattr(tool, "security.capability", CAPABILITY)
    os.setxattr(tool, "security.selinux", b"system_u:object_r:bin_t:s0\0")
    os.setxattr(tool, "user.comment", bytes(range(256)))
    os.setxattr(tool, "trusted.overlay.opaque", b"y")
    secret = top / "secret"
    secret.mkdir(mode=0o700)
    os.setxattr(secret, "system.posix_acl_access", ACL)
    os.setxattr(secret, "system.posix_acl_default", ACL)
    (secret / "inherits").write_bytes(b"acl of the folder")
    (secret / "none").touch()
    os.removexattr(secret / "none", "system.posix_acl_access")
    (secret / "none").chmod(0o000)
    (top / "empty").mkdir(mode=0o1777)
    sh("chattr", "+i", tool)
    sh("chattr", "+a", top / "swap")
    sh("chattr", "+i", secret)
    for folder in (top / "names", top / "empty", top):
        os.utime(folder, ns=(5, 1_111_111_111_000_000_001))


def tree_of(top: Path) -> dict[str, tuple[object, ...]]:
    """Return every fact of each path below `top`, `lost+found` left out."""
    found: dict[str, tuple[object, ...]] = {}
    first: dict[tuple[int, int], str] = {}
    for path in sorted([top, *top.rglob("*")]):
        if path.name == "lost+found":
            continue
        name = str(path.relative_to(top))
        state = path.lstat()
        kind = stat.S_IFMT(state.st_mode)
        facts: list[object] = [oct(state.st_mode), state.st_uid, state.st_gid, state.st_mtime_ns]
        for xattr in sorted(os.listxattr(path, follow_symlinks=False)):
            if not xattr.startswith("trusted.SGI_ACL_"):  # XFS shows ACLs a second time as these
                facts += [xattr, os.getxattr(path, xattr, follow_symlinks=False)]
        if kind != stat.S_IFDIR:
            same_as = first.setdefault((state.st_dev, state.st_ino), name)
            facts += [state.st_size, state.st_nlink, same_as]
        if kind == stat.S_IFREG:
            facts.append(hashlib.sha256(path.read_bytes()).hexdigest())
        elif kind == stat.S_IFLNK:
            facts.append(str(path.readlink()))
        elif kind in (stat.S_IFBLK, stat.S_IFCHR):
            facts.append(state.st_rdev)
        found[name] = tuple(facts)
    return found


def differences(one: dict[str, tuple[object, ...]], two: dict[str, tuple[object, ...]]) -> str:
    return "\n".join(
        f"{name!r}: {one.get(name)} is not {two.get(name)}"
        for name in sorted(one.keys() | two.keys())
        if one.get(name) != two.get(name)
    )


def flags_of(path: Path) -> set[str]:
    return set(sh("lsattr", "-d", path).split()[0]) & set("iaACdDSsu")


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


@contextmanager
def loop(folder: Path, name: str, size: int, *make: str) -> Iterator[Path]:
    file = folder / name
    with file.open("wb") as opened:
        opened.truncate(size)
    device = Path(sh("losetup", "--find", "--show", file).strip())
    try:
        if make:
            sh(*make, device)
        yield device
    finally:
        sh("losetup", "--detach", device)
        file.unlink()


@pytest.fixture(scope="module", params=["ext4", "xfs"])
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
                client, make_config(source.volume), [source], tag="latest", pack_bytes=16 * MiB
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
        VolumeView(captured.template, "root") as view,
        attached(run, view.size_bytes, block_bytes, view.read, cancel=view.cancel) as device,
        mounted(run, device, where, captured.kind, options) as top,
    ):
        yield view, top


def in_use() -> list[str]:
    return [path.parent.name for path in Path("/sys/block").glob("nbd*/pid")]


def is_none_left() -> bool:
    """Return whether all devices are gone, or go within a while: udev may still look at one."""
    deadline = time.monotonic() + 30
    while in_use() and time.monotonic() < deadline:
        time.sleep(0.1)
    return not in_use()


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
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
            assert copied.flags_lost == ()
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
        assert 0 < statistics.chunks_fetched < statistics.chunks / 2, statistics
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
    number = None
    with VolumeView(template, "root") as view:
        for at in range(0, SOURCE_BYTES, CHUNK_BYTES):
            if BIG[10 * MiB : 10 * MiB + 512] in view.read(at, CHUNK_BYTES):
                number = at // CHUNK_BYTES
    assert number is not None
    _, entries = template.entries("root")
    entry = next(entry for entry in entries if entry.number == number)
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
            assert f"chunk {number} (" in found[1]
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


def zeros(offset: int, size: int) -> bytes:
    return bytes(size)


def write_sector(device: Path) -> None:
    with (
        block.opened(device, os.O_WRONLY | os.O_DIRECT) as fd,
        block.aligned_buffer(4096) as buffer,
    ):
        os.pwritev(fd, [buffer], 0)


def test_several_devices_at_once_and_none_is_left() -> None:
    run = Run()
    with ExitStack() as stack:
        devices = [stack.enter_context(attached(run, size * MiB, 512, zeros)) for size in (1, 2, 3)]
        assert len(set(devices)) == 3
        assert [block.size_bytes(device) for device in devices] == [MiB, 2 * MiB, 3 * MiB]
        with pytest.raises((OSError, DiskError), match="Read-only|not permitted"):
            write_sector(devices[0])
    assert is_none_left()


def test_signals_do_not_take_the_device_away() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        with attached(Run(), MiB, 512, lambda offset, size: b"\x07" * size) as device:
            for _ in range(50):
                os.kill(os.getpid(), signal.SIGUSR1)
            block.flush(device)
            assert device.read_bytes() == b"\x07" * MiB
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard


def test_what_the_user_of_the_device_raises_comes_through() -> None:
    with pytest.raises(KeyError), attached(Run(), MiB, 512, zeros):
        raise KeyError
    with pytest.raises(DiskError) as info, attached(Run(), MiB, 512, zeros):
        raise DiskError("something else")
    assert info.value.__cause__ is None
    assert is_none_left()


CHILD = """
import sys, time
from pathlib import Path
from agent.system.command import Run
from agent.system.mount import mounted
from agent.system.nbd import attached
file = open(sys.argv[1], "rb")
import os
size = os.fstat(file.fileno()).st_size
with attached(Run(), size, 512, lambda at, n: os.pread(file.fileno(), n, at)) as device:
    with mounted(Run(), device, Path(sys.argv[2]), "ext4", "ro,noload"):
        print(device, flush=True)
        time.sleep(600)
"""


def test_a_killed_process_leaves_no_device(tmp_path: Path) -> None:
    image, where = tmp_path / "small.img", tmp_path / "mnt"
    with image.open("wb") as file:
        file.truncate(16 * MiB)
    sh("mkfs.ext4", "-q", "-F", image)
    for _ in range(2):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, image, where], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        device = child.stdout.readline().strip()
        assert device.startswith("/dev/nbd")
        child.kill()
        child.wait()
        child.stdout.close()
        sh("umount", where)
        assert is_none_left()


def test_a_waiting_read_does_not_keep_the_device(tmp_path: Path) -> None:
    """The server hangs; whoever used the device gives up; it goes away all the same."""
    go = threading.Event()

    def hang(offset: int, size: int) -> bytes:
        go.wait(60)
        raise ServerError("cancelled")

    class GiveUp(AgentError):
        pass

    with pytest.raises(GiveUp), attached(Run(), MiB, 512, hang, cancel=go.set):
        raise GiveUp("enough")
    assert is_none_left()


@pytest.mark.parametrize("kind", ["btrfs", "ext4"])
def test_subvolumes_are_made_again_or_merged(kind: str, tmp_path: Path) -> None:
    run = Run()
    with (
        loop(tmp_path, "source.img", 256 * MiB, *MAKE["btrfs"]) as device,
        loop(tmp_path, "target.img", TARGET_BYTES[kind], *MAKE[kind]) as target,
    ):
        with mounted(run, device, tmp_path / "source", "btrfs", "rw,subvolid=5") as source:
            for name in ("@", "@home"):
                sh("btrfs", "subvolume", "create", source / name)
            (source / "@" / "var" / "lib").mkdir(parents=True)
            nested = source / "@" / "var" / "lib" / "machines"
            sh("btrfs", "subvolume", "create", nested)
            nested.chmod(0o700)
            (nested / "inside").write_bytes(b"nested")
            (source / "@" / "file").write_bytes(BIG[:MiB])
            (source / "@home" / "bob").mkdir()
            os.setxattr(source / "@home", "user.note", b"on a subvolume")
            sh("btrfs", "subvolume", "snapshot", "-r", source / "@", source / "snap")
            sh("btrfs", "subvolume", "set-default", source / "@")
            os.utime(source / "@" / "var" / "lib", ns=(7, 1_000_000_000_000_000_007))
            tree = tree_of(source)
            names = [
                (one.path, one.is_read_only, one.is_default) for one in find_subvolumes(run, source)
            ]
        with (
            mounted(run, device, tmp_path / "source", "btrfs", "ro,subvolid=5") as source,
            mounted(run, target, tmp_path / "target", kind, "rw") as top,
        ):
            copied = copy_subvolumes(run, source, top, silent, is_btrfs=kind == "btrfs")
            assert copied.bytes >= 2 * MiB
            found_tree = tree_of(top)
            # What stands for a subvolume inside a snapshot has the time of being looked at.
            stands = "snap/var/lib/machines"
            assert found_tree.pop(stands)[0] == tree.pop(stands)[0] == "0o40755"
            assert not differences(tree, found_tree)
            if kind == "btrfs":
                found = find_subvolumes(run, top)
                assert [(one.path, one.is_read_only, one.is_default) for one in found] == names
                assert (b"snap", True, False) in names
                assert (b"@/var/lib/machines", False, False) in names
                assert (b"@", False, True) in names
