"""Which bytes of a volume are worth keeping, by its content. Two sources where there are two."""

from pathlib import Path
from typing import assert_never

from agent.errors import SourceUnfit
from agent.model.layout import BootCode, Content, Ext, Raw, Swap, Vfat
from agent.system.command import Runner
from agent.tools import dumpe2fs, fat, partclone
from agent.units import Extent


def used_extents(
    run: Runner, device: Path, content: Content, size_bytes: int
) -> tuple[Extent, ...]:
    """Return the used extents of the volume on `device`, which has `size_bytes`.

    What we cannot vouch for is one extent: it is kept whole, without its runs of zeros. Raises
    SourceUnfit, with the command that helps, for a filesystem that was not shut down cleanly.
    """
    match content:
        case Ext():
            return _ext(run, device, size_bytes)
        case Vfat():
            return _vfat(run, device, size_bytes)
        case Raw() | BootCode():
            return (Extent(0, size_bytes),)
        case Swap():
            return ()
    assert_never(content)


def _ext(run: Runner, device: Path, size_bytes: int) -> tuple[Extent, ...]:
    facts = dumpe2fs.ext_facts(run, device)
    dumpe2fs.check_clean(facts, device)
    if facts.size_bytes > size_bytes:
        raise SourceUnfit(
            (f"the filesystem on {device} has {facts.size_bytes} bytes, its place {size_bytes}",)
        )
    if "bigalloc" in facts.features:
        return (Extent(0, facts.size_bytes),)  # partclone's map of these cannot be trusted
    used = partclone.used_extents(run, device, "extfs", size_bytes)
    dumpe2fs.check_used(used, dumpe2fs.free_extents(run, device), facts)
    return used


def _vfat(run: Runner, device: Path, size_bytes: int) -> tuple[Extent, ...]:
    shape, used = fat.fat_used_extents(device)
    if shape.size_bytes > size_bytes:
        raise SourceUnfit(
            (f"the filesystem on {device} has {shape.size_bytes} bytes, its place {size_bytes}",)
        )
    if shape.bits == 12:
        return used  # partclone 0.3.23 reads these tables wrongly
    second = partclone.used_extents(run, device, "vfat", size_bytes)
    if lost := dumpe2fs.first_outside(second, used):
        raise SourceUnfit(
            (
                f"two programs disagree about what is used on {device}: {lost.size} bytes at "
                f"{lost.offset} are free by the table and in use for partclone",
            ),
            hint=f"run fsck.vfat -n {device}; if it is sound, report this as a bug",
        )
    return used
