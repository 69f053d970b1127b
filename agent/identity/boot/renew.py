"""Initramfs and boot code made anew by the system's own programs, in a sandbox."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import AgentError
from agent.identity.boot.rewrite import is_dracut
from agent.model.template import Firmware
from agent.system import block
from agent.system.command import Runner
from agent.system.rooted import RootedTree
from agent.system.sandbox import run_inside
from agent.tools import boot_sector

INITRAMFS_S: Final = 1800
GRUB_S: Final = 600
ESP: Final = "/boot/efi"
_EFI_TARGET: Final = "x86_64-efi"
_BIOS_TARGET: Final = "i386-pc"


class BootFailed(AgentError):
    """The system's own programs could not make it bootable."""


@dataclass(frozen=True, slots=True)
class BootTarget:
    """Where boot code is to go."""

    firmware: tuple[Firmware, ...]
    disks: tuple[Path, ...]
    """For BIOS: each disk that the machine may start from, so every leg of a mirror."""
    devices: tuple[Path, ...]
    """All that the programs may see: disks, partitions, arrays, mapped volumes."""
    bootloader_id: str = "debian"
    """The folder below EFI, `OsIdentity.id`."""


def renew_boot(run: Runner, root: Path, target: BootTarget) -> None:
    """Make initramfs, boot code and GRUB's menu of the system mounted at `root` anew.

    All its filesystems are mounted, one ESP at /boot/efi; `copy_esp` brings the others up to date.
    Its files say the new layout already. Afterwards the boot code is on the disks: take it away
    with `take_boot_code` until the commit. Raises SandboxFailed with a program's last lines.
    """
    with RootedTree(root) as tree:
        steps = tuple(boot_programs(tree, target))
    for argv, timeout_s in steps:
        forget_old_reads(target.devices)
        run_inside(run, root, argv, devices=target.devices, timeout_s=timeout_s)


def forget_old_reads(devices: Sequence[Path]) -> None:
    """Let what was written through an array or a mapped volume be seen on what it stands on.

    GRUB reads the members themselves. The kernel may still have their pages from before the array
    was made, when it looked for signatures there, and in the sandbox GRUB may not drop them.
    """
    os.sync()
    for device in devices:
        block.flush(device)


def boot_programs(tree: RootedTree, target: BootTarget) -> Iterator[tuple[list[str], float]]:
    """Yield the programs to run, in order, each with its time limit in seconds.

    Raises BootFailed if the system has none that could do it.
    """
    if is_dracut(tree):
        yield ["dracut", "--force", "--regenerate-all"], INITRAMFS_S
    elif tree.exists("/usr/sbin/update-initramfs"):
        yield ["update-initramfs", "-u", "-k", "all"], INITRAMFS_S
    else:
        raise BootFailed("the system has neither update-initramfs nor dracut")
    grub = _grub(tree)
    if Firmware.BIOS in target.firmware:
        for disk in target.disks:
            node = f"/dev/{disk.resolve().name}"
            yield [f"{grub}-install", f"--target={_BIOS_TARGET}", "--recheck", node], GRUB_S
    if Firmware.UEFI in target.firmware and has_grub_for(tree, Firmware.UEFI):
        words = [f"{grub}-install", f"--target={_EFI_TARGET}", f"--efi-directory={ESP}"]
        words += ["--no-nvram", "--recheck"]
        yield [*words, f"--bootloader-id={target.bootloader_id}"], GRUB_S
        yield [*words, "--removable"], GRUB_S
    # without its own GRUB for UEFI, a signed one lies on the ESP and reads the same menu
    yield [f"{grub}-mkconfig", "-o", f"/boot/{grub}/grub.cfg"], GRUB_S


def has_grub_for(tree: RootedTree, firmware: Firmware) -> bool:
    """Return whether the system can make boot code for `firmware` itself."""
    target = _BIOS_TARGET if firmware is Firmware.BIOS else _EFI_TARGET
    return tree.exists(f"/usr/lib/grub/{target}/moddep.lst")


def _grub(tree: RootedTree) -> str:
    for name in ("grub", "grub2"):
        if tree.exists(f"/usr/sbin/{name}-install"):
            return name
    raise BootFailed("the system has no grub-install")


def take_boot_code(device: Path) -> bytes:
    """Take the boot code off a disk: return it for the commit and leave the pending stub."""
    code = boot_sector.read_boot_code(device)
    boot_sector.write_boot_code(device, boot_sector.PENDING_STUB)
    block.flush(device)
    if not boot_sector.is_boot_code(code):
        raise BootFailed(f"grub-install left no boot code on {device}")
    return code


def take_head(device: Path, offset: int, size: int) -> bytes:
    """Take the first bytes of an ESP away: return them for the commit and leave zeros.

    It must be unmounted. `device` is the one that the commit writes through: the whole disk, which
    may still show what GRUB read there while the ESP was mounted, as one not unmounted cleanly.
    """
    block.flush(device)
    head = boot_sector.read_at(device, offset, size)
    boot_sector.write_at(device, offset, bytes(size))
    block.flush(device)
    if not any(head):
        raise BootFailed(f"there is no filesystem at {offset} of {device}")
    return head


def boot_devices(disks: Sequence[Path], others: Sequence[Path]) -> tuple[Path, ...]:
    """Return disks, the partitions that the kernel sees on them, and `others`: arrays, volumes."""
    found = list(disks)
    for disk in disks:
        found += block.partition_nodes(disk.resolve())
    return (*found, *others)
