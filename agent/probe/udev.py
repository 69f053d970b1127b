"""What udev knows of block devices: identities that need commands sent to the disk."""

from collections.abc import Mapping

UdevDb = Mapping[str, Mapping[str, str]]
"""Properties by kernel name: `{"sda": {"ID_SERIAL_SHORT": …}}`."""


def probe_udev() -> UdevDb:
    """Return udev's properties of every block device; without udevd there are few."""
    import pyudev  # not needed by most commands

    return {
        device.sys_name: dict(device.properties)
        for device in pyudev.Context().list_devices(subsystem="block")
    }


def parse_udev_db(text: str) -> UdevDb:
    """Return the block devices in the text of `udevadm info --export-db`."""
    found: dict[str, dict[str, str]] = {}
    for record in text.split("\n\n"):
        properties = dict(
            line[3:].partition("=")[::2] for line in record.splitlines() if line[:3] == "E: "
        )
        if properties.get("SUBSYSTEM") == "block" and "DEVPATH" in properties:
            found[properties["DEVPATH"].rpartition("/")[2]] = properties
    return found
