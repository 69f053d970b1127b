"""What the kernel calls a logical volume."""

from pathlib import Path

from agent.model.nodes import mapped_name


def mapper_path(group: str, lv: str) -> Path:
    """Return the device node of a volume: `/dev/mapper/vg--a-root`."""
    return Path("/dev/mapper") / mapped_name(group, lv)
