"""A template's files on another layout: copied from views, made bootable by their own programs."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from agent.devices import Devices
from agent.identity.boot.esp import copy_esp
from agent.identity.boot.relabel import ask_for_labels, has_selinux
from agent.identity.boot.renew import (
    BootTarget,
    boot_devices,
    renew_boot,
    take_boot_code,
    take_head,
)
from agent.identity.boot.rewrite import rewrite_boot_files
from agent.identity.values import Touched
from agent.model.event import Level, Logged
from agent.model.filesystems import fstype_of
from agent.model.layout import Layout, Vfat
from agent.model.nodes import Disk, Partition, VolumeGroup
from agent.model.plan import Plan
from agent.model.steps import CopiedVolume, CopyFiles, MountPoint, RenewBoot, VerifyFiles
from agent.model.template import Firmware
from agent.planning.stack import HEAD_BYTES
from agent.report import Report, silent
from agent.system import block
from agent.system.command import Runner
from agent.system.inode_flags import letters, unlocked_below
from agent.system.mount import (
    SOURCE_OPTIONS,
    SYSTEM_OPTIONS,
    TARGET_OPTIONS,
    Part,
    mounted,
    mounted_system,
)
from agent.tools.compare_files import compare_trees
from agent.tools.copy_files import copy_tree, finish_flags

View = Callable[[str], AbstractContextManager[Path]]
"""Shows a volume of the template as a read-only block device."""


def parts_of(devices: Devices, mounts: tuple[MountPoint, ...]) -> list[Part]:
    """Return what is mounted where, for `mounted_system`."""
    layout = devices.layout
    volumes = {volume.on: volume for volume in layout.volumes}
    return [
        Part(
            device=devices.path(mount.node),
            where=mount.where,
            fstype=fstype_of(volumes[mount.node].content),
            subvolume=mount.subvolume,
            further=tuple(devices.path(one.on) for one in layout.further(volumes[mount.node])),
        )
        for mount in mounts
    ]


def flush(parts: Iterable[Part]) -> None:
    """Have what was written to `parts` on the medium, and read from there from now on."""
    for part in parts:
        for device in (part.device, *part.further):
            block.flush(device)


def copy_files(
    run: Runner,
    step: CopyFiles,
    devices: Devices,
    view: View,
    mount_dir: Path,
    report: Report,
) -> None:
    """Copy all files of the template's volumes to the new filesystems, mounted as they will be."""
    source_dir = mount_dir.with_name(f"{mount_dir.name}-view")
    done = []
    parts = parts_of(devices, step.mounts)
    with mounted_system(run, mount_dir, parts, TARGET_OPTIONS, make_places=True):
        for one in step.copied:
            with _viewed(run, one, view, source_dir) as source:
                target = mount_dir / one.where.lstrip("/")
                target.mkdir(exist_ok=True)
                done.append(copy_tree(run, source, target, report, what=f"copy {one.what}"))
        for copied in done:
            finish_flags(copied, report)
    flush(parts)


def verify_files(
    run: Runner,
    step: VerifyFiles,
    seed: str,
    devices: Devices,
    view: View,
    mount_dir: Path,
    report: Report,
) -> int:
    """Compare the copied files, read from the medium, with the template's; return the bytes read.

    Both are mounted anew, so nothing of them is in memory. `seed` chooses the files of a sample.
    """
    source_dir = mount_dir.with_name(f"{mount_dir.name}-view")
    done = 0
    with mounted_system(run, mount_dir, parts_of(devices, step.mounts), SOURCE_OPTIONS):
        for one in step.copied:
            with _viewed(run, one, view, source_dir) as source:
                target = mount_dir / one.where.lstrip("/")
                what = f"read back {one.what}"
                compared = compare_trees(
                    source,
                    target,
                    step.mode,
                    report,
                    seed=seed,
                    where=one.where,
                    others=[other.where for other in step.copied if other is not one],
                    what=what,
                )
                done += compared.bytes
                text = f"{one.what}: {compared.files} files read back, as they were copied"
                report(Logged(level=Level.INFO, message=text))
    return done


@contextmanager
def _viewed(run: Runner, one: CopiedVolume, view: View, where: Path) -> Iterator[Path]:
    """Mount a view of one of the template's volumes, read-only."""
    with ExitStack() as stack:
        device, *further = [stack.enter_context(view(name)) for name in (one.volume, *one.further)]
        source = Part(device, "/", fstype_of(one.content), one.subvolume, tuple(further))
        options = source.options(SOURCE_OPTIONS)
        yield stack.enter_context(mounted(run, device, where, source.fstype, options))


def say_lifted(lifted: Mapping[str, str], report: Report) -> None:
    """Tell which files could be changed only without what chattr had set on them."""
    if lifted:
        named = ", ".join(f"{path} ({flags})" for path, flags in sorted(lifted.items()))
        text = f"flags lifted for a change and put back: {named}"
        report(Logged(level=Level.INFO, message=text))


def renew(
    run: Runner,
    step: RenewBoot,
    plan: Plan,
    devices: Devices,
    mount_dir: Path,
    report: Report = silent,
) -> tuple[Touched, ...]:
    """Let the system boot from its new layout: its files, initramfs, boot loader, every ESP."""
    disks = [devices.paths[disk] for disk in step.boot_disks]
    others = [
        path
        for node in plan.layout.nodes
        if not isinstance(node, Disk | Partition | VolumeGroup)
        and (path := devices.paths.get(node.id)) is not None
    ]
    target = BootTarget(
        firmware=(plan.firmware,),
        disks=tuple(disks),
        devices=boot_devices([devices.paths[disk.id] for disk in plan.disks], others),
        bootloader_id=step.bootloader_id,
    )
    parts = parts_of(devices, step.mounts)
    esps = [part.device for part in parts if part.fstype == "vfat"]
    with mounted_system(run, mount_dir, parts, SYSTEM_OPTIONS, make_places=True) as tree:
        touched = rewrite_boot_files(tree, step.was, plan.layout)
        with tree.directory("/boot") as boot, unlocked_below(boot) as locked:
            renew_boot(run, mount_dir, target)
        legs = [path for path in _esps(plan.layout, devices) if path not in esps]
        if legs:
            copy_esp(run, mount_dir / "boot/efi", legs)
        labelled = tuple(ask_for_labels(tree))
        touched += labelled
        if has_selinux(tree) and not labelled:
            text = "the system has SELinux but no fixfiles: new files have no label (restorecon)"
            report(Logged(level=Level.WARNING, message=text))
    below = {f"/boot/{path}": letters(flags) for path, flags in locked.items()}
    say_lifted(tree.lifted | below, report)
    flush(parts)
    return touched


def take_boot(plan: Plan, devices: Devices) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Take what would boot off the disks: boot code by disk, heads by volume, for the commit."""
    codes: dict[str, bytes] = {}
    heads: dict[str, bytes] = {}
    commit = plan.commit
    for disk in commit.disks if commit else ():
        path = devices.paths[disk.disk]
        if plan.firmware is Firmware.BIOS and disk.renewed:
            codes[disk.disk] = take_boot_code(path)
        for head in disk.heads:
            heads[head.volume] = take_head(path, head.offset_bytes, HEAD_BYTES)
    return codes, heads


def _esps(layout: Layout, devices: Devices) -> list[Path]:
    return [devices.path(v.on) for v in layout.volumes if isinstance(v.content, Vfat)]
