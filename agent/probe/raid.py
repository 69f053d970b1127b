"""RAID: controllers on the PCI bus, and Linux's own arrays."""

import re

from agent.model.inventory import MdArray, RaidController
from agent.probe.tree import Tree
from agent.probe.udev import UdevDb

RAID_DRIVERS = {
    "3w-9xxx": "3ware 9000",
    "3w-sas": "3ware SAS",
    "3w-xxxx": "3ware",
    "aacraid": "Adaptec / Microchip SmartRAID",
    "arcmsr": "Areca",
    "dac960": "Mylex",
    "hpsa": "HPE Smart Array",
    "ips": "IBM ServeRAID",
    "megaraid_mbox": "LSI MegaRAID (SCSI)",
    "megaraid_sas": "Broadcom MegaRAID (Dell PERC, Lenovo RAID)",
    "mpi3mr": "Broadcom MPI 3.0 (PERC 12, 9600 series)",
    "mpt2sas": "Broadcom SAS-2 HBA with integrated RAID",
    "mpt3sas": "Broadcom SAS-3 HBA with integrated RAID",
    "mptsas": "LSI SAS HBA with integrated RAID",
    "smartpqi": "HPE Smart Array / Microchip SmartRAID",
    "stex": "Promise SuperTrak",
    "vmd": "Intel Volume Management Device",
}
"""Drivers whose disks may be volumes of a RAID controller."""

_RAID_CLASS = re.compile(r"0x0104[0-9a-f]{2}")


def probe_raid_controllers(tree: Tree) -> tuple[RaidController, ...]:
    """Return PCI devices of the RAID class, or run by a driver of RAID controllers."""
    found = []
    for address in tree.names("/sys/bus/pci/devices"):
        at = f"/sys/bus/pci/devices/{address}"
        driver = tree.target_name(f"{at}/driver")
        if driver in RAID_DRIVERS or _RAID_CLASS.fullmatch(tree.text(f"{at}/class") or ""):
            ids = [(tree.text(f"{at}/{name}") or "0x?")[2:] for name in ("vendor", "device")]
            name = RAID_DRIVERS.get(driver or "")
            found.append(
                RaidController(
                    address=address, vendor_device=":".join(ids), driver=driver, name=name
                )
            )
    return tuple(found)


def probe_md_arrays(tree: Tree, udev: UdevDb) -> tuple[MdArray, ...]:
    """Return Linux's software RAID arrays that run now."""
    found = []
    for name in tree.names("/sys/class/block"):
        at = f"/sys/class/block/{name}/md"
        level = tree.text(f"{at}/level")
        if level is None:
            continue  # no array, or one that is not running
        found.append(
            MdArray(
                path=f"/dev/{name}",
                level=level,
                metadata=tree.text(f"{at}/metadata_version") or "unknown",
                uuid=tree.text(f"{at}/uuid") or udev.get(name, {}).get("MD_UUID"),
                state=_md_state(tree, at),
                members=tuple(
                    f"/dev/{member}" for member in tree.names(f"/sys/class/block/{name}/slaves")
                ),
            )
        )
    return tuple(found)


def _md_state(tree: Tree, at: str) -> str:
    words = [tree.text(f"{at}/array_state") or "unknown"]
    if missing := tree.number(f"{at}/degraded"):
        words.append(f"degraded by {missing}")
    if (action := tree.text(f"{at}/sync_action")) not in (None, "idle", "frozen"):
        words.append(str(action))
    return ", ".join(words)
