"""The firmware's boot entry for the deployed system."""

from pathlib import Path

from agent.devices import Devices
from agent.errors import AgentError, DiskError
from agent.model.nodes import Partition
from agent.model.steps import EfiEntry
from agent.system.command import Runner
from agent.tools import boot_sector, efibootmgr
from agent.tools.fat_directory import open_fat


def add_efi_entry(
    run: Runner, efivars: Path, arch: str, step: EfiEntry, devices: Devices, head: bytes
) -> str | None:
    """Make the firmware's entry. Without one only the fallback loader boots: then it must exist.

    `head` is what is withheld of the ESP until the commit. Some firmware refuses new variables;
    that is worth a warning, which is returned, not the whole deployment.
    """
    part = devices.layout.node(step.partition)
    assert isinstance(part, Partition)
    disk, offset = devices.paths[part.on], part.offset_bytes

    def read(at: int, size: int) -> bytes:
        if at + size <= len(head):
            return head[at : at + size]
        data = boot_sector.read_at(disk, offset + at, size)
        return head[at:] + data[len(head) - at :] if at < len(head) else data

    fat = open_fat(read)
    loader = efibootmgr.find_loader(fat, arch, step.label.split(" ")[0])
    if loader is None:
        raise DiskError(f"the EFI system partition has no loader for {arch}")
    try:
        if not efivars.is_dir():
            raise DiskError(f"the firmware's variables are not at {efivars}")
        efibootmgr.write_entry(run, disk, part.number, part.uuid, loader, step.label)
    except AgentError as error:
        if not efibootmgr.has_fallback(fat, arch):
            raise DiskError(
                f"the firmware took no boot entry, and there is no fallback loader "
                f"({efibootmgr.FALLBACK.get(arch)})"
            ) from error
        return f"no boot entry ({error}); the firmware will use the fallback loader"
    return None
