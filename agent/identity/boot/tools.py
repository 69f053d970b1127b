"""Which programs for disks and boot code a system holds. Read only."""

from typing import Final

from agent.model.boot_tools import Tool
from agent.system.rooted import RootedTree

_BIN: Final = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")
_HOOKS: Final = "/usr/share/initramfs-tools/hooks"
_DRACUT: Final = "/usr/lib/dracut/modules.d/*"
_PROGRAMS: Final = {
    Tool.MDADM: ("mdadm",),
    Tool.LVM: ("lvm",),
    Tool.CRYPTSETUP: ("cryptsetup",),
    Tool.XFS: ("xfs_repair",),
    Tool.BTRFS: ("btrfs",),
    Tool.F2FS: ("fsck.f2fs",),
    Tool.GRUB: ("grub-install", "grub2-install"),
}
_FILES: Final = {
    Tool.MDADM_EARLY: (f"{_HOOKS}/mdadm", f"{_DRACUT}mdraid"),
    Tool.LVM_EARLY: (f"{_HOOKS}/lvm2", f"{_DRACUT}lvm"),
    Tool.CRYPTSETUP_EARLY: (f"{_HOOKS}/cryptroot", f"{_DRACUT}crypt"),
    Tool.GRUB_BIOS: ("/usr/lib/grub/i386-pc/moddep.lst",),
    Tool.GRUB_UEFI: ("/usr/lib/grub/x86_64-efi/moddep.lst",),
    Tool.EFI_LOADER: ("/boot/efi/EFI/*/shim*.efi",),
}


def find_tools(tree: RootedTree) -> tuple[str, ...]:
    """Return the names of the `Tool`s that the system in `tree` holds, sorted."""
    found = [
        tool
        for tool, names in _PROGRAMS.items()
        if any(tree.exists(f"{folder}/{name}") for folder in _BIN for name in names)
    ]
    found += [tool for tool, paths in _FILES.items() if any(tree.glob(path) for path in paths)]
    return tuple(sorted(str(tool) for tool in found))
