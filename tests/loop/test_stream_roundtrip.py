"""Real filesystems into a template and out again, on files, without root."""

import errno
import os
import random
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from agent.errors import CommandFailed, DiskError, SourceUnfit
from agent.model.extents import Extents
from agent.model.job import Verify
from agent.model.layout import (
    BootCode,
    Content,
    Ext,
    Raw,
    Swap,
    Vfat,
)
from agent.store.registry import RegistryClient
from agent.store.target import RegistryTarget
from agent.store.template import open_template
from agent.stream.capture import capture_template
from agent.stream.chunks import VolumeSource
from agent.stream.restore import restore_volume, volume_bytes
from agent.stream.verify import verify_volume
from agent.tools import fat
from agent.units import Extent, KiB, MiB
from tests.conftest import cannot_run
from tests.contracts.fake_registry import FakeRegistry
from tests.contracts.seeds import SEED
from tests.contracts.stream_builders import (
    BASE,
    make_client,
    make_config,
    make_volume,
    used_extents,
)

EXT = Ext(uuid="ce3cc2af-727f-4b57-b60d-5d98c0dda39f", label="", block_bytes=4096, features=())
FAT = Vfat(uuid="93E1-EE89", label="")


def tool(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if found is None:
        cannot_run(f"{name} is not installed")
    return found


def run(*words: str | Path) -> str:
    name, *rest = words
    done = subprocess.run(
        [tool(str(name)), *rest], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout


@pytest.fixture
def client() -> Iterator[RegistryClient]:
    with FakeRegistry().serving() as url:
        found = make_client(url)
        yield found
        found.close()


def make_tree(folder: Path) -> Path:
    """Return a folder of many small and some large files, in part of zeros and holes."""
    print(f"METALCAST_SEED={SEED}")
    draw = random.Random(SEED)
    tree = folder / "tree"
    for number in range(300):
        place = tree / f"d{number % 17}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"f{number}").write_bytes(draw.randbytes(draw.randrange(20_000)))
    (tree / "large").write_bytes(draw.randbytes(5 * MiB) + bytes(5 * MiB))
    with (tree / "sparse").open("wb") as sparse:
        sparse.seek(20 * MiB)
        sparse.write(b"end")
    return tree


def make_ext(folder: Path, *options: str, size: str = "96M") -> Path:
    image = folder / "ext.img"
    tree = make_tree(folder)
    run("mke2fs", "-q", "-t", "ext4", "-F", "-d", tree, *options, image, size)
    return image


def scatter(image: Path) -> None:
    """Delete every other file, so that used and free blocks alternate."""
    commands = "\n".join(f"rm /d{number % 17}/f{number}" for number in range(0, 300, 2))
    subprocess.run(
        [tool("debugfs"), "-w", "-f", "/dev/stdin", image],
        input=commands,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )


def make_fat(folder: Path, *options: str, size_bytes: int = 64 * MiB) -> Path:
    image = folder / "fat.img"
    with image.open("wb") as file:
        file.truncate(size_bytes)
    run("mkfs.vfat", *options, image)
    draw = random.Random(SEED)
    for number in range(20):
        file_ = folder / f"F{number}.BIN"
        file_.write_bytes(draw.randbytes(draw.randrange(1, size_bytes // 100)))
        run("mcopy", "-i", image, file_, "::/")
    for number in range(0, 20, 3):
        run("mdel", "-i", image, f"::/F{number}.BIN")
    return image


def travel(
    client: RegistryClient, folder: Path, image: Path, content: Content
) -> tuple[Extents, Path]:
    """Capture `image` as it lies on a disk and restore it; return its used extents and a copy."""
    size = image.stat().st_size
    disk = folder / "source-disk.img"
    disk.write_bytes(bytes(BASE) + image.read_bytes())
    before = sha256(disk.read_bytes()).digest(), disk.stat().st_mtime_ns
    used = used_extents(image, content, size)
    source = VolumeSource(make_volume(size, content=content), disk, BASE, used)
    captured = capture_template(
        RegistryTarget(client), make_config(source.volume), [source], tag="t", pack_bytes=8 * MiB
    )
    assert (sha256(disk.read_bytes()).digest(), disk.stat().st_mtime_ns) == before
    template = open_template(client, captured.digest)
    target = folder / "target-disk.img"
    target.write_bytes(b"\xa5" * (2 * BASE + size + BASE))
    restored = restore_volume(template, "root", target, 2 * BASE)
    verified = verify_volume(template, "root", target, 2 * BASE, Verify.FULL)
    assert verified.bytes_checked == restored.bytes_written == captured.used_bytes
    found = target.read_bytes()
    assert found[: 2 * BASE] == b"\xa5" * 2 * BASE
    assert found[2 * BASE + size :] == b"\xa5" * BASE
    copy = folder / "copy.img"
    copy.write_bytes(found[2 * BASE : 2 * BASE + size])
    return used, copy


def same_where_used(used: Iterable[Extent], image: Path, copy: Path) -> None:
    one, other = image.read_bytes(), copy.read_bytes()
    at = 0
    for extent in used:
        assert other[at : extent.offset] == b"\xa5" * (extent.offset - at), "free space is left"
        assert other[extent.offset : extent.end] == one[extent.offset : extent.end]
        at = extent.end


@pytest.mark.parametrize("block", ["1024", "2048", "4096"])
@pytest.mark.parametrize("scattered", [False, True])
def test_ext4_comes_back_whole(
    client: RegistryClient, tmp_path: Path, block: str, scattered: bool
) -> None:
    image = make_ext(tmp_path, "-b", block)
    if scattered:
        scatter(image)
    used, copy = travel(client, tmp_path, image, EXT)
    assert sum(run.size for run in used) < 60 * MiB
    same_where_used(used, image, copy)
    run("e2fsck", "-fn", copy)
    out = tmp_path / "out"
    out.mkdir()
    run("debugfs", "-R", f"rdump / {out}", copy)
    tree = tmp_path / "tree"
    for file in sorted(path for path in tree.rglob("*") if path.is_file()):
        there = out / file.relative_to(tree)
        number = int(file.name[1:]) if file.name[1:].isdigit() else 1
        if scattered and number % 2 == 0:
            assert not there.exists()
        else:
            assert there.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("kind", ["ext2", "ext3"])
def test_older_ext_comes_back_whole(client: RegistryClient, tmp_path: Path, kind: str) -> None:
    image = tmp_path / "ext.img"
    run("mke2fs", "-q", "-t", kind, "-F", "-d", make_tree(tmp_path), image, "64M")
    used, copy = travel(client, tmp_path, image, EXT)
    same_where_used(used, image, copy)
    run("e2fsck", "-fn", copy)


@pytest.mark.parametrize(
    ("options", "size_bytes", "bits"),
    [(("-F", "12"), 4 * MiB, 12), (("-F", "16"), 64 * MiB, 16), (("-F", "32"), 64 * MiB, 32)],
)
def test_fat_comes_back_whole(
    client: RegistryClient, tmp_path: Path, options: tuple[str, ...], size_bytes: int, bits: int
) -> None:
    image = make_fat(tmp_path, *options, size_bytes=size_bytes)
    assert fat.fat_used_extents(image)[0].bits == bits
    used, copy = travel(client, tmp_path, image, FAT)
    same_where_used(used, image, copy)
    run("fsck.vfat", "-n", copy)
    for number in range(20):
        if number % 3:
            back = tmp_path / f"back{number}"
            run("mcopy", "-i", copy, f"::/F{number}.BIN", back)
            assert back.read_bytes() == (tmp_path / f"F{number}.BIN").read_bytes()


def test_raw_bytes_and_boot_code_come_back(client: RegistryClient, tmp_path: Path) -> None:
    raw = tmp_path / "raw.img"
    raw.write_bytes(random.Random(SEED).randbytes(MiB) + bytes(9 * MiB) + b"end" + bytes(509))
    used, copy = travel(client, tmp_path, raw, Raw())
    assert used == Extents([Extent(0, raw.stat().st_size)])
    assert copy.read_bytes() == raw.read_bytes()


def test_several_volumes_share_a_template_but_no_pack(
    client: RegistryClient, tmp_path: Path
) -> None:
    draw = random.Random(SEED)
    disk = tmp_path / "disk.img"
    code, raw = draw.randbytes(440), draw.randbytes(9 * MiB)
    disk.write_bytes(code.ljust(BASE, b"\0") + raw)
    boot = make_volume(440, "boot-code", BootCode())
    data = make_volume(len(raw), "bios-boot")
    empty = make_volume(MiB, "blank")
    swap = make_volume(MiB, "swap", Swap(uuid=None, label="", page_bytes=4096))
    sources = [
        VolumeSource(boot, disk, 0, (Extent(0, 440),)),
        VolumeSource(data, disk, BASE, (Extent(0, len(raw)),)),
        VolumeSource(empty, disk, BASE, ()),
    ]
    config = make_config(boot, data, empty, swap)
    captured = capture_template(
        RegistryTarget(client), config, sources, tag="t", pack_bytes=4 * MiB
    )
    template = open_template(client, captured.digest)
    assert [layer.annotations["org.metalcast.volume"] for layer in template.manifest.layers] == [
        "boot-code",
        "boot-code",
        *["bios-boot"] * 4,
        "blank",
    ]
    assert volume_bytes(template, "boot-code", 440) == code
    target = tmp_path / "target.img"
    target.write_bytes(bytes(12 * MiB))
    assert restore_volume(template, "blank", target, 0).chunks == 0
    restore_volume(template, "bios-boot", target, 4096)
    assert target.read_bytes()[4096 : 4096 + len(raw)] == raw


def test_what_is_blank_is_zeros_in_the_template(client: RegistryClient, tmp_path: Path) -> None:
    secret = b"-----BEGIN OPENSSH PRIVATE KEY-----" * 100
    disk = tmp_path / "disk.img"
    data = random.Random(SEED).randbytes(5 * MiB)
    place = Extent(4 * MiB - 1024, 8192)
    body = bytearray(data)
    body[place.offset : place.offset + len(secret)] = secret
    disk.write_bytes(bytes(body))
    volume = make_volume(len(body))
    used = (Extent(0, 4 * MiB - 512), Extent(4 * MiB, MiB))
    source = VolumeSource(volume, disk, 0, used, blank=(place,))
    captured = capture_template(RegistryTarget(client), make_config(volume), [source], tag="t")
    assert disk.read_bytes() == body
    template = open_template(client, captured.digest)
    target = tmp_path / "target.img"
    target.write_bytes(b"\xa5" * len(body))
    restore_volume(template, "root", target, 0)
    wanted = bytearray(body)
    wanted[place.offset : place.end] = bytes(place.size)
    wanted[4 * MiB - 512 : 4 * MiB] = b"\xa5" * 512
    assert target.read_bytes() == wanted
    assert b"OPENSSH" not in target.read_bytes()


def test_a_dirty_ext_is_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    image = make_ext(tmp_path, size="64M")
    run("debugfs", "-w", "-R", "ssv state 0", image)
    before = sha256(image.read_bytes()).digest()
    with pytest.raises(SourceUnfit, match="not shut down cleanly") as caught:
        used_extents(image, EXT, image.stat().st_size)
    assert f"e2fsck -f {image}" in str(caught.value.hint)
    run("debugfs", "-w", "-R", "ssv state 1", image)
    run("debugfs", "-w", "-R", "feature needs_recovery", image)
    with pytest.raises(SourceUnfit, match="needs_recovery"):
        used_extents(image, EXT, image.stat().st_size)
    assert sha256(image.read_bytes()).digest() != before  # by debugfs, not by us


def test_a_dirty_fat_is_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    image = make_fat(tmp_path, "-F", "32")
    with image.open("r+b") as file:
        file.seek(0x41)
        file.write(b"\x01")
    with pytest.raises(SourceUnfit, match="not unmounted cleanly"):
        used_extents(image, FAT, image.stat().st_size)
    subprocess.run([tool("fsck.vfat"), "-a", image], check=False, capture_output=True)
    assert used_extents(image, FAT, image.stat().st_size)


def test_a_filesystem_longer_than_its_place_is_refused(tmp_path: Path) -> None:
    image = make_ext(tmp_path, size="64M")
    with pytest.raises(SourceUnfit, match="its place"):
        used_extents(image, EXT, 32 * MiB)
    image = make_fat(tmp_path)
    with pytest.raises(SourceUnfit, match="its place"):
        used_extents(image, FAT, 32 * MiB)


def test_what_is_no_filesystem_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "noise.img"
    image.write_bytes(random.Random(SEED).randbytes(MiB))
    with pytest.raises(CommandFailed, match="dumpe2fs"):
        used_extents(image, EXT, MiB)


def test_a_full_disk_is_named(client: RegistryClient, tmp_path: Path) -> None:
    """A write that fails: a file size limit stands in for a bad disk."""
    import resource
    import signal

    raw = tmp_path / "raw.img"
    raw.write_bytes(random.Random(SEED).randbytes(9 * MiB))
    volume = make_volume(9 * MiB)
    source = VolumeSource(volume, raw, 0, (Extent(0, 9 * MiB),))
    captured = capture_template(RegistryTarget(client), make_config(volume), [source], tag="t")
    template = open_template(client, captured.digest)
    target = tmp_path / "target.img"
    with target.open("wb") as file:
        file.truncate(10 * MiB)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5 * MiB, old[1]))
    try:
        with pytest.raises(DiskError, match=rf"cannot write {target} \(serial S-1\) at \d+: File"):
            restore_volume(template, "root", target, 0, serial="S-1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_source_that_ends_too_soon_is_named(client: RegistryClient, tmp_path: Path) -> None:
    raw = tmp_path / "raw.img"
    raw.write_bytes(bytes(MiB))
    volume = make_volume(9 * MiB)
    source = VolumeSource(volume, raw, 0, (Extent(0, 9 * MiB),), serial="S-2")
    with pytest.raises(DiskError, match=rf"{raw} \(serial S-2\) ends at 1048576, too soon"):
        capture_template(RegistryTarget(client), make_config(volume), [source], tag="t")


def test_a_wrong_byte_on_the_target_is_found(client: RegistryClient, tmp_path: Path) -> None:
    raw = tmp_path / "raw.img"
    raw.write_bytes(random.Random(SEED).randbytes(9 * MiB))
    volume = make_volume(9 * MiB)
    source = VolumeSource(volume, raw, 0, (Extent(0, 9 * MiB),))
    captured = capture_template(RegistryTarget(client), make_config(volume), [source], tag="t")
    template = open_template(client, captured.digest)
    target = tmp_path / "target.img"
    target.write_bytes(bytes(10 * MiB))
    restore_volume(template, "root", target, BASE)
    draw = random.Random(SEED)
    for _ in range(10):
        at = draw.randrange(9 * MiB)
        with target.open("r+b") as file:
            file.seek(BASE + at)
            byte = file.read(1)
            file.seek(BASE + at)
            file.write(bytes([byte[0] ^ 1]))
        skip = (Extent(0, 64 * KiB),)
        if at >= 64 * KiB:
            message = rf"{target} \(serial S-3\) does not give back .* chunk {at // (4 * MiB)} of"
            with pytest.raises(DiskError, match=message):
                verify_volume(template, "root", target, BASE, Verify.FULL, skip=skip, serial="S-3")
        with target.open("r+b") as file:
            file.seek(BASE + at)
            file.write(byte)
    verify_volume(template, "root", target, BASE, Verify.FULL)


def test_a_failed_fsync_is_final(
    client: RegistryClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw.img"
    raw.write_bytes(random.Random(SEED).randbytes(MiB))
    volume = make_volume(MiB)
    source = VolumeSource(volume, raw, 0, (Extent(0, MiB),))
    captured = capture_template(RegistryTarget(client), make_config(volume), [source], tag="t")
    template = open_template(client, captured.digest)
    target = tmp_path / "target.img"
    target.write_bytes(bytes(MiB))
    calls: list[int] = []

    def fsync(fd: int) -> None:
        calls.append(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("agent.stream.blocks.os.fsync", fsync)
    with pytest.raises(DiskError, match=rf"{target} \(serial S-4\) lost what was written"):
        restore_volume(template, "root", target, 0, serial="S-4")
    assert len(calls) == 1
