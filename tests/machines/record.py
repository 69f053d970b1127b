"""Records a machine: run it there as root, where the agent is importable, and keep its output.

    python3 record.py > recorded.txt

Writes the parts of sysfs and proc that the probe reads, udev's database, netlink's answer and the
programs that the probe ran, as they are. `tests.machines.recorded` unpacks it again.
"""

import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from agent.errors import CommandFailed
from agent.probe import probe_inventory
from agent.system.command import Run

BLOCK_FILES = [
    "dev",
    "size",
    "ro",
    "removable",
    "hidden",
    "serial",
    "wwid",
    "partition",
    "start",
    "queue/logical_block_size",
    "queue/physical_block_size",
    "queue/rotational",
    "md/level",
    "md/metadata_version",
    "md/uuid",
    "md/array_state",
    "md/degraded",
    "md/sync_action",
    "dm/name",
    "device/vendor",
    "device/model",
    "device/name",
    "device/serial",
    "device/wwid",
    "device/vpd_pg80",
    "device/raid_level",
]
DMI_FILES = [
    "sys_vendor",
    "product_name",
    "product_serial",
    "product_uuid",
    "board_vendor",
    "board_name",
    "bios_vendor",
    "bios_version",
]
LINKS = [
    "/sys/block/*",
    "/sys/class/block/*",
    "/sys/block/*/device",
    "/sys/class/block/*/holders/*",
    "/sys/class/block/*/slaves/*",
    "/sys/bus/pci/devices/*",
    "/sys/bus/pci/devices/*/driver",
    "/sys/class/net/*",
    "/sys/class/net/*/device",
    "/sys/class/net/*/device/driver",
    "/sys/class/dmi/id",
]
FILES = [
    *(f"/sys/class/block/*/{name}" for name in BLOCK_FILES),
    *(f"/sys/bus/pci/devices/*/{name}" for name in ("class", "vendor", "device")),
    *(f"/sys/class/net/*/{name}" for name in ("address", "type", "carrier", "speed")),
    *(f"/sys/class/dmi/id/{name}" for name in DMI_FILES),
    "/sys/firmware/efi/fw_platform_size",
    "/sys/firmware/efi/efivars/SecureBoot-*",
    "/sys/firmware/efi/efivars/SetupMode-*",
    "/proc/swaps",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/arch",
]
SKIP = ("/sys/block/loop", "/sys/class/block/loop", "/sys/class/block/zram", "/sys/block/zram")
KEPT_LINES = {
    "/proc/cpuinfo": r"(processor|model name)\s*:",
    "/proc/meminfo": r"MemTotal:",
    "/proc/self/mountinfo": r".* - \S+ /dev/",
}


def glob(pattern: str) -> Iterator[str]:
    return map(str, Path("/").glob(pattern[1:]))


def real(path: str) -> str:
    """Return `path` with its folder resolved and its last part as it is."""
    folder, _, name = path.rpartition("/")
    return f"{os.path.realpath(folder)}/{name}".replace(f"/proc/{os.getpid()}/", "/proc/self/")


def record_tree() -> str:
    found: dict[str, str] = {}
    for pattern in LINKS:
        for path in glob(pattern):
            if not path.startswith(SKIP):
                found[real(path)] = f"{real(path)} -> {Path(path).readlink()}"
    for pattern in FILES:
        for path in glob(pattern):
            if path.startswith(SKIP) or Path(path).is_dir():
                continue
            try:
                data = Path(path).read_bytes()
            except OSError:
                continue
            found[real(path)] = entry(real(path), data)
    for path, pattern in KEPT_LINES.items():
        lines = [line for line in Path(path).read_text().splitlines() if re.match(pattern, line)]
        found[path] = entry(path, "\n".join(lines).encode())
    return "\n".join(found[path] for path in sorted(found))


def entry(path: str, data: bytes) -> str:
    """Return a file as its name and, indented, its text; as hexadecimal if it is not text."""
    if all(byte in (9, 10) or 32 <= byte < 127 for byte in data):
        lines = data.decode().splitlines()
        return "\n".join([path, *(f"\t{line}" for line in lines)])
    return f"{path} hex\n\t{data.hex()}"


def record() -> str:
    said: list[str] = []

    class Recorder:
        def __call__(self, words, **options):  # type: ignore[no-untyped-def]
            line = "$ " + shlex.join(map(str, words))
            try:
                output = Run()(words, **options)
            except CommandFailed as error:
                said.append(f"{line}\n! {error}")
                raise
            said.append(f"{line}\n{output.text.rstrip()}")
            return output

    probe_inventory(Recorder())
    udev = Run()(["udevadm", "info", "--export-db"], ok=(0, 1)).text if has_udev() else ""
    blocks = [text for text in udev.split("\n\n") if "\nE: SUBSYSTEM=block" in text]
    kept = [text for text in blocks if "/loop" not in text]
    sections = {
        "tree": record_tree(),
        "udev": "\n\n".join(kept),
        "ip": Run()(["ip", "-json", "address"]).text.strip(),
        "programs": "\n".join(said),
    }
    return "".join(f"==> {name} <==\n{text}\n" for name, text in sections.items())


def has_udev() -> bool:
    return any(Path(folder, "udevadm").exists() for folder in ("/usr/bin", "/bin", "/sbin"))


if __name__ == "__main__":
    sys.stdout.write(record())
