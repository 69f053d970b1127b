"""The harness judges Metalcast, so here it is judged: it sees what it must, and only that."""

import hashlib
import os
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from agent.units import MiB
from tests.harness.console import Console, ConsoleSilent
from tests.harness.disks import (
    copy_disk,
    disk_digest,
    find_bytes,
    make_dirty_disk,
    make_disk,
)
from tests.harness.ext4 import Ext4, NotReadable
from tests.harness.proofs import KERNEL_VIEW, blob_with, kernel_view_faults
from tests.harness.treedigest import differences, printable, shared_digest, tree_of

_AT = MiB
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def sh(*words: str | Path, stdin: str | None = None) -> str:
    environment = {**os.environ, "PATH": _PATH}
    done = subprocess.run(
        [str(w) for w in words], capture_output=True, text=True, input=stdin, env=environment
    )
    assert done.returncode == 0, f"{words[0]}: {done.stderr}"
    return done.stdout


def make_tree(folder: Path) -> Path:
    tree = folder / "tree"
    (tree / "many").mkdir(parents=True)
    for number in range(700):
        (tree / "many" / f"an-entry-with-a-long-name-{number:05}").touch()
    (tree / "file").write_bytes(os.urandom(300_000))
    (tree / "small").write_bytes(b"small")
    (tree / "hard").hardlink_to(tree / "small")
    (tree / "link").symlink_to("file")
    (tree / "long").symlink_to("x/" * 60)
    os.mkfifo(tree / "fifo")
    with (tree / "sparse").open("wb") as file:
        for place in range(0, 40, 3):  # more pieces than an inode has room for
            file.seek(place * 100_000)
            file.write(b"island")
    (tree / "small").chmod(0o4751)
    os.utime(tree / "file", ns=(1, 1234567890_123456789))
    return tree


def make_image(tree: Path, image: Path) -> Path:
    """Return a disk with `tree` as the ext4 of its one partition."""
    make_disk(image, 66 * MiB)
    sh("sfdisk", "--quiet", image, stdin=f"label: gpt\nstart={_AT // 512}, size=131072, type=L\n")
    # -i: room for the many small files
    sh("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", tree, "-E", f"offset={_AT}", image, "64M")
    return image


def test_the_reader_sees_what_the_kernel_sees(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    filesystem = Ext4(make_image(tree, tmp_path / "disk.raw"), _AT)
    found = {path.decode(): inode for path, inode in filesystem.walk()}
    wanted = {"/" + path.relative_to(tree).as_posix(): path for path in tree.rglob("*")}
    assert found.keys() - {"/", "/lost+found"} == wanted.keys()
    for name, path in wanted.items():
        status, inode = path.lstat(), found[name]
        assert inode.mode == status.st_mode, name
        assert (inode.uid, inode.gid) == (status.st_uid, status.st_gid), name
        if not stat.S_ISDIR(status.st_mode):
            assert inode.links == status.st_nlink, name
        if stat.S_ISREG(status.st_mode):
            assert filesystem.digest(inode) == hashlib.sha256(path.read_bytes()).hexdigest(), name
        if stat.S_ISLNK(status.st_mode):
            assert b"".join(filesystem.read(inode)).decode() == os.readlink(path)  # noqa: PTH115 - Path drops a slash at the end
    assert found["/hard"].number == found["/small"].number
    filesystem.close()


def test_the_reader_sees_what_debugfs_set(tmp_path: Path) -> None:
    """Extended attributes in and outside the inode, device nodes, large ids, flags, times."""
    disk = make_image(make_tree(tmp_path), tmp_path / "disk.raw")
    large = "v" * 2000
    commands = f"""mknod disk b 259 300
set_inode_field file uid 100000
set_inode_field file flags 0x80010
set_inode_field small mtime @0x6fffffff
ea_set file user.small value
ea_set file user.large {large}
"""
    sh("debugfs", "-w", "-f", "/dev/stdin", f"{disk}?offset={_AT}", stdin=commands)
    filesystem = Ext4(disk, _AT)
    file, node = filesystem.find("/file"), filesystem.find("/disk")
    assert file is not None
    assert node is not None
    assert file.xattrs == {"user.small": b"value", "user.large": large.encode()}
    assert (file.uid, file.lasting_flags) == (100000, 0x10)
    assert (node.type, node.device) == ("block", (259, 300))
    small = filesystem.find("/small")
    assert small is not None
    assert small.mtime_ns // 10**9 == 0x6FFFFFFF
    assert filesystem.find("/many/no-such-file") is None
    filesystem.close()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda tree: (tree / "small").chmod(0o755), '"mode": "0755"'),
        (lambda tree: (tree / "file").write_bytes(b"x" * 300_000), "sha256"),
        (lambda tree: (tree / "hard").unlink(), "absent"),
        (lambda tree: (tree / "new").touch(), "/new: absent"),
        (lambda tree: os.utime(tree / "file", ns=(1, 1)), "mtime"),
    ],
)
def test_a_tree_that_differs_is_seen(
    change: Callable[[Path], object], word: str, tmp_path: Path
) -> None:
    tree = make_tree(tmp_path)
    before = tree_of(make_image(tree, tmp_path / "before.raw"))
    same = tree_of(make_image(tree, tmp_path / "same.raw"))
    assert differences(before, same) == []
    change(tree)
    after = tree_of(make_image(tree, tmp_path / "after.raw"))
    assert any(word in line for line in differences(before, after))
    assert shared_digest(before) == shared_digest(same) != shared_digest(after)


def test_personal_files_may_differ() -> None:
    ours = {"/etc/hostname": "a", "/etc/ssh/ssh_host_rsa_key": "a", "/etc/passwd": "a"}
    theirs = {"/etc/hostname": "b", "/etc/passwd": "b"}
    assert [line.split(":")[0] for line in differences(ours, theirs)] == ["/etc/passwd"]


def test_an_unclean_or_foreign_filesystem_is_not_read(tmp_path: Path) -> None:
    disk = make_image(make_tree(tmp_path), tmp_path / "disk.raw")
    sh("debugfs", "-w", "-R", "feature needs_recovery", f"{disk}?offset={_AT}")
    with pytest.raises(NotReadable, match="journal"):
        Ext4(disk, _AT)
    with pytest.raises(NotReadable, match="no ext4"):
        Ext4(make_disk(tmp_path / "empty.raw", 4 * MiB), _AT)


def test_names_stay_on_one_line() -> None:
    assert printable(b"/a\nb") == "/a\\nb"
    assert printable(b"/\xff") == "/\\xff"
    assert printable("/ü 世".encode()) == "/ü 世"


def test_a_disk_digest_is_of_bytes_not_of_holes(tmp_path: Path) -> None:
    holes = make_disk(tmp_path / "holes", 32 * MiB)
    zeros = tmp_path / "zeros"
    zeros.write_bytes(bytes(32 * MiB))
    assert disk_digest(holes) == disk_digest(zeros)
    assert disk_digest(holes) != disk_digest(make_disk(tmp_path / "other", 33 * MiB))
    with holes.open("r+b") as file:
        file.seek(32 * MiB - 1)
        file.write(b"x")
    assert disk_digest(holes) != disk_digest(zeros)
    assert disk_digest(copy_disk(holes, tmp_path / "copy")) == disk_digest(holes)


@pytest.mark.parametrize("place", [0, 4 * MiB - 3, 17 * MiB + 5])
def test_bytes_are_found_wherever_they_are(place: int, tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "disk", 32 * MiB)
    with disk.open("r+b") as file:
        file.write(b"." * 20 * MiB)
        file.seek(place)
        file.write(b"needle")
    assert find_bytes(disk, b"needle") == place
    assert find_bytes(disk, b"noodle") is None


def test_bytes_are_found_in_any_frame_of_a_pack(tmp_path: Path) -> None:
    pack = zstandard.ZstdCompressor()
    frames = pack.compress(bytes(MiB)) + pack.compress(b"x" * MiB + b"needle") + pack.compress(b"y")
    blob = tmp_path / "pack"
    blob.write_bytes(frames)
    plain = tmp_path / "plain"
    plain.write_bytes(b"." * (MiB - 3) + b"noodle")
    assert blob_with([plain, blob], b"needle") == blob
    assert blob_with([blob, plain], b"noodle") == plain
    assert blob_with([blob, plain], b"nothing") is None


def test_a_dirty_disk_is_known_for_what_it_was(tmp_path: Path) -> None:
    disk = make_dirty_disk(tmp_path / "disk", 256 * MiB)
    found = sh("wipefs", "--noheadings", "--output=TYPE", disk).split()
    assert {"linux_raid_member", "gpt"} <= set(found)


def console(tmp_path: Path) -> tuple[Console, socket.socket]:
    ours, theirs = socket.socketpair()
    return Console(ours, tmp_path / "x.console.log"), theirs


def test_a_console_waits_for_words_through_escape_sequences(tmp_path: Path) -> None:
    found, machine = console(tmp_path)
    for piece in (b"\x1b[0;1", b";31mwel\x1b[Kcome\x1b]0;title\x07 ", b"host log", b"in: "):
        machine.sendall(piece)
    assert found.expect(r"welcome (\S+) login: ", 5).group(1) == "host"
    machine.sendall(b"login: ")
    assert found.expect("login: ", 5)
    with pytest.raises(ConsoleSilent, match=r"waited for 'login: '"):
        found.expect("login: ", 0.2)
    machine.close()
    with pytest.raises(ConsoleSilent, match="the machine ended"):
        found.expect("more", 60)
    found.close()


def test_the_kernel_view_must_be_complete() -> None:
    assert "getcap" in KERNEL_VIEW
    assert len(kernel_view_faults("")) == 9
    assert "links 3" in kernel_view_faults("links 2\n")
    assert "links 3" not in kernel_view_faults("links 3\n")
