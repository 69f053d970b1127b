"""What kinds of content can do, and which features an operating system of an age can read."""

import re
from typing import Final

from agent.model.layout import Btrfs, BtrfsDevice, Content, Exfat, Ext, F2fs, Ntfs, Swap, Vfat, Xfs
from agent.model.template import OsIdentity

_UNKNOWN_AGE: Final = 2016
_EXT_OLD: Final = (
    *("sparse_super", "large_file", "filetype", "resize_inode", "dir_index", "ext_attr"),
    *("has_journal", "extent", "huge_file", "flex_bg", "uninit_bg", "dir_nlink", "extra_isize"),
)
"""/etc/mke2fs.conf of e2fsprogs 1.41 (CentOS 6) to 1.42 (RHEL 7, Ubuntu 16.04)."""
_EXT_NEW: Final = (
    *(name for name in _EXT_OLD if name != "uninit_bg"),
    *("64bit", "metadata_csum"),
)
"""The defaults from e2fsprogs 1.43 on. Without those of 1.47 (orphan_file, metadata_csum_seed):
the GRUB of Debian 12 does not read the second, and 1.46 mends neither."""


_DRIVERS: Final = {
    Ext: "ext4",
    Xfs: "xfs",
    Btrfs: "btrfs",
    F2fs: "f2fs",
    Ntfs: "ntfs3",
    Exfat: "exfat",
    Vfat: "vfat",
}


def fstype_of(content: Content) -> str:
    """Return the kernel's driver for a filesystem of this kind. ext4 reads ext2 and ext3, too."""
    return _DRIVERS[type(content)]


def fstab_type(content: Content) -> str | None:
    """Return the third field of fstab; None for what is no filesystem."""
    match content:
        case Ext(features=features):
            if {"extent", "extents", "64bit"} & set(features):
                return "ext4"
            return "ext3" if "has_journal" in features else "ext2"
        case Swap():
            return "swap"
        case _:
            return _DRIVERS.get(type(content))


def can_grow(content: Content) -> bool:
    """Return whether a filesystem of this kind can take more room once it is restored.

    resize2fs says of bigalloc that it is not fully tested, and refuses.
    """
    if isinstance(content, Ext):
        return "bigalloc" not in content.features
    return isinstance(content, Xfs | Btrfs | F2fs | Ntfs)


def can_be_made(content: Content) -> bool:
    """Return whether an empty filesystem of this kind can be made and files copied into it."""
    return isinstance(content, Ext | Xfs | Btrfs | F2fs | Exfat | Vfat)


def fits_sectors(content: Content, sector_bytes: int) -> bool:
    """Return whether the blocks of `content` can be restored to a disk with these sectors.

    Where the filesystem's own sectors were not recorded, only 512 is sure.
    """
    match content:
        case Ext() | F2fs() | Btrfs() | BtrfsDevice():
            return content.block_bytes >= sector_bytes
        case Xfs() | Vfat() | Ntfs() | Exfat():
            return (content.sector_bytes or 512) >= sector_bytes
        case _:
            return True


def conservative_features(kind: str, os: OsIdentity | None) -> tuple[str, ...] | None:
    """Return the features for a new filesystem of `kind` that `os`, and its GRUB, can read.

    `kind` is the tag of a content: `ext`, `xfs`. None: the system cannot read that kind at all.
    An unknown system counts as one of 2016.
    """
    age = _age(os)
    match kind:
        case "ext":
            return _EXT_NEW if age >= 2019 else _EXT_OLD
        case "xfs":
            return _xfs(age)
        case "btrfs":
            return _btrfs(age, os)
        case "f2fs":
            return None if (os is not None and _is_red_hat(os)) or age < 2019 else ()
        case _:
            return ()


def _xfs(age: int) -> tuple[str, ...] | None:
    """What each age's mkfs.xfs makes by default, less what its GRUB does not read.

    CentOS 6 (kernel 2.6.32): version 4. RHEL 7 (3.10, xfsprogs 4.5): crc, ftype; finobt is off
    there. Ubuntu 16.04 (4.4, 4.3), Debian 9 (4.9, 4.9) and 10: finobt; sparse inodes are for
    GRUB 2.04 and later. RHEL 8 (4.18, 5.0; its GRUB has the patch), Debian 11 (5.10, 5.10):
    sparse, reflink. Debian 12 (6.1, 6.1), RHEL 9: bigtime, inobtcount (GRUB 2.06). Debian 13
    (6.12, 6.13): nrext64 (GRUB 2.12).
    """
    if age < 2014:
        return ()
    found = ["crc", "ftype", "projid32bit"]
    found += ["finobt"] if age >= 2016 else []
    found += ["sparse", "reflink"] if age >= 2019 else []
    found += ["bigtime", "inobtcount"] if age >= 2023 else []
    found += ["nrext64"] if age >= 2025 else []
    return tuple(found)


def _btrfs(age: int, os: OsIdentity | None) -> tuple[str, ...] | None:
    """By `mkfs.btrfs --features=list-all`, which names the kernel that is safe with each.

    extref 3.12, skinny-metadata 3.18, no-holes 4.0, free-space-tree 4.9; the last two are the
    default from btrfs-progs 5.15 on. Red Hat's kernels have none since RHEL 8, and a preview
    before.
    """
    if age < 2014 or (os is not None and _is_red_hat(os)):
        return None
    found = ["extref"] if age >= 2014 else []
    found += ["skinny-metadata"] if age >= 2016 else []
    found += ["no-holes", "free-space-tree"] if age >= 2023 else []
    return tuple(found)


_AGES: Final = {
    "red hat": {6: 2010, 7: 2014, 8: 2019, 9: 2023, 10: 2025},
    "debian": {7: 2010, 8: 2014, 9: 2016, 10: 2016, 11: 2019, 12: 2023, 13: 2025},
    "ubuntu": {12: 2010, 14: 2014, 16: 2016, 18: 2016, 20: 2019, 22: 2019, 24: 2025},
}
"""The age of the newest filesystems that each release reads, by its first number."""


def _is_red_hat(os: OsIdentity) -> bool:
    return os.id in ("rhel", "centos", "rocky", "almalinux", "ol", "scientific", "red")


def _age(os: OsIdentity | None) -> int:
    if os is None:
        return _UNKNOWN_AGE
    family = _AGES.get("red hat" if _is_red_hat(os) else os.id)
    number = re.match(r"\d+", os.version)
    if family is None or number is None:
        return _UNKNOWN_AGE
    known = [age for release, age in family.items() if release <= int(number[0])]
    return max(known, default=min(family.values()))
