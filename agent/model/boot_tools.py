"""What a system must hold so that it can boot from a kind of layout: names for its programs."""

from enum import StrEnum


class Tool(StrEnum):
    """A program, or part of an initramfs tool, found in a captured system by its files."""

    MDADM = "mdadm"
    LVM = "lvm"
    CRYPTSETUP = "cryptsetup"
    MDADM_EARLY = "mdadm-initramfs"
    LVM_EARLY = "lvm-initramfs"
    CRYPTSETUP_EARLY = "cryptsetup-initramfs"
    XFS = "xfs"
    BTRFS = "btrfs"
    F2FS = "f2fs"
    GRUB = "grub"
    GRUB_BIOS = "grub-i386-pc"
    GRUB_UEFI = "grub-x86_64-efi"
    EFI_LOADER = "efi-loader"
    """A loader that lies on the ESP already: a signed shim with its GRUB."""
