"""Every kind of content by one door: what it is, make it, grow it, check it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never
from uuid import UUID

from agent.errors import AgentError, SourceUnfit, with_hint
from agent.model.filesystems import can_grow
from agent.model.layout import (
    BootCode,
    Btrfs,
    BtrfsDevice,
    Content,
    Exfat,
    Ext,
    F2fs,
    MbrGap,
    Ntfs,
    Raw,
    Swap,
    Vfat,
    Xfs,
)
from agent.system import block
from agent.system.command import Runner
from agent.tools import btrfs, btrfs_map, dumpe2fs, exfat, ext, f2fs, fat, mkfs_fat, mkfs_xfs, ntfs
from agent.tools import xfs as xfs_db
from agent.tools.bitmaps import read_at
from agent.tools.mke2fs import make_ext
from agent.tools.mkswap import make_swap

EXT: Final = ("ext2", "ext3", "ext4")
_SWAP_MAGIC: Final = (b"SWAPSPACE2", b"SWAP-SPACE")
_SUSPENDED: Final = b"S1SUSPEND"
_PAGES: Final = (4096, 8192, 16384, 65536)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a device holds. `unfit`: why it cannot be captured, each with the command that helps."""

    content: Content
    content_bytes: int
    used_bytes: int
    minimum_bytes: int
    """The smallest size that its blocks can be restored to."""
    unfit: tuple[str, ...] = ()


def facts(run: Runner, node: Path, what: str) -> Facts:
    """Return what `node` holds, `what` being libblkid's name for it. Only reads.

    What we do not know is Raw, and so is one device of an f2fs on several. One of a btrfs on
    several is a BtrfsDevice, whichever it is (agent.source.btrfs_devices). Raises AgentError if it
    is not what libblkid takes it for.
    """
    match what:
        case "ext2" | "ext3" | "ext4":
            return _ext(run, node)
        case "xfs":
            return _xfs(run, node)
        case "btrfs":
            return _btrfs(node)
        case "f2fs":
            return _f2fs(node)
        case "ntfs":
            return _ntfs(node)
        case "exfat":
            return _exfat(node)
        case "vfat":
            return _vfat(run, node)
        case "swap" | "swsuspend":
            return _swap(node)
    return _whole(node)


def _whole(node: Path) -> Facts:
    size = block.size_bytes(node)
    return Facts(Raw(), size, size, size)


def _ext(run: Runner, node: Path) -> Facts:
    found = dumpe2fs.ext_facts(run, node)
    unfit: tuple[str, ...] = ()
    try:
        dumpe2fs.check_clean(found, node)
    except SourceUnfit as error:
        unfit = (with_hint(error),)
    size = found.size_bytes
    least = None if unfit else ext.minimum_bytes(run, node, found.block_bytes)
    content = Ext(
        uuid=found.uuid,
        label=found.label,
        block_bytes=found.block_bytes,
        features=found.features,
    )
    return Facts(content, size, found.used_bytes, min(least or size, size), unfit)


def _xfs(run: Runner, node: Path) -> Facts:
    found = xfs_db.xfs_facts(run, node)
    unfit: tuple[str, ...] = ()
    try:
        xfs_db.check_fit(run, found, node)
    except SourceUnfit as error:
        unfit = (with_hint(error),)
    content = Xfs(
        uuid=found.uuid,
        label=found.label,
        block_bytes=found.block_bytes,
        features=found.features,
        sector_bytes=found.sector_bytes,
    )
    return Facts(content, found.size_bytes, found.used_bytes, found.size_bytes, unfit)


def _btrfs(node: Path) -> Facts:
    found = btrfs_map.btrfs_facts(node)
    unfit: tuple[str, ...] = ()
    try:
        btrfs.check_fit(found, node)
    except SourceUnfit as error:
        unfit = (with_hint(error),)
    content: Content = BtrfsDevice(uuid=found.uuid, block_bytes=found.sector_bytes)
    used = found.allocated_bytes
    if found.devices == 1:
        content, used = btrfs.content_of(found), found.used_bytes
    return Facts(content, found.size_bytes, used, found.size_bytes, unfit)


def _f2fs(node: Path) -> Facts:
    found = f2fs.f2fs_facts(node)
    unfit: tuple[str, ...] = ()
    try:
        f2fs.check_fit(found, node)
    except SourceUnfit as error:
        unfit = (with_hint(error),)
    if found.devices > 1:
        size = block.size_bytes(node)
        return Facts(Raw(), size, size, size, unfit)
    content = F2fs(uuid=found.uuid, label=found.label, block_bytes=f2fs.BLOCK_BYTES)
    return Facts(content, found.size_bytes, found.used_bytes, found.size_bytes, unfit)


def _ntfs(node: Path) -> Facts:
    try:
        found, used = ntfs.used_extents(node)
    except ntfs.NotReadable:
        return _whole(node)
    unfit: tuple[str, ...] = ()
    try:
        ntfs.check_fit(found, node)
    except SourceUnfit as error:
        unfit = (with_hint(error),)
    content = Ntfs(
        uuid=found.uuid,
        label=found.label,
        block_bytes=found.cluster_bytes,
        sector_bytes=found.sector_bytes,
    )
    return Facts(content, found.size_bytes, used.total_bytes, found.size_bytes, unfit)


def _exfat(node: Path) -> Facts:
    found, used = exfat.used_extents(node)
    unfit: tuple[str, ...] = ()
    try:
        exfat.check_fit(found, node)
    except SourceUnfit as error:
        unfit = (with_hint(error),)
    content = Exfat(
        uuid=found.uuid,
        label=found.label,
        block_bytes=found.cluster_bytes,
        sector_bytes=found.sector_bytes,
    )
    return Facts(content, found.size_bytes, used.total_bytes, found.size_bytes, unfit)


def _vfat(run: Runner, node: Path) -> Facts:
    shape, used = fat.read_fat(node)
    unfit: tuple[str, ...] = ()
    try:
        fat.check_clean(shape, node)
    except SourceUnfit as error:
        unfit = (with_hint(error),)
    answer = run(["blkid", "--probe", "--match-tag=LABEL", "--output=value", node], ok=(0, 2))
    content = Vfat(
        uuid=shape.uuid,
        label=answer.text.removesuffix("\n"),
        bits=shape.bits,
        sector_bytes=shape.sector_bytes,
    )
    return Facts(content, shape.size_bytes, used.total_bytes, shape.size_bytes, unfit)


def _swap(node: Path) -> Facts:
    size = block.size_bytes(node)
    with block.opened(node, os.O_RDONLY) as fd:
        head = read_at(fd, 0, min(max(_PAGES), size), node)
    page = next((page for page in _PAGES if _is_swap(head[page - 10 : page])), _PAGES[0])
    uuid = UUID(bytes=head[1036:1052])
    label = head[1052:1068].split(b"\0")[0].decode("utf-8", "replace")
    content = Swap(uuid=str(uuid) if uuid.int else None, label=label, page_bytes=page)
    return Facts(content, size, 0, 10 * page)


def _is_swap(mark: bytes) -> bool:
    return mark in _SWAP_MAGIC or mark.startswith(_SUSPENDED)


def make_filesystem(run: Runner, node: Path, content: Content) -> None:
    """Make an empty filesystem on `node` with the UUID, label and features of `content`.

    Whatever `node` holds is lost. Raises AgentError for a kind that cannot be made anew.
    """
    match content:
        case Ext():
            make_ext(
                run,
                node,
                uuid=content.uuid,
                label=content.label,
                block_bytes=content.block_bytes,
                features=content.features,
            )
        case Xfs():
            mkfs_xfs.make_xfs(
                run,
                node,
                uuid=content.uuid,
                label=content.label,
                block_bytes=content.block_bytes,
                features=content.features,
            )
        case Btrfs():
            btrfs.make_btrfs(
                run,
                node,
                uuid=content.uuid,
                label=content.label,
                sector_bytes=content.block_bytes,
                features=content.features,
            )
        case F2fs():
            f2fs.make_f2fs(run, node, uuid=content.uuid, label=content.label)
        case Exfat():
            exfat.make_exfat(
                run,
                node,
                uuid=content.uuid,
                label=content.label,
                cluster_bytes=content.block_bytes,
            )
        case Vfat():
            mkfs_fat.make_fat(
                run,
                node,
                uuid=content.uuid,
                label=content.label,
                bits=content.bits,
                size_bytes=block.size_bytes(node),
                sector_bytes=block.sector_bytes(node),
            )
        case Swap():
            make_swap(
                run, node, uuid=content.uuid, label=content.label, page_bytes=content.page_bytes
            )
        case BtrfsDevice() | Ntfs() | Raw() | BootCode() | MbrGap():
            kind = type(content).__name__
            raise AgentError(f"{kind} cannot be made anew, only restored as it was captured")
        case _:
            assert_never(content)


def grow(
    run: Runner, node: Path, content: Content, mount_dir: Path, further: Sequence[Path] = ()
) -> None:
    """Let what `node` holds take all of it. `mount_dir` is an empty directory to mount it on.

    `further` are the further devices of a btrfs, which take all of theirs. What cannot grow
    (agent.model.filesystems.can_grow) is left as it is.
    """
    if not can_grow(content):
        return
    match content:
        case Ext():
            ext.grow_ext(run, node)
        case Xfs():
            mkfs_xfs.grow_xfs(run, node, mount_dir)
        case Btrfs():
            btrfs.grow_btrfs(run, (node, *further), mount_dir)
        case F2fs():
            f2fs.grow_f2fs(run, node)
        case Ntfs():
            ntfs.grow_ntfs(run, node)
        case Exfat() | Vfat() | Swap() | BtrfsDevice() | Raw() | BootCode() | MbrGap():
            pass
        case _:
            assert_never(content)


def check(run: Runner, node: Path, content: Content) -> None:
    """Check what `node` holds without writing. Raises DiskError if anything is wrong."""
    match content:
        case Ext():
            ext.check_ext(run, node)
        case Xfs():
            mkfs_xfs.check_xfs(run, node)
        case Btrfs():
            btrfs.check_btrfs(run, node)
        case F2fs():
            f2fs.check_f2fs(run, node)
        case Ntfs():
            ntfs.check_ntfs(run, node)
        case Exfat():
            exfat.check_exfat(run, node)
        case Vfat():
            mkfs_fat.check_fat(run, node)
        case Swap() | BtrfsDevice() | Raw() | BootCode() | MbrGap():
            pass
        case _:
            assert_never(content)
