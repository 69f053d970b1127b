"""What the superblock of one member of an md array says, by `mdadm --examine`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import DiskError
from agent.model.md_size import v090_bytes
from agent.model.nodes import MD_UUID, MdLevel, MdMetadata
from agent.system import block
from agent.system.command import Runner
from agent.units import KiB

_SECTOR: Final = 512
_UUID: Final = re.compile(MD_UUID)
_FIELD: Final = re.compile(r"^\s*([A-Za-z][A-Za-z0-9' ]*?) : ?(.*)$")
_THIS: Final = re.compile(r"^this\s+\d+\s+\d+\s+\d+\s+(-?\d+)\s+(.*)$")
_CHUNK: Final = re.compile(r"(\d+)(?:K| KiB(?: <-- .*)?)")
_MAGIC: Final = "a92b4efc"
_VOLUME: Final = re.compile(r"^\[(.*)\]:\n((?:.+\n?)*)", re.MULTILINE)
_IMSM_LAYOUTS: Final = {MdLevel.RAID5: "left-asymmetric", MdLevel.RAID10: "near=2"}
"""The only ones that Intel's firmware has, by mdadm's super-intel.c."""
_MOST_SLOTS: Final = 4096


@dataclass(frozen=True, slots=True)
class MdMember:
    """One member. Lengths in bytes."""

    uuid: str
    """Of the array; empty for a format that we do not handle."""
    name: str
    """With the host that made it, as it is written: `web1:0`. 0.90 has none."""
    level: MdLevel | None
    metadata: MdMetadata | None
    chunk_bytes: int
    layout: str
    raid_devices: int
    slot: int | None
    """None: a spare."""
    array_bytes: int
    """0 where no single member knows: linear and RAID0."""
    area_bytes: int
    """How much of this member the array may fill; of redundant levels, how much it does."""
    data_offset_bytes: int
    device_bytes: int
    events: int
    clean: bool
    bitmap: bool
    reshaping: bool
    recovering: bool
    """It is only partly filled by a recovery."""
    trouble: tuple[str, ...] = ()
    """What we cannot handle, each a clause to follow the member's name."""


def examine(run: Runner, device: Path) -> MdMember | None:
    """Return what the superblock on `device` says, or None where there is none.

    Raises DiskError if mdadm says what we cannot read.
    """
    # 1 is also what it says where there is no superblock.
    said = run(["mdadm", "--examine", "--config=none", device], ok=(0, 1))
    if said.status:
        return None
    return parse_examine(said.text, block.size_bytes(device))


def parse_examine(text: str, device_bytes: int) -> MdMember | None:
    """Return the member that the output of `mdadm --examine` describes."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        if found := _FIELD.match(line):
            fields.setdefault(found[1], found[2].strip())
    magic = fields.get("Magic")
    if magic is None:
        return None
    imsm = magic.startswith("Intel Raid ISM")
    if magic != _MAGIC and not imsm:
        return _foreign(device_bytes, "a RAID format other than md's (DDF?)")
    try:
        if imsm:
            return _imsm_member(text, fields, device_bytes)
        return _member(text, fields, device_bytes)
    except (KeyError, ValueError) as error:
        raise DiskError(f"mdadm --examine says what we cannot read: {error}") from error


def _member(text: str, fields: dict[str, str], device_bytes: int) -> MdMember:
    version = fields["Version"]
    metadata = MdMetadata("0.90" if version.startswith("0.90") else version)
    old = metadata is MdMetadata.V0_90
    uuid = fields["UUID" if old else "Array UUID"].split(" ", 1)[0]
    if not _UUID.fullmatch(uuid):
        raise ValueError(f"UUID {uuid[:60]!r}")
    level, trouble = _level(fields["Raid Level"])
    slots = int(fields["Raid Devices"])
    if not 0 < slots <= _MOST_SLOTS:
        raise ValueError(f"{slots} raid devices")
    slot, odd = _old_slot(text) if old else _slot(fields["Device Role"])
    trouble += odd
    state = fields["State"]
    if "TRUNCATED" in state:
        trouble += ("is smaller than its superblock says",)
    if not old and "- correct" not in fields.get("Checksum", ""):
        trouble += ("has a superblock whose checksum is wrong",)
    if "bad blocks present" in fields.get("Bad Block Log", ""):
        trouble += ("has known bad blocks",)
    if "," in _layout(fields.get("Layout", "")):
        trouble += ("is of a RAID10 with copies both near and far, which is not supported",)
    if "PPL" in fields:
        trouble += ("is of an array with a partial parity log, which is not supported",)
    if "Cluster Name" in fields:
        trouble += ("is of an array shared by a cluster, which is not supported",)
    return MdMember(
        uuid=uuid,
        name=re.sub(r"\s+\(local to host .*\)$", "", fields.get("Name", "")),
        level=level,
        metadata=metadata,
        chunk_bytes=_chunk(fields, level),
        layout=_layout(fields.get("Layout", "")),
        raid_devices=slots,
        slot=slot,
        array_bytes=_number(fields.get("Array Size", "0")) * KiB,
        area_bytes=_area(fields, level, device_bytes, old=old),
        data_offset_bytes=_number(fields.get("Data Offset", "0")) * _SECTOR,
        device_bytes=device_bytes,
        events=_events(fields["Events"]),
        clean=state.startswith("clean"),
        bitmap="Internal Bitmap" in fields,
        reshaping="Reshape pos'n" in fields,
        recovering="Recovery Offset" in fields,
        trouble=trouble,
    )


def _imsm_member(text: str, fields: dict[str, str], device_bytes: int) -> MdMember:
    """Return a member of Intel's RAID: of the one volume that its container has."""
    volumes = list(_VOLUME.finditer(text))
    if not volumes:
        return _foreign(device_bytes, "Intel's RAID (IMSM), as a spare or without a volume")
    if len(volumes) > 1:
        names = ", ".join(found[1] for found in volumes)
        return _foreign(device_bytes, f"Intel's RAID (IMSM), with several volumes ({names})")
    name, lines = volumes[0][1], volumes[0][2].splitlines()
    volume = {found[1]: found[2].strip() for line in lines if (found := _FIELD.match(line))}
    level, trouble = _level(f"raid{_number(volume['RAID Level'])}")
    slot = volume["This Slot"]
    if "failed" in fields.get("State", ""):
        trouble += ("was thrown out of its array as failed",)
    if not fields.get("Checksum", "").endswith(" correct"):
        trouble += ("has a superblock whose checksum is wrong",)
    if volume.get("RWH Policy", "off") != "off":
        trouble += (f"is of an array with {volume['RWH Policy']}, which is not supported",)
    unit = _number(volume.get("Sector Size", "512"))
    return MdMember(
        uuid=volume["UUID"] if _UUID.fullmatch(volume["UUID"]) else "",
        name=name,
        level=level,
        metadata=MdMetadata.IMSM,
        chunk_bytes=_chunk(volume, level),
        layout=_IMSM_LAYOUTS.get(level, "") if level else "",
        raid_devices=_number(volume["Members"]),
        slot=None if slot == "?" else _number(slot),
        array_bytes=_number(volume["Array Size"]) * unit,
        area_bytes=_number(volume["Per Dev Size"]) * unit,
        data_offset_bytes=_number(volume.get("Sector Offset", "0")) * unit,
        device_bytes=device_bytes,
        events=int(fields["Generation"], 16),
        clean=volume["Dirty State"] == "clean",
        bitmap=False,
        reshaping=volume["Migrate State"] not in ("idle", "init", "rebuild", "repair"),
        recovering=volume["Migrate State"] != "idle" or "out-of-sync" in slot,
        trouble=trouble,
    )


def _foreign(device_bytes: int, what: str) -> MdMember:
    """A container that we do not handle: known, so that nobody takes it for a plain disk."""
    return MdMember(
        uuid="",
        name="",
        level=None,
        metadata=None,
        chunk_bytes=0,
        layout="",
        raid_devices=0,
        slot=None,
        array_bytes=0,
        area_bytes=0,
        data_offset_bytes=0,
        device_bytes=device_bytes,
        events=0,
        clean=False,
        bitmap=False,
        reshaping=False,
        recovering=False,
        trouble=(f"belongs to {what}: that is not supported",),
    )


def _level(text: str) -> tuple[MdLevel | None, tuple[str, ...]]:
    try:
        return MdLevel(text), ()
    except ValueError:
        return None, (f"is of an array of level {text[:20]!r}, which is not supported",)


def _slot(role: str) -> tuple[int | None, tuple[str, ...]]:
    kind, _, number = role.rpartition(" ")
    match kind or number:
        case "Active device":
            return int(number), ()
        case "spare":
            return None, ()
        case "Journal":
            return None, ("is the journal of an array, which is not supported",)
        case "Replacement device":
            return None, ("is half way to replace another member",)
    raise ValueError(f"role {role[:40]!r}")


def _old_slot(text: str) -> tuple[int | None, tuple[str, ...]]:
    for line in text.splitlines():
        if found := _THIS.match(line):
            if "active" in found[2]:
                return int(found[1]), ()
            faulty = "faulty" in found[2]
            return None, ("was thrown out of its array as faulty",) if faulty else ()
    raise ValueError("no line tells its slot")


def _layout(text: str) -> str:
    """Return `near=2, far=1` or `left-symmetric` by the word that --layout wants."""
    text = text.split(" : ")[-1].strip()
    if "=" not in text:
        return "" if text.startswith("-") else text
    parts = [part.strip() for part in text.split(",")]
    several = [part for part in parts if not part.endswith("=1")]
    return several[0] if len(several) == 1 else ",".join(several or parts)


def _chunk(fields: dict[str, str], level: MdLevel | None) -> int:
    if level is MdLevel.RAID1:
        return 0
    text = fields.get("Chunk Size") or fields.get("Rounding") or "0K"
    if not (found := _CHUNK.fullmatch(text)):
        raise ValueError(f"chunk {text[:20]!r}")
    return int(found[1]) * KiB


def _area(fields: dict[str, str], level: MdLevel | None, device_bytes: int, *, old: bool) -> int:
    if old and level is MdLevel.LINEAR:
        return v090_bytes(device_bytes)
    if old:
        return _number(fields.get("Used Dev Size", "0")) * KiB
    used = _number(fields.get("Used Dev Size", "0"))  # of a linear one: 0
    return (used or _number(fields["Avail Dev Size"])) * _SECTOR


def _events(text: str) -> int:
    """Return the count; mdadm once wrote that of 0.90 as two halves: `0.35`."""
    high, _, low = text.rpartition(".")
    return (int(high or "0") << 32) + int(low)


def _number(text: str) -> int:
    return int(text.split(" ", 1)[0])
