"""Kernel arguments and GRUB's files for another layout. Pure."""

import re
from collections.abc import Mapping
from typing import Final

from agent.identity.boot.names import (
    best_spec,
    device_paths,
    volume_at,
)
from agent.model.filesystems import fstab_type
from agent.model.layout import Layout, Swap
from agent.model.nodes import Array, LogicalVolume, Luks, VolumeGroup

_OURS: Final = (
    *("root", "rootflags", "rootfstype", "resume", "resume_offset"),
    *("rd.md.uuid", "rd_MD_UUID", "rd.lvm.lv", "rd_LVM_LV", "rd.lvm.vg", "rd_LVM_VG"),
    *("rd.luks.uuid", "rd_LUKS_UUID", "rd.luks.name", "luks.uuid", "luks.name", "cryptdevice"),
)
_SWITCHES: Final = (
    *("rd.md=0", "rd.lvm=0", "rd.luks=0", "rd.dm=0", "luks=no"),
    *("rd_NO_MD", "rd_NO_LVM", "rd_NO_LUKS", "rd_NO_DM"),
)
"""What keeps an initramfs from assembling what the new root stands on."""
_GRUBENV_BYTES: Final = 1024


def root_arguments(layout: Layout, *, dracut: bool) -> dict[str, tuple[str, ...]]:
    """Return the arguments that `layout` asks for, by name."""
    root = volume_at(layout, "/")
    if root is None:
        return {}
    found: dict[str, tuple[str, ...]] = {"root": (root_argument(layout),)}
    subvolume = dict(root.mounts).get("/")
    if subvolume:
        found["rootflags"] = (f"subvol={subvolume.lstrip('/')}",)
    swap = next((one for one in layout.volumes if isinstance(one.content, Swap)), None)
    if swap is not None:
        found["resume"] = (best_spec(layout, swap),)
    if not dracut:
        return found
    early = [root.on, *([swap.on] if swap else [])]
    if usr := volume_at(layout, "/usr"):
        early.append(usr.on)
    for start in early:
        for node in layout.carriers(start):
            match node:
                case Array(uuid=uuid):
                    _add(found, "rd.md.uuid", uuid)
                case Luks(uuid=uuid):
                    _add(found, "rd.luks.uuid", f"luks-{uuid}")
                case _:
                    continue
        if isinstance(volume := layout.node(start), LogicalVolume):
            group = layout.node(volume.on)
            assert isinstance(group, VolumeGroup)
            _add(found, "rd.lvm.lv", f"{group.name}/{volume.name}")
    return found


def root_argument(layout: Layout) -> str:
    """Return the value of `root=`: a mapped volume by its path, else by UUID."""
    root = volume_at(layout, "/")
    if root is None:
        raise ValueError("the layout has no volume at /")
    if isinstance(layout.node(root.on), LogicalVolume):
        return device_paths(layout, root.on)[0]
    return best_spec(layout, root)


def rewrite_arguments(
    text: str, wanted: Mapping[str, tuple[str, ...]], *, add: frozenset[str] | None = None
) -> str:
    """Return kernel arguments that say where root, swap and what they stand on are.

    An argument of these that `text` has is replaced in its place, or goes; one that it lacks is
    put at the end if `add` names it (None: all but `resume`). All others stay as they are.
    """
    left = {name: list(values) for name, values in wanted.items()}
    words = []
    for word in text.split():
        name = word.partition("=")[0]
        if word in _SWITCHES:
            continue
        if name not in _OURS or ("=" not in word and name != "root"):
            words.append(word)
        else:
            words += [f"{name}={value}" for value in left.pop(name, [])]
    for name, values in left.items():
        if name in add if add is not None else name != "resume":
            words += [f"{name}={value}" for value in values]
    return " ".join(words)


def rewrite_default_grub(
    text: str, wanted: Mapping[str, tuple[str, ...]], *, dracut: bool, boot_is_encrypted: bool
) -> str:
    """Return /etc/default/grub for the new layout.

    GRUB finds `root=` itself. What only dracut reads stands in GRUB_CMDLINE_LINUX.
    """
    early = {name: value for name, value in wanted.items() if name not in ("root", "rootflags")}
    adds = frozenset(early) - {"resume"} if dracut else frozenset()
    lines, seen = [], False
    for line in text.splitlines():
        found = re.match(
            r"^(\s*GRUB_CMDLINE_LINUX(?:_DEFAULT)?=)([\"']?)(.*?)\2(\s*(?:#.*)?)$", line
        )
        if found:
            is_main = "_DEFAULT" not in found[1]
            seen = seen or is_main
            sign = found[2] or '"'
            changed = rewrite_arguments(found[3], early, add=adds if is_main else frozenset())
            line = f"{found[1]}{sign}{changed}{sign}{found[4]}"
        elif re.match(r"^\s*GRUB_ENABLE_CRYPTODISK=", line):
            continue
        lines.append(line)
    if adds and not seen:
        lines.append(f'GRUB_CMDLINE_LINUX="{rewrite_arguments("", early, add=adds)}"')
    if boot_is_encrypted:
        lines.append("GRUB_ENABLE_CRYPTODISK=y")
    return "\n".join(lines) + "\n"


def rewrite_bls(text: str, wanted: Mapping[str, tuple[str, ...]]) -> str:
    """Return an entry of /boot/loader/entries for the new layout; `$kernelopts` stays."""
    lines = []
    for line in text.splitlines():
        found = re.match(r"^(options\s+)(.*)$", line)
        if found and "root=" in found[2]:
            line = found[1] + rewrite_arguments(found[2], wanted)
        lines.append(line)
    return "\n".join(lines) + "\n"


def rewrite_grubenv(text: str, wanted: Mapping[str, tuple[str, ...]]) -> str:
    """Return GRUB's environment block, of the one size that it can have.

    Raises ValueError if it does not fit.
    """
    lines = []
    for line in text.rstrip("#").splitlines():
        if line.startswith("kernelopts="):
            line = "kernelopts=" + rewrite_arguments(line.removeprefix("kernelopts="), wanted) + " "
        lines.append(line)
    body = "\n".join(lines) + "\n"
    if len(body.encode()) > _GRUBENV_BYTES:
        raise ValueError("the kernel arguments do not fit into grubenv")
    return body + "#" * (_GRUBENV_BYTES - len(body.encode()))


def rewrite_grub_cfg(
    text: str, wanted: Mapping[str, tuple[str, ...]], old: Layout, new: Layout
) -> str:
    """Return grub.cfg with the kernels' arguments and the UUIDs of what moved.

    For systems whose own grub-mkconfig is not run; it is made anew where it is.
    """
    lines = []
    for line in text.splitlines():
        found = re.match(r"^(\s*(?:linux|linux16|linuxefi|kernel)\s+\S+\s+)(.*)$", line)
        if found and "root=" in found[2]:
            line = found[1] + rewrite_arguments(found[2], wanted)
        lines.append(line)
    joined = "\n".join(lines) + "\n"
    for before, after in moved_uuids(old, new).items():
        joined = joined.replace(before, after)
    return joined


def moved_uuids(old: Layout, new: Layout) -> dict[str, str]:
    """Return the UUID of each mounted volume that got another: old → new."""
    found = {}
    for volume in old.volumes:
        for point in volume.mount_points:
            now = volume_at(new, point)
            before = getattr(volume.content, "uuid", None)
            after = getattr(now.content, "uuid", None) if now else None
            if before and after and before != after and fstab_type(volume.content):
                found[before] = after
    return found


def _add(found: dict[str, tuple[str, ...]], name: str, value: str) -> None:
    if value not in found.get(name, ()):
        found[name] = (*found.get(name, ()), value)
