"""Which features a new filesystem gets, for whom, and how its bitmaps are read."""

from pathlib import Path

import pytest

from agent.errors import AgentError, SourceUnfit
from agent.model.filesystems import can_grow, conservative_features, fits_sectors
from agent.model.layout import Btrfs, Content, Ext, F2fs, Ntfs, Raw, Vfat, Xfs
from agent.model.template import OsIdentity
from agent.tools.bitmaps import clear_runs, mirrored
from agent.tools.btrfs import feature_names, is_readable
from agent.tools.btrfs_map import BtrfsFacts
from agent.tools.dumpe2fs import check_clean, parse_facts
from agent.tools.fat import FatShape, parse_table
from agent.tools.mke2fs import ext_words
from agent.tools.mkfs_fat import fat_bits
from agent.tools.mkfs_xfs import xfs_words
from agent.tools.xfs import xfs_facts
from agent.units import Extent, MiB
from tests.unit.fake_run import FakeRun

UUID = "5f1c9a52-0c63-4a0e-9a5a-8f8e21d5a0ff"
DEVICE = Path("/dev/sdx")

# dumpe2fs -h of e2fsprogs 1.47.2, of `mke2fs -J device=…`; what is not read is left out.
EXTERNAL = """\
Filesystem volume name:   <none>
Filesystem UUID:          9f0a3c58-4f33-4f9e-b9c7-6a51a9e7b3f4
Filesystem features:      has_journal ext_attr resize_inode dir_index filetype extent 64bit
Filesystem state:         clean
Block count:              16384
Free blocks:              15311
First block:              0
Block size:               4096
Journal UUID:             81abe9a1-8703-4f32-8722-09c5afb2f09f
Journal device:           0x0700
"""

# xfs_db 6.13, of the defaults of its mkfs.xfs.
SUPERBLOCK = r"""uuid = 0d071e81-62ae-4cc4-a4ff-4f0e868db5f8
fname = "\000\000\000\000\000\000\000\000\000\000\000\000"
blocksize = 4096
sectsize = 512
dblocks = 98304
fdblocks = 81884
agblocks = 24576
agcount = 4
logstart = 65543
rblocks = 0
inprogress = 0
versionnum [0xb4a5+0x18a] = V5,NLINK,DIRV2,ALIGN,LOGV2,EXTFLG,MOREBITS,ATTR2,LAZYSBCOUNT,\
PROJID32BIT,CRC,FTYPE,FINOBT,SPARSE_INODES,RMAPBT,REFLINK,INOBTCNT,BIGTIME,NREXT64
""".replace("\\\n", "")


def system(name: str, version: str) -> OsIdentity:
    return OsIdentity(
        id=name,
        version=version,
        pretty_name=name,
        kernel=None,
        bootloader=None,
        initramfs_tool=None,
        network_stack=None,
    )


@pytest.mark.parametrize(
    ("kind", "name", "version", "has", "has_not"),
    [
        ("ext", "centos", "6.10", "uninit_bg", "metadata_csum"),
        ("ext", "ubuntu", "16.04", "uninit_bg", "64bit"),
        ("ext", "debian", "12", "metadata_csum", "orphan_file"),
        ("ext", "debian", "13", "64bit", "metadata_csum_seed"),
        ("xfs", "centos", "7", "crc", "finobt"),
        ("xfs", "rhel", "8.10", "reflink", "bigtime"),
        ("xfs", "debian", "10", "finobt", "sparse"),
        ("xfs", "debian", "11", "sparse", "inobtcount"),
        ("xfs", "debian", "12", "bigtime", "nrext64"),
        ("xfs", "debian", "13", "nrext64", "rmapbt"),
        ("xfs", "debian", "99", "nrext64", "parent"),
        ("xfs", "unheard-of", "1", "finobt", "reflink"),
        ("btrfs", "ubuntu", "16.04", "skinny-metadata", "free-space-tree"),
        ("btrfs", "debian", "13", "free-space-tree", "block-group-tree"),
    ],
)
def test_a_new_filesystem_is_for_its_system(
    kind: str, name: str, version: str, has: str, has_not: str
) -> None:
    found = conservative_features(kind, system(name, version))
    assert found is not None
    assert has in found
    assert has_not not in found


def test_what_a_system_cannot_read_is_said() -> None:
    assert conservative_features("xfs", system("centos", "6.9")) == ()
    assert conservative_features("btrfs", system("rhel", "9.4")) is None
    assert conservative_features("f2fs", system("rhel", "9.4")) is None
    assert conservative_features("swap", None) == ()


def test_xfs_is_made_with_its_features_and_no_other() -> None:
    words = xfs_words(
        DEVICE, uuid=UUID, label="", block_bytes=4096, features=("crc", "ftype", "reflink")
    )
    assert f"crc=1,uuid={UUID},finobt=0,rmapbt=0,reflink=1,inobtcount=0,bigtime=0" in words
    assert "sparse=0,nrext64=0,exchange=0" in words
    old = xfs_words(DEVICE, uuid=UUID, label="", block_bytes=4096, features=())
    assert f"crc=0,uuid={UUID}" in old
    assert "ftype=0" in old
    with pytest.raises(AgentError, match="zoned"):
        xfs_words(DEVICE, uuid=UUID, label="", block_bytes=4096, features=("zoned",))


def test_ext_features_of_a_state_do_not_carry_over() -> None:
    features = ("has_journal", "needs_recovery", "extent", "mmp", "bigalloc", "metadata_csum")
    words = ext_words(DEVICE, uuid=UUID, label="root", block_bytes=4096, features=features)
    assert "none,has_journal,extent,metadata_csum" in words
    assert words[words.index("-t") + 1] == "ext4"


@pytest.mark.parametrize(
    ("size_bytes", "sector_bytes", "wanted", "bits"),
    [
        (100 * MiB, 512, 32, 32),
        (100 * MiB, 512, 0, 16),
        (100 * MiB, 4096, 32, 16),
        (300 * MiB, 4096, 32, 32),
        (30 * MiB, 512, 32, 16),
        (1024 * MiB, 512, 0, 32),
    ],
)
def test_a_fat_has_as_many_bits_as_its_clusters_allow(
    size_bytes: int, sector_bytes: int, wanted: int, bits: int
) -> None:
    assert fat_bits(size_bytes, sector_bytes, wanted) == bits


def test_runs_of_clear_bits_go_on_from_piece_to_piece() -> None:
    pieces = [b"\xff\x0f", b"\x00\x00", b"\xf0\xff", b"\xff\xfe"]
    assert list(clear_runs(pieces, 64)) == [(12, 36), (56, 57)]
    assert list(clear_runs(pieces, 30)) == [(12, 30)]
    assert list(clear_runs([b"\x00"], 8)) == [(0, 8)]
    assert list(clear_runs([b"\xff"], 8)) == []
    assert mirrored(b"\x80\x03") == b"\x01\xc0"
    with pytest.raises(ValueError, match="16 bits"):
        list(clear_runs([b"\xff\xff"], 17))


def test_what_is_too_short_for_a_cluster_at_the_end_of_a_fat_is_kept() -> None:
    shape = FatShape(
        bits=16,
        table_offset=512,
        table_bytes=16384,
        data_offset=40960,
        cluster_bytes=4096,
        clusters=5000,
        size_bytes=40960 + 5000 * 4096 + 3072,
        sector_bytes=512,
        uuid="93E1-EE89",
        is_dirty=False,
    )
    table = bytearray(shape.table_bytes)
    rest = Extent(40960 + 5000 * 4096, 3072)
    assert list(parse_table(shape, bytes(table))) == [Extent(0, 40960), rest]
    table[2 * 5001 : 2 * 5002] = b"\xff\xff"  # the last cluster
    joined = Extent(rest.offset - 4096, 4096 + 3072)
    assert list(parse_table(shape, bytes(table))) == [Extent(0, 40960), joined]


def test_an_external_journal_is_refused_with_the_remedy() -> None:
    with pytest.raises(SourceUnfit, match="another device") as refused:
        check_clean(parse_facts(EXTERNAL), DEVICE)
    assert "tune2fs -j" in str(refused.value.hint)
    check_clean(parse_facts(EXTERNAL.replace("Journal device:", "Journal inode: ")), DEVICE)


def test_xfs_says_its_features_and_sectors() -> None:
    facts = xfs_facts(FakeRun({"xfs_db": SUPERBLOCK}), DEVICE)
    assert facts.sector_bytes == 512
    wanted = {"crc", "ftype", "finobt", "sparse", "rmapbt", "reflink", "inobtcount", "bigtime"}
    assert set(facts.features) == {*wanted, "nrext64", "projid32bit"}


def superblock(incompat: int, compat_ro: int, devices: int = 1) -> BtrfsFacts:
    return BtrfsFacts(
        generation=7,
        uuid=UUID,
        label="",
        sector_bytes=4096,
        node_bytes=16384,
        size_bytes=1 << 30,
        used_bytes=0,
        allocated_bytes=0,
        devices=devices,
        log_root=0,
        compat_ro=compat_ro,
        incompat=incompat,
        root=0,
        root_level=0,
        chunk_root=0,
        chunk_root_level=0,
        device_id=1,
        system_chunks=b"",
    )


def test_a_btrfs_that_we_do_not_know_is_not_read() -> None:
    plain = superblock(0x361, 0x3)  # of mkfs.btrfs 6.14
    assert is_readable(plain)
    assert feature_names(plain) == ("extref", "skinny-metadata", "no-holes", "free-space-tree")
    assert is_readable(superblock(0x361, 0xB))
    assert not is_readable(superblock(0x361 | 0x2000, 0x3))  # extent tree v2
    assert not is_readable(superblock(0x361 | 0x4000, 0x3))  # stripes in a tree
    assert not is_readable(superblock(0x361 | 0x1000, 0x3))  # zones
    assert not is_readable(superblock(0x361, 0x13))
    assert is_readable(superblock(0x361, 0x3, devices=2))


def test_what_can_grow_and_where_it_fits() -> None:
    xfs = Xfs(uuid=UUID, label="", block_bytes=4096, sector_bytes=4096)
    unknown = Xfs(uuid=UUID, label="", block_bytes=4096)
    fat = Vfat(uuid="93E1-EE89", label="", sector_bytes=512)
    small = Ext(uuid=UUID, label="", block_bytes=1024, features=())
    growing: tuple[Content, ...] = (
        xfs,
        small,
        Btrfs(uuid=UUID, label="", block_bytes=4096),
        F2fs(uuid=UUID, label="", block_bytes=4096),
        Ntfs(uuid="71E5626A225945CC", label="", block_bytes=4096),
    )
    assert all(can_grow(content) for content in growing)
    assert not any(can_grow(content) for content in (fat, Raw()))
    assert fits_sectors(xfs, 4096)
    assert not any(fits_sectors(content, 4096) for content in (unknown, fat, small))
    assert fits_sectors(unknown, 512)
