"""A medium for technicians: the same kernel and image on a CD or USB disk, for BIOS and UEFI."""

import hashlib
import os
import re
import tempfile
from pathlib import Path

from agent.errors import UsageError
from images.base import EPOCH
from images.host import BuildError, require, run

GRUB = Path("/usr/lib/grub")
VOLUME = "METALCAST"

_ARGUMENT = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*(?:=[A-Za-z0-9_.,:/@+%=\[\]-]*)?")
"""What may stand in the menu: nothing that GRUB or a shell would read as more than a word."""

_SCREEN = "console=ttyS0,115200 console=tty0"
_SERIAL = "console=tty0 console=ttyS0,115200"
"""Both say everything; the last one is where the kernel, and so a shell, reads the answers."""

_ENTRIES = (
    ("Capture this server (rescue menu)", f"{_SCREEN} metalcast.mode=rescue"),
    (
        "Capture this server (rescue menu), on serial console ttyS0",
        f"{_SERIAL} metalcast.mode=rescue",
    ),
    ("Shell", f"{_SCREEN} metalcast.mode=shell"),
    ("Shell, on serial console ttyS0", f"{_SERIAL} metalcast.mode=shell"),
)
_COMMON = "loglevel=4"

_BIOS_MODULES = "biosdisk iso9660 part_msdos"
_EFI_MODULES = "iso9660 fat part_msdos part_gpt all_video"
_MODULES = (
    "search search_fs_file normal configfile linux echo test serial terminal minicmd reboot halt"
)


def parse_cmdline(text: str) -> tuple[str, ...]:
    """Return the kernel arguments in `text`. Raises UsageError unless each is one plain word."""
    words = tuple(text.split())
    for word in words:
        if not _ARGUMENT.fullmatch(word):
            raise UsageError(
                f"not a kernel argument for the menu: {word!r}",
                hint="letters, digits and _.,:/@+%=[]- only",
            )
    return words


def render_menu(arguments: tuple[str, ...], marker: str) -> str:
    """Return grub.cfg. An argument given by name replaces the menu's own of that name."""
    given = {word.split("=")[0] for word in arguments}
    lines = [
        "# A screen, a serial line or both: whatever this machine has.",
        "if serial --unit=0 --speed=115200; then",
        "  terminal_input --append serial",
        "  terminal_output --append serial",
        "fi",
        f"search --no-floppy --set=root --file /{marker}",
        "set default=0",
        "set timeout=10",
        "set timeout_style=menu",
    ]
    for title, own in _ENTRIES:
        mine = [w for w in f"{own} {_COMMON}".split() if w.split("=")[0] not in given - {"console"}]
        if "metalcast.mode=shell" in own:
            mine = f"{own} {_COMMON}".split()
            theirs = [w for w in arguments if not w.startswith("metalcast.mode=")]
        else:
            theirs = list(arguments)
        words = " ".join(["/boot/vmlinuz", *mine, *theirs])
        lines += [
            f'menuentry "{title}" {{',
            "  echo Loading Metalcast ...",
            f"  linux {words}",
            "  initrd /boot/initrd.img",
            "}",
        ]
    return "\n".join(lines) + "\n"


def write_iso(image: Path, target: Path, arguments: tuple[str, ...]) -> None:
    """Write the hybrid medium `target` with vmlinuz and initrd.img of the folder `image`."""
    require("xorriso", "grub-mkimage", "mformat", "mmd", "mcopy")
    for platform in ("i386-pc", "x86_64-efi"):
        if not (GRUB / platform).is_dir():
            raise BuildError(
                f"GRUB for {platform} is not installed here",
                hint="apt-get install grub-pc-bin grub-efi-amd64-bin",
            )
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        root = work / "root"
        (root / "boot/grub").mkdir(parents=True)
        for file in ("vmlinuz", "initrd.img"):
            (root / "boot" / file).write_bytes((image / file).read_bytes())
        marker = f"boot/metalcast-{_digest(image / 'initrd.img')}"
        (root / marker).write_text("")
        (root / "boot/grub/grub.cfg").write_text(render_menu(arguments, marker))
        _write_bios_loader(work, root, marker)
        _write_esp(work, marker)
        _set_times(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        _write_medium(root, work / "esp.img", partial)
        partial.replace(target)


def _write_bios_loader(work: Path, root: Path, marker: str) -> None:
    """Write the El Torito loader: GRUB's CD sector and its core."""
    core = work / "core.img"
    _make_image("i386-pc", f"{_BIOS_MODULES} {_MODULES}", work, core, marker)
    first = (GRUB / "i386-pc/cdboot.img").read_bytes()
    (root / "boot/grub/eltorito.img").write_bytes(first + core.read_bytes())


def _write_esp(work: Path, marker: str) -> None:
    """Write the EFI system partition, a FAT filesystem with GRUB in the fallback place."""
    loader, esp = work / "bootx64.efi", work / "esp.img"
    _make_image("x86_64-efi", f"{_EFI_MODULES} {_MODULES}", work, loader, marker)
    _set_times(work)
    size_kib = -(-(loader.stat().st_size + 128 * 1024) // (64 * 1024)) * 64
    esp.write_bytes(bytes(size_kib * 1024))
    fixed = {"SOURCE_DATE_EPOCH": str(EPOCH)}
    geometry = ("-h", "2", "-s", "32", "-t", str(size_kib // 32))
    run(["mformat", "-i", esp, *geometry, "-N", "4D435354", "::"], extra_env=fixed)
    run(["mmd", "-i", esp, "::EFI", "::EFI/BOOT"], extra_env=fixed)
    run(["mcopy", "-m", "-i", esp, loader, "::EFI/BOOT/BOOTX64.EFI"], extra_env=fixed)


def _make_image(platform: str, modules: str, work: Path, target: Path, marker: str) -> None:
    early = work / "early.cfg"
    early.write_text(
        f"search --no-floppy --set=root --file /{marker}\n"
        "set prefix=($root)/boot/grub\n"
        "configfile ($root)/boot/grub/grub.cfg\n"
    )
    argv: list[str | Path] = ["grub-mkimage", "--format", platform, "--prefix", "/boot/grub"]
    run([*argv, "--config", early, "--output", target, *modules.split()])


def _write_medium(root: Path, esp: Path, target: Path) -> None:
    stamp = "2020010100000000"
    argv: list[str | Path] = [
        *("xorriso", "-as", "mkisofs", "-quiet", "-r", "-J", "-V", VOLUME),
        *(f"--modification-date={stamp}", "--set_all_file_dates", stamp),
        # BIOS, from CD and, through the code in the MBR, from a disk.
        *("-b", "boot/grub/eltorito.img", "-no-emul-boot", "-boot-load-size", "4"),
        *("-boot-info-table", "--grub2-boot-info", "--mbr-force-bootable"),
        *("--grub2-mbr", str(GRUB / "i386-pc/boot_hybrid.img")),
        # UEFI: the same partition serves as El Torito image and as partition of a disk.
        *("-partition_offset", "16", "-append_partition", "2", "0xef", str(esp)),
        *("-eltorito-alt-boot", "-e", "--interval:appended_partition_2:all::", "-no-emul-boot"),
        *("-o", target, root),
    ]
    run(argv, extra_env={"SOURCE_DATE_EPOCH": str(EPOCH)})


def _set_times(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (EPOCH, EPOCH))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
