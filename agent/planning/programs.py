"""What a captured system lacks to boot from another layout. Pure.

It is asked before the first write: a system cannot be given programs that it does not have.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from agent.model.boot_tools import Tool
from agent.model.layout import Btrfs, F2fs, Layout, Volume, Xfs
from agent.model.nodes import Array, LogicalVolume, Luks, VolumeGroup
from agent.model.template import Firmware, OsIdentity

_PACKAGES: Final = {
    Tool.MDADM: ("mdadm", "mdadm"),
    Tool.LVM: ("lvm2", "lvm2"),
    Tool.CRYPTSETUP: ("cryptsetup", "cryptsetup"),
    Tool.MDADM_EARLY: ("mdadm", "dracut"),
    Tool.LVM_EARLY: ("lvm2", "dracut"),
    Tool.CRYPTSETUP_EARLY: ("cryptsetup-initramfs", "dracut"),
    Tool.XFS: ("xfsprogs", "xfsprogs"),
    Tool.BTRFS: ("btrfs-progs", "btrfs-progs"),
    Tool.F2FS: ("f2fs-tools", "f2fs-tools"),
    Tool.GRUB: ("grub2-common", "grub2-tools"),
    Tool.GRUB_BIOS: ("grub-pc-bin", "grub2-pc-modules"),
    Tool.GRUB_UEFI: ("grub-efi-amd64-bin", "grub2-efi-x64-modules"),
}
"""The packages of Debian's family and of Red Hat's."""


def missing_programs(
    os: OsIdentity, layout: Layout, firmware: Iterable[Firmware]
) -> tuple[str, ...]:
    """Return why the system `os` would not boot from `layout`, a sentence for each thing it lacks.

    A template that was made before tools were recorded says nothing, and nothing is held against
    it. Each sentence names the package to install in the source.
    """
    if os.tools is None:
        return ()
    found = []
    if os.initramfs_tool not in ("initramfs-tools", "dracut"):
        found.append(
            f"{os.pretty_name} makes its initramfs by {os.initramfs_tool or 'no program we know'}, "
            "which cannot be made to fit another layout: install initramfs-tools or dracut"
        )
    if os.bootloader != "grub2":
        found.append(
            f"{os.pretty_name} boots by {os.bootloader or 'no loader we know'}, "
            "which cannot be installed anew: install GRUB 2"
        )
    seen: set[Tool] = set()
    for tool, why in _needs(os, layout, firmware):
        if tool not in os.tools and tool not in seen:
            seen.add(tool)
            package = _PACKAGES[tool][os.initramfs_tool == "dracut"]
            found.append(
                f"{os.pretty_name} lacks what {why} needs: "
                f"install {package} in the source and capture it again"
            )
    return tuple(found)


def _needs(
    os: OsIdentity, layout: Layout, firmware: Iterable[Firmware]
) -> Iterator[tuple[Tool, str]]:
    early = {
        node for volume in layout.volumes if _is_early(volume) for node in _below(layout, volume.on)
    }
    for node in layout.nodes:
        match node:
            case Array():
                yield Tool.MDADM, f"the array {node.id}"
                if node.id in early:
                    yield Tool.MDADM_EARLY, f"/ on the array {node.id}"
            case VolumeGroup() | LogicalVolume():
                yield Tool.LVM, f"the volume {node.name}"
                if node.id in early:
                    yield Tool.LVM_EARLY, f"/ on the volume {node.name}"
            case Luks():
                yield Tool.CRYPTSETUP, f"the encrypted {node.on}"
                if node.id in early:
                    yield Tool.CRYPTSETUP_EARLY, f"/ on the encrypted {node.on}"
            case _:
                continue
    for volume in layout.volumes:
        where = volume.mount or volume.id
        match volume.content:
            case Xfs():
                yield Tool.XFS, f"xfs at {where}"
            case Btrfs():
                yield Tool.BTRFS, f"btrfs at {where}"
            case F2fs():
                yield Tool.F2FS, f"f2fs at {where}"
            case _:
                continue
    yield Tool.GRUB, "new boot code"
    for one in firmware:
        if one is Firmware.BIOS:
            yield Tool.GRUB_BIOS, "boot code for BIOS"
        elif Tool.EFI_LOADER not in (os.tools or ()):
            yield Tool.GRUB_UEFI, "boot code for UEFI"


def _is_early(volume: Volume) -> bool:
    return bool({"/", "/usr"} & set(volume.mount_points))


def _below(layout: Layout, node_id: str) -> set[str]:
    found = {node_id}
    for node in reversed(layout.nodes):
        if node.id in found:
            found.update(node.below)
    return found
