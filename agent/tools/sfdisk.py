"""sfdisk(8): read and write a GPT or an MBR. Sectors live here and nowhere above."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from agent.errors import DiskError
from agent.model.nodes import Gpt, Mbr, Table
from agent.model.table import PlannedPartition, PlannedTable
from agent.model.wire import BadDocument
from agent.system.command import Runner
from agent.tools import boot_sector

_PLAIN: Final = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 .,:_+-=/()"
)
BOOTABLE: Final = "bootable"
"""The attribute of an MBR partition that is active."""
_FIRST_PARTITION_BYTES: Final = 1024 * 1024
_MBR_SECTORS: Final = 2**32 - 1
"""An MBR counts in 32 bits, and sfdisk leaves the last sector that they could name alone."""


@dataclass(frozen=True, slots=True)
class FoundTable:
    """A partition table as sfdisk sees it. GUIDs are in lower case.

    `label` is sfdisk's word: `gpt`, `dos`, or a kind that we do not know; then `table` is None.
    """

    label: str
    table: Table | None
    sector_bytes: int
    partitions: tuple[PlannedPartition, ...]


def table_script(table: PlannedTable) -> str:
    """Return the sfdisk script for `table`. Bytes become sectors here and nowhere else.

    Raises ValueError for a partition that is not made of whole sectors, or out of an MBR's reach.
    """
    reach = _MBR_SECTORS * table.sector_bytes if isinstance(table.table, Mbr) else None
    lines = [*_head(table), ""]
    for part in table.partitions:
        if reach is not None and part.extent.end > reach:
            raise ValueError(
                f"partition {part.number} ends at {part.extent.end}, an MBR at {reach}"
            )
        fields = [
            f"start={_sectors(part.offset_bytes, table.sector_bytes)}",
            f"size={_sectors(part.size_bytes, table.sector_bytes)}",
            f"type={part.type}",
        ]
        if isinstance(table.table, Gpt):
            fields.append(f"uuid={part.uuid}")
            if part.name:
                fields.append(f'name="{_escaped(part.name)}"')
            if part.attributes:
                fields.append(f'attrs="{_escaped(" ".join(part.attributes))}"')
        elif BOOTABLE in part.attributes:
            fields.append("bootable")
        lines.append(f"{part.number}: {', '.join(fields)}")
    return "\n".join(lines) + "\n"


def _head(table: PlannedTable) -> list[str]:
    if isinstance(table.table, Mbr):
        return [
            "label: dos",
            f"label-id: 0x{table.table.disk_id}",
            "unit: sectors",
            f"sector-size: {table.sector_bytes}",
        ]
    starts = [part.offset_bytes for part in table.partitions]
    first = min([_FIRST_PARTITION_BYTES, *starts])
    return [
        "label: gpt",
        f"label-id: {table.table.uuid}",
        "unit: sectors",
        f"first-lba: {_sectors(first, table.sector_bytes)}",
        f"sector-size: {table.sector_bytes}",
    ]


def write_table(run: Runner, device: Path, table: PlannedTable) -> None:
    """Write `table` to both ends of `device`; the kernel is told by `block.reread_table`.

    The boot code in the first sector stays, and so does whatever lies inside the partitions. The
    entries of a hybrid MBR go: only a protective one is left.
    """
    run(
        [
            "sfdisk",
            "--quiet",
            "--no-reread",
            "--no-tell-kernel",
            "--wipe=never",  # a signature in the gaps is ours
            "--wipe-partitions=never",  # at the commit they hold the restored filesystems
            device,
        ],
        stdin=table_script(table),
    )


def read_table(run: Runner, device: Path) -> FoundTable | None:
    """Return the table of `device`, None if it has none that sfdisk knows.

    The first sector of a FAT ends like an MBR's, and sfdisk takes it for one: a filesystem on the
    bare disk is no table.
    """
    answer = run(["sfdisk", "--json", device], ok=(0, 1))
    if answer.status == 1:
        if "does not contain a recognized partition table" in answer.stderr:
            return None
        raise DiskError(f"could not read the partition table of {device}: {answer.stderr.strip()}")
    found = parse_table(answer.text)
    if found.label == "dos" and boot_sector.is_filesystem(boot_sector.read_at(device, 0, 512)):
        return None
    return found


def parse_table(text: str) -> FoundTable:
    """Return the table in sfdisk's JSON, its numbers in bytes."""
    try:
        table = json.loads(text)["partitiontable"]
        # versions before 2.35 did not say; they knew 512 only
        sector_bytes = int(table.get("sectorsize", 512))
        device = table["device"]
        kind = _table(table["label"], table.get("id", "").lower())
        parts = [
            _partition(entry, device, sector_bytes, kind) for entry in table.get("partitions", [])
        ]
        return FoundTable(table["label"], kind, sector_bytes, tuple(parts))
    except (ValueError, KeyError, TypeError) as error:
        raise BadDocument(f"sfdisk: cannot read its answer: {error!r}") from error


def differences(wanted: PlannedTable, found: FoundTable | None) -> tuple[str, ...]:
    """Return in words how `found` is not the table that was to be written."""
    if found is None:
        return ("there is no table",)
    asked = replace(wanted.table, hybrid=None) if isinstance(wanted.table, Gpt) else wanted.table
    if found.table != asked:
        return (f"the table is {found.label} {found.table}, not {asked}",)
    there = {part.number: part for part in found.partitions}
    said = [
        f"partition {part.number} is not as planned"
        for part in wanted.partitions
        if there.pop(part.number, None) != part
    ]
    said += [f"there is a partition {number} that nobody planned" for number in there]
    return tuple(said)


def _table(label: str, identity: str) -> Table | None:
    if label == "gpt":
        return Gpt(uuid=identity)
    if label == "dos":
        return Mbr(disk_id=identity.removeprefix("0x"))
    return None


def _partition(
    entry: dict[str, Any], device: str, sector_bytes: int, table: Table | None
) -> PlannedPartition:
    number = int(entry["node"].removeprefix(device).lstrip("p"))
    uuid = str(entry.get("uuid", "")).lower()
    attributes = tuple(entry.get("attrs", "").split())
    if isinstance(table, Mbr):
        uuid = f"{table.disk_id}-{number:02x}"
        attributes = (BOOTABLE,) if entry.get("bootable") else ()
    return PlannedPartition(
        number=number,
        offset_bytes=int(entry["start"]) * sector_bytes,
        size_bytes=int(entry["size"]) * sector_bytes,
        type=str(entry["type"]).lower(),
        uuid=uuid,
        name=entry.get("name", ""),
        attributes=attributes,
    )


def _sectors(length_bytes: int, sector_bytes: int) -> int:
    if length_bytes % sector_bytes:
        raise ValueError(f"{length_bytes} bytes are not whole sectors of {sector_bytes}")
    return length_bytes // sector_bytes


def _escaped(text: str) -> str:
    """Return `text` as sfdisk reads it between quotes: what is not plain as hexadecimal."""
    return "".join(
        chr(byte) if byte in _PLAIN else f"\\x{byte:02x}" for byte in text.encode("utf-8")
    )
