"""efibootmgr(8): one boot entry for the deployed system, no duplicates, the network kept first."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import DiskError
from agent.system.command import Runner
from agent.tools.fat_directory import Fat, find_directory, find_file

EFIVARS: Final = Path("/sys/firmware/efi/efivars")
FALLBACK: Final = {"x86_64": "EFI/BOOT/BOOTX64.EFI", "aarch64": "EFI/BOOT/BOOTAA64.EFI"}
_LOADERS: Final = {
    "x86_64": ("shimx64.efi", "grubx64.efi", "systemd-bootx64.efi"),
    "aarch64": ("shimaa64.efi", "grubaa64.efi", "systemd-bootaa64.efi"),
}
_NOT_A_SYSTEM: Final = frozenset({"boot", "tools", "dell", "hp", "lenovo"})
_ENTRY = re.compile(r"Boot(?P<number>[0-9A-F]{4})(?P<active>\*?) (?P<rest>.*)")


@dataclass(frozen=True, slots=True)
class EfiEntries:
    """What the firmware boots. Numbers are four hexadecimal digits."""

    current: str | None
    order: tuple[str, ...]
    entries: dict[str, str]
    """Number → label and device path, as printed."""


def parse_entries(text: str) -> EfiEntries:
    current: str | None = None
    order: tuple[str, ...] = ()
    entries: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("BootCurrent:"):
            current = line.split(":", 1)[1].strip()
        elif line.startswith("BootOrder:"):
            order = tuple(word for word in line.split(":", 1)[1].strip().split(",") if word)
        elif found := _ENTRY.fullmatch(line):
            entries[found["number"]] = found["rest"]
    return EfiEntries(current, order, entries)


def find_loader(fat: Fat, arch: str, vendor: str | None) -> str | None:
    r"""Return the loader's path on the ESP, `EFI/debian/shimx64.efi`, None if there is none.

    The system's own directory goes first, then any other; shim before what it loads. The
    fallback is the last resort.
    """
    names = [entry.name for entry in find_directory(fat, "EFI") if entry.is_directory]
    names = [name for name in names if name.lower() not in _NOT_A_SYSTEM]
    names.sort(key=lambda name: (name.lower() != (vendor or "").lower(), name.lower()))
    for name in names:
        for loader in _LOADERS.get(arch, ()):
            if find_file(fat, f"EFI/{name}/{loader}"):
                return f"EFI/{name}/{loader}"
    fallback = FALLBACK.get(arch)
    return fallback if fallback and find_file(fat, fallback) else None


def has_fallback(fat: Fat, arch: str) -> bool:
    """Return whether the firmware finds a loader without any entry of its own."""
    fallback = FALLBACK.get(arch)
    return bool(fallback and find_file(fat, fallback))


def ordered(entries: EfiEntries, ours: str) -> tuple[str, ...]:
    """Return the boot order with `ours` right behind what this machine was started by.

    A machine that starts from the network goes on doing so: the server then says "boot from
    disk", and the firmware goes on to the next entry, which is ours.
    """
    rest = [number for number in entries.order if number != ours]
    at = rest.index(entries.current) + 1 if entries.current in rest else 0
    return (*rest[:at], ours, *rest[at:])


def write_entry(
    run: Runner, disk: Path, number: int, partition_uuid: str, loader: str, label: str
) -> str:
    """Make the entry and put it in the order; return its number.

    Entries that point at this very partition are of an earlier deployment and go.
    """
    before = parse_entries(run(["efibootmgr", "--verbose"]).text)
    for old, text in before.entries.items():
        if partition_uuid.lower() in text.lower():
            run(["efibootmgr", "--bootnum", old, "--delete-bootnum"])
    between = parse_entries(run(["efibootmgr", "--verbose"]).text)
    run(
        [
            "efibootmgr",
            "--create-only",  # its place in the order is set below
            "--disk",
            disk,
            "--part",
            str(number),
            "--loader",
            "\\" + loader.replace("/", "\\"),
            "--label",
            label,
        ]
    )
    after = parse_entries(run(["efibootmgr", "--verbose"]).text)
    made = [entry for entry in after.entries if entry not in between.entries]
    if not made:
        raise DiskError("the firmware took no boot entry")
    ours = made[0]
    run(["efibootmgr", "--bootorder", ",".join(ordered(between, ours))])
    return ours
