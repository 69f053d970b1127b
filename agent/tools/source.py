"""What is on a disk that is to be captured: table, contents, health. Only reads."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from agent.errors import AgentError, SourceUnfit, hint_of
from agent.model.inventory import Drive
from agent.model.nodes import ESP_TYPE
from agent.model.plan import FoundLayout, FoundPartition, PlannedPartition
from agent.system import block
from agent.system.command import Runner
from agent.tools import boot_sector
from agent.tools.dumpe2fs import check_clean, ext_facts
from agent.tools.efibootmgr import find_loader, has_fallback
from agent.tools.ext import minimum_bytes
from agent.tools.fat import fat_used_extents
from agent.tools.fat_directory import open_fat
from agent.tools.sfdisk import read_table
from agent.tools.xfs import check_fit, xfs_facts

EXT: Final = ("ext2", "ext3", "ext4")
_SWAP_MAGIC: Final = (b"SWAPSPACE2", b"SWAP-SPACE")
_PAGES: Final = (4096, 8192, 16384, 65536)
_BLKID_UNCLEAR: Final = 8

PartitionNode = Callable[[Path, int], Path]


def node_of(disk: Path, number: int) -> Path:
    return Path(block.partition_path(disk, number))


def read_layout(
    run: Runner, drive: Drive, arch: str = "x86_64", partition: PartitionNode = node_of
) -> FoundLayout:
    """Return the table of `drive` and what each partition holds. Nothing is written."""
    disk = Path(drive.path)
    table = read_table(run, disk)
    code = boot_sector.is_boot_code(boot_sector.read_boot_code(disk))
    if table is None or table.label != "gpt":
        return FoundLayout(table=table.label if table else None, uuid=None, boot_code=code)
    found = tuple(read_partition(run, disk, part, partition) for part in table.partitions)
    loader, fallback = _read_esp(disk, found, arch)
    return FoundLayout(
        table=table.label,
        uuid=table.uuid,
        partitions=found,
        boot_code=code,
        efi_loader=loader,
        has_fallback_loader=fallback,
        is_hybrid=boot_sector.read_foreign_mbr_entries(disk) > 0,
    )


def probe_tags(run: Runner, disk: Path, part: PlannedPartition) -> dict[str, str]:
    """Return libblkid's tags of a partition's content: TYPE, UUID, LABEL; empty if unknown."""
    answer = run(
        [
            "blkid",
            "--probe",
            f"--offset={part.offset_bytes}",
            f"--size={part.size_bytes}",
            "--output=export",
            disk,
        ],
        ok=(0, 2, _BLKID_UNCLEAR),
    )
    if answer.status == _BLKID_UNCLEAR:
        return {"TYPE": "ambiguous"}
    return dict(line.split("=", 1) for line in answer.text.splitlines() if "=" in line)


def read_partition(
    run: Runner, disk: Path, part: PlannedPartition, partition: PartitionNode
) -> FoundPartition:
    """Return what partition `part` of `disk` holds, and why it cannot be captured, if so."""
    tags = probe_tags(run, disk, part)
    what = tags.get("TYPE")
    found = FoundPartition(
        number=part.number,
        offset_bytes=part.offset_bytes,
        size_bytes=part.size_bytes,
        type=part.type,
        uuid=part.uuid,
        name=part.name,
        attributes=part.attributes,
        what=what,
        content_uuid=_unescaped(tags.get("UUID")) or None,
        label=_unescaped(tags.get("LABEL")) or "",
        content_bytes=part.size_bytes,
        used_bytes=part.size_bytes,
        minimum_bytes=part.size_bytes,
    )
    node = partition(disk, part.number)
    try:
        if what in EXT:
            return _with_ext(run, found, node)
        if what == "xfs":
            return _with_xfs(run, found, node)
        if what == "vfat":
            return _with_vfat(found, node)
        if what in ("swap", "swsuspend"):
            return _with_swap(found, disk)
    except AgentError as error:
        return msgspec.structs.replace(found, unfit=(_said(error),))
    return found


def _with_ext(run: Runner, found: FoundPartition, node: Path) -> FoundPartition:
    facts = ext_facts(run, node)
    unfit: tuple[str, ...] = ()
    try:
        check_clean(facts, node)
    except SourceUnfit as error:
        unfit = (_said(error),)
    size = facts.blocks * facts.block_bytes
    least = None if unfit else minimum_bytes(run, node, facts.block_bytes)
    return msgspec.structs.replace(
        found,
        content_uuid=facts.uuid,
        label=facts.label,
        block_bytes=facts.block_bytes,
        features=facts.features,
        content_bytes=size,
        used_bytes=facts.used_bytes,
        minimum_bytes=min(least or size, size),
        unfit=unfit,
    )


def _with_xfs(run: Runner, found: FoundPartition, node: Path) -> FoundPartition:
    facts = xfs_facts(run, node)
    unfit: tuple[str, ...] = ()
    try:
        check_fit(run, facts, node)
    except SourceUnfit as error:
        unfit = (_said(error),)
    return msgspec.structs.replace(
        found,
        content_uuid=facts.uuid,
        label=facts.label,
        block_bytes=facts.block_bytes,
        content_bytes=facts.size_bytes,
        used_bytes=facts.used_bytes,
        minimum_bytes=facts.size_bytes,
        unfit=unfit,
    )


def _with_vfat(found: FoundPartition, node: Path) -> FoundPartition:
    shape, used = fat_used_extents(node)
    unfit: tuple[str, ...] = ()
    if shape.is_dirty:
        unfit = (
            f"the FAT filesystem on {node} was not unmounted cleanly: run fsck.vfat -a {node}",
        )
    return msgspec.structs.replace(
        found,
        content_bytes=min(shape.size_bytes, found.size_bytes),
        used_bytes=sum(run.size for run in used),
        minimum_bytes=min(shape.size_bytes, found.size_bytes),
        unfit=unfit,
    )


def _with_swap(found: FoundPartition, disk: Path) -> FoundPartition:
    head = boot_sector.read_at(disk, found.offset_bytes, min(max(_PAGES), found.size_bytes))
    pages = [page for page in _PAGES if head[page - 10 : page] in _SWAP_MAGIC]
    page = pages[0] if pages else 4096
    return msgspec.structs.replace(found, block_bytes=page, used_bytes=0, minimum_bytes=10 * page)


def _read_esp(
    disk: Path, found: tuple[FoundPartition, ...], arch: str
) -> tuple[str | None, bool | None]:
    esp = next((p for p in found if p.type == ESP_TYPE and p.what == "vfat"), None)
    if esp is None:
        return None, None
    fat = open_fat(lambda at, size: boot_sector.read_at(disk, esp.offset_bytes + at, size))
    return find_loader(fat, arch, None), has_fallback(fat, arch)


def _said(error: AgentError) -> str:
    hint = hint_of(error)
    return f"{error}: {hint}" if hint else str(error)


def _unescaped(text: str | None) -> str | None:
    """Return a tag as it is: blkid's export form puts a backslash before signs a shell reads."""
    if text is None:
        return None
    plain, escaped = [], False
    for sign in text:
        if sign == "\\" and not escaped:
            escaped = True
            continue
        plain.append(sign)
        escaped = False
    return "".join(plain)
