"""The maps of ext filesystems of every shape, against what dumpe2fs lists."""

import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.errors import SourceUnfit
from agent.model.extents import Extents
from agent.model.layout import Ext
from agent.model.template import CHUNK_BYTES
from agent.stream.chunks import VolumeSource, count_chunks
from agent.tools.ext_bitmaps import ext_map
from agent.units import GiB, MiB, TiB
from tests.contracts import stream_builders

EXT = Ext(uuid="ce3cc2af-727f-4b57-b60d-5d98c0dda39f", label="", block_bytes=4096, features=())
PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
SHAPES = {
    "ext4": ("-t", "ext4"),
    "ext4 of 1 KiB": ("-t", "ext4", "-b", "1024"),
    "ext4 of 2 KiB": ("-t", "ext4", "-b", "2048"),
    "ext3": ("-t", "ext3"),
    "ext2 of 1 KiB": ("-t", "ext2", "-b", "1024"),
    "ext2 old": ("-t", "ext2", "-O", "^sparse_super,^resize_inode,^ext_attr", "-r", "1"),
    "no flex_bg": ("-t", "ext4", "-O", "^flex_bg", "-b", "1024"),
    "no checksums": ("-t", "ext4", "-O", "^metadata_csum,^64bit", "-b", "1024"),
    "uninit_bg": ("-t", "ext4", "-O", "^metadata_csum,uninit_bg,^64bit", "-b", "1024"),
    "meta_bg": ("-t", "ext4", "-O", "meta_bg,^resize_inode", "-b", "1024"),
    "sparse_super2": ("-t", "ext4", "-O", "sparse_super2,^resize_inode", "-b", "1024"),
    "large flex groups": ("-t", "ext4", "-b", "1024", "-G", "128"),
    "short groups": ("-t", "ext4", "-b", "1024", "-g", "2048"),
    "bigalloc": ("-t", "ext4", "-O", "bigalloc", "-C", "65536"),
    "bigalloc of 1 KiB": ("-t", "ext4", "-O", "bigalloc", "-b", "1024", "-C", "2048"),
    "bigalloc without flex_bg": ("-t", "ext4", "-O", "bigalloc,^flex_bg", "-C", "32768"),
}


def run(*words: str | Path) -> str:
    name, *rest = words
    found = shutil.which(name, path=PATH)
    assert found, f"{name} is not installed"
    done = subprocess.run([found, *rest], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def make(folder: Path, size_bytes: int, *options: str) -> Path:
    """Return a filesystem with files in it, some of them removed again."""
    tree = folder / "tree"
    tree.mkdir()
    draw = random.Random(11)
    for number in range(60):
        (tree / f"f{number}").write_bytes(draw.randbytes(draw.randrange(1, 300_000)))
    image = folder / "ext.img"
    with image.open("wb") as file:
        file.truncate(size_bytes)
    run("mke2fs", "-q", "-F", "-d", tree, *options, image)
    removals = "\n".join(f"rm /f{number}" for number in range(0, 60, 3))
    subprocess.run(
        [shutil.which("debugfs", path=PATH) or "debugfs", "-w", "-f", "-", image],
        input=removals.encode(),
        capture_output=True,
        check=True,
    )
    return image


def listed_by_dumpe2fs(image: Path) -> Extents:
    """Return the used runs by the free blocks that dumpe2fs prints."""
    page = run("dumpe2fs", image)
    found = (
        re.search(r"^Block size:\s+(\d+)", page, re.M),
        re.search(r"^Block count:\s+(\d+)", page, re.M),
        re.search(r"^Cluster size:\s+(\d+)", page, re.M),
    )
    assert found[0]
    assert found[1]
    block, blocks = int(found[0][1]), int(found[1][1])
    ratio = int(found[2][1]) // block if found[2] else 1
    free = []
    for line in re.findall(r"^\s+Free blocks: (\S.*)$", page, re.M):
        for text in line.split(", "):
            first, _, last = text.partition("-")
            # of a cluster, its first block is printed
            end = min(int(last or first) + ratio, blocks)
            free.append((int(first) * block, end * block))
    return Extents.between(free, blocks * block)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("size", [70 * MiB, 515 * MiB + 7 * 1024])
def test_the_map_is_what_dumpe2fs_says(name: str, size: int, tmp_path: Path) -> None:
    image = make(tmp_path, size, *SHAPES[name])
    assert ext_map(image).used == listed_by_dumpe2fs(image)


@pytest.mark.parametrize("name", ["ext4", "ext2 old", "meta_bg", "short groups"])
def test_the_map_is_what_partclone_says(name: str, tmp_path: Path) -> None:
    size = 515 * MiB + 7 * 1024
    image = make(tmp_path, size, *SHAPES[name])
    assert stream_builders.used_extents(image, EXT, size) == ext_map(image).kept


def test_bigalloc_is_looked_at_by_e2fsck_as_well(tmp_path: Path) -> None:
    size = 515 * MiB
    image = make(tmp_path, size, *SHAPES["bigalloc"])
    assert stream_builders.used_extents(image, EXT, size) == ext_map(image).kept
    run("debugfs", "-w", "-R", "clri /f1", image)  # its clusters are nobody's now
    with pytest.raises(SourceUnfit, match="a second look"):
        stream_builders.used_extents(image, EXT, size)


def test_a_sparse_disk_of_fifteen_terabytes_is_read_in_little_time(tmp_path: Path) -> None:
    options = ("-N", "65536", "-J", "size=4", "-E", "lazy_itable_init=1,nodiscard")
    image = make(tmp_path, 15 * TiB, "-t", "ext4", *options)
    found = ext_map(image)
    assert found.used.total_bytes < 5 * GiB
    assert found.used[-1].end > 14 * TiB
    assert found.kept.total_bytes < found.used.total_bytes // 5
    source = VolumeSource(
        stream_builders.make_volume(15 * TiB), image, 0, found.kept, zeros=found.zeros
    )
    assert len({run.offset // CHUNK_BYTES for run in found.kept}) > 7000
    assert count_chunks(source) < 400


@pytest.mark.parametrize(
    ("name", "tables"),
    [("ext4", "zeros"), ("no flex_bg", "zeros"), *((name, "anything") for name in SHAPES)],
)
def test_what_is_not_kept_may_be_anything(name: str, tables: str, tmp_path: Path) -> None:
    size = 70 * MiB
    options = ("-E", "lazy_itable_init=1,nodiscard") if tables == "anything" else ()
    image = make(tmp_path, size, *SHAPES[name], *options)
    found = ext_map(image)
    copy = tmp_path / "copy.img"
    with image.open("rb") as source, copy.open("wb") as target:
        for _ in range(size // MiB):
            target.write(b"\xa5" * MiB)
        for part in found.kept:
            source.seek(part.offset)
            target.seek(part.offset)
            target.write(source.read(part.size))
        for part in found.zeros:
            source.seek(part.offset)
            assert not any(source.read(part.size))
    run("e2fsck", "-f", "-n", copy)
    if "bigalloc" not in name:  # resize2fs does not grow these
        with copy.open("r+b") as target:
            target.truncate(2 * size)
        run("resize2fs", copy)
        run("e2fsck", "-f", "-n", copy)
    for number in (1, 59):
        dumped = tmp_path / "dumped"
        run("debugfs", "-R", f"dump /f{number} {dumped}", copy)
        assert dumped.read_bytes() == (tmp_path / "tree" / f"f{number}").read_bytes()


@pytest.mark.parametrize("name", ["ext4", "uninit_bg", "short groups"])
def test_a_descriptor_without_its_checksum_is_refused(name: str, tmp_path: Path) -> None:
    image = make(tmp_path, 70 * MiB, *SHAPES[name])
    sized = re.search(r"^Block size:\s+(\d+)", run("dumpe2fs", "-h", image), re.M)
    assert sized
    block = int(sized[1])
    with image.open("r+b") as file:
        file.seek(max(block, 1024 + block) // block * block + 0x10)  # directories of group 0
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(SourceUnfit, match="group 0 of .* is not as its checksum says") as caught:
        ext_map(image)
    assert "e2fsck -f" in str(caught.value.hint)


@pytest.mark.parametrize("offset", [0xC, 0x4])
def test_a_superblock_that_counts_otherwise_is_refused(offset: int, tmp_path: Path) -> None:
    image = make(tmp_path, 70 * MiB, "-t", "ext4", "-O", "^metadata_csum")
    with image.open("r+b") as file:
        file.seek(1024 + offset)
        count = int.from_bytes(file.read(4), "little")
        file.seek(1024 + offset)
        file.write((count - 1).to_bytes(4, "little"))
    with pytest.raises(SourceUnfit, match=r"free blocks, \d+ are free") as caught:
        ext_map(image)
    assert "e2fsck -f" in str(caught.value.hint)


def test_a_bitmap_that_was_damaged_is_refused(tmp_path: Path) -> None:
    image = make(tmp_path, 70 * MiB, "-t", "ext4", "-b", "4096", "-O", "^metadata_csum")
    page = run("dumpe2fs", image)
    found = re.search(r"Block bitmap at (\d+)", page)
    assert found
    with image.open("r+b") as file:
        file.seek(int(found[1]) * 4096 + 2000)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 0x10]))
    with pytest.raises(SourceUnfit, match="group 0 has"):
        ext_map(image)


@pytest.mark.parametrize("high", [1, 2**20, 2**32 - 1])
def test_a_bitmap_beyond_the_end_is_refused(high: int, tmp_path: Path) -> None:
    """Without checksums nothing else says that the place is wrong."""
    image = make(tmp_path, 70 * MiB, "-t", "ext4", "-b", "4096", "-O", "^metadata_csum,64bit")
    with image.open("r+b") as file:
        file.seek(4096 + 0x20)  # bg_block_bitmap_hi of the first descriptor
        file.write(high.to_bytes(4, "little"))
    with pytest.raises(SourceUnfit, match=r"bitmap of group 0 of .* past its end") as caught:
        ext_map(image)
    assert "e2fsck -f" in str(caught.value.hint)
