"""storcli64(8) and its brother perccli64: controllers by Broadcom/LSI, Dell PERC, Lenovo, ….

The answer is JSON with a trailing `J`. A failure is told there, in words; the exit status only
repeats that there was one.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agent.errors import CommandFailed
from agent.model.hwraid import (
    Initialization,
    NewVolume,
    PhysicalDrive,
    RaidCard,
    RaidLevel,
    VirtualDrive,
)
from agent.system.command import Runner
from agent.units import parse_bytes

PROGRAMS: Final = ("storcli64", "perccli64", "storcli", "perccli")
_PLACES: Final = ("/opt/MegaRAID/storcli", "/opt/MegaRAID/perccli")
"""Where the vendors' own packages put them."""
TIMEOUT_S: Final = 180.0
"""A controller with many drives takes its time; a delete waits for its cache to be written."""
_ANY_STATUS: Final = range(256)
_NO_CONTROLLER: Final = re.compile(r"(?i)no controller found|controller 0 not found")
_NOTHING: Final = re.compile(r"(?i)\bno (?:drives?|vds?|vd's|pds?|enclosures?)\b|not found")
_MIRRORS_OF: Final = 2
"""Of how many drives each mirror in a RAID 10 is made."""
_PCI: Final = re.compile(r"([0-9a-fA-F]{2}):([0-9a-fA-F]{2}):([0-9a-fA-F]{2}):([0-9a-fA-F]{2})")
_WWN_DIGITS: Final = re.compile(r"[0-9a-f]{16}(?:[0-9a-f]{16})?")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Storcli:
    """A RaidTool. `program` is one of PROGRAMS, or where it is."""

    run: Runner
    program: str

    def cards(self) -> tuple[RaidCard, ...]:
        try:
            shown = self._ask("/call", "show", "all")
        except CommandFailed as error:
            if _NO_CONTROLLER.search(str(error)):
                return ()
            raise
        found = []
        for number, data in shown:
            drives = self._ask_some(f"/c{number}/eall/sall", "show")
            loose = self._ask_some(f"/c{number}/sall", "show")
            volumes = self._ask_some(f"/c{number}/vall", "show", "all")
            found.append(
                parse_card(
                    number,
                    data,
                    (*parse_drives(drives), *parse_drives(loose)),
                    parse_volumes(volumes),
                )
            )
        return tuple(found)

    def delete(self, controller: int, volume: int) -> None:
        # Without `force` it refuses what has an operating system on it. We asked already.
        self._ask(f"/c{controller}/v{volume}", "delete", "force")

    def create(self, controller: int, volume: NewVolume) -> None:
        self._ask(f"/c{controller}", *create_words(volume))

    def initialize(self, controller: int, volume: int, kind: Initialization) -> None:
        full = ("full",) if kind is Initialization.FULL else ()
        self._ask(f"/c{controller}/v{volume}", "start", "init", *full, "force")

    def progress(self, controller: int, volume: int) -> int | None:
        for _, data in self._ask(f"/c{controller}/v{volume}", "show", "init"):
            return parse_progress(data)
        return None

    def _ask(self, *words: str) -> list[tuple[int, Any]]:
        """Return each controller's number and its answer. Raises CommandFailed with the reason."""
        output = self.run([self.program, *words, "J"], ok=_ANY_STATUS, timeout_s=TIMEOUT_S)
        return parse_answer(f"{self.program} {' '.join(words)}", output.stdout)

    def _ask_some(self, *words: str) -> Json:
        """Return one controller's answer, empty if it has nothing of what is asked for."""
        try:
            answer = self._ask(*words)
        except CommandFailed as error:
            if _NOTHING.search(str(error)):
                return {}
            raise
        data = answer[0][1] if answer else {}
        return data if isinstance(data, dict) else {}


def find_storcli(run: Runner, which: Callable[[str], str | None] = shutil.which) -> Storcli | None:
    """Return the tool that the boot image has; None if no overlay brought one."""
    words = (*PROGRAMS, *(f"{place}/{name}" for place in _PLACES for name in PROGRAMS))
    found = next((word for word in words if which(word)), None)
    return Storcli(run, found) if found else None


def parse_answer(asked: str, data: bytes) -> list[tuple[int, Any]]:
    """Return each controller's number and `Response Data` from the JSON that `asked` gave.

    Raises CommandFailed, with what the tool says of the reason, if any controller failed.
    """
    start = data.find(b"{")  # some versions greet first
    try:
        document: Any = json.loads(data[max(start, 0) :].decode("utf-8", "replace"))
        controllers = document["Controllers"]
        answers = [(one["Command Status"], one.get("Response Data", {})) for one in controllers]
        found = [(_integer(status.get("Controller", 0)), rest) for status, rest in answers]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        said = data[:200].decode("utf-8", "replace").strip()
        raise CommandFailed(f"{asked}: not the JSON that we know: {said!r}") from error
    for status, _ in answers:
        if str(status.get("Status")) != "Success":
            raise CommandFailed(f"{asked}: {failure_sentence(status)}")
    return found


def failure_sentence(status: Json) -> str:
    """Return why a command failed: `Delete VD failed: VD 1: VD is busy (error 255)`."""
    description = str(status.get("Description", "")).strip(" .-") or "failed"
    details = status.get("Detailed Status")
    reasons = list(_reasons(details)) if isinstance(details, list) else []
    return description + (f": {'; '.join(dict.fromkeys(reasons))}" if reasons else "")


def _reasons(details: Sequence[Any]) -> Iterator[str]:
    for detail in details:
        if not isinstance(detail, dict) or str(detail.get("Status")) == "Success":
            continue
        code = detail.get("ErrCd", detail.get("ErrorCode", "-"))
        text = str(detail.get("ErrMsg", detail.get("ErrType", "-"))).strip(" .-")
        where = next(
            (f"{key} {detail[key]}" for key in ("VD", "Drive", "Ctrl") if key in detail), ""
        )
        number = f"(error {code})" if code not in ("-", 0) else ""
        words = " ".join(part for part in (text, number) if part) or str(detail.get("Status"))
        yield f"{where}: {words}" if where else words


def create_words(volume: NewVolume) -> tuple[str, ...]:
    """Return the words of `/cX` that make `volume`."""
    words = [
        "add",
        "vd",
        f"type={volume.level.value}",
        "size=all",
        f"name={volume.name}",
        f"drives={','.join(volume.drives)}",
    ]
    if volume.level is RaidLevel.RAID10:
        words.append(f"pdperarray={_MIRRORS_OF}")
    if volume.write_cache:
        words.append(volume.write_cache.value)
    if volume.read_ahead:
        words.append(volume.read_ahead.value)
    if volume.strip_kib:
        words.append(f"strip={volume.strip_kib}")
    return tuple(words)


def parse_card(
    number: int,
    data: Json,
    drives: tuple[PhysicalDrive, ...],
    volumes: tuple[VirtualDrive, ...],
) -> RaidCard:
    """Return a controller from its part of `/call show all J`."""
    basics, versions = _part(data, "Basics"), _part(data, "Version")
    return RaidCard(
        number=number,
        model=_text(basics, "Model") or "unknown",
        serial=_text(basics, "Serial Number"),
        firmware=_text(versions, "Firmware Version") or _text(versions, "Firmware Package Build"),
        address=parse_pci(_text(basics, "PCI Address") or ""),
        drives=drives,
        volumes=volumes,
    )


def parse_pci(text: str) -> str | None:
    """Return Linux's name of a PCI device: `00:65:00:00` is `0000:65:00.0`."""
    found = _PCI.fullmatch(text)
    if not found:
        return None
    domain, bus, device, function = (int(part, 16) for part in found.groups())
    return f"{domain:04x}:{bus:02x}:{device:02x}.{function:x}"


def parse_drives(data: Json) -> tuple[PhysicalDrive, ...]:
    """Return the drives in the answer to `/cX/eall/sall show J` or `/cX/sall show J`."""
    rows = data.get("Drive Information", [])
    return tuple(_drive(row) for row in rows if isinstance(row, dict))


def _drive(row: Json) -> PhysicalDrive:
    group = str(row.get("DG", "-")).strip()
    return PhysicalDrive(
        address=parse_address(row.get("EID:Slt")),
        state=_text(row, "State") or "unknown",
        group=None if group in ("-", "") else group,
        size_bytes=parse_size(row.get("Size")),
        interface=_text(row, "Intf") or "unknown",
        medium=_text(row, "Med") or "unknown",
        model=_text(row, "Model") or "unknown",
        sector_bytes=4096 if str(row.get("SeSz", "")).upper().startswith("4") else 512,
    )


def parse_address(text: Any) -> str:
    """Return `252:0` from the tool's column; `4` from ` :4`, a drive without an enclosure."""
    words = str(text).replace(" ", "").lstrip(":")
    if not re.fullmatch(r"(?:\d{1,5}:)?\d{1,3}", words):
        raise CommandFailed(f"the RAID tool names a drive {text!r}, which is no ENCLOSURE:SLOT")
    return words


def parse_size(text: Any) -> int:
    """Return the bytes of `446.625 GB`, which the tool counts in powers of 1024."""
    found = re.fullmatch(r"([\d.]+) ?([KMGTP]?)B", str(text).strip())
    if not found:
        raise CommandFailed(f"the RAID tool gives a size as {text!r}")
    number, prefix = found.groups()
    if prefix == "P":
        number, prefix = str(float(number) * 1024), "T"
    try:
        return parse_bytes(f"{number}{prefix + 'iB' if prefix else 'B'}")
    except ValueError as error:
        raise CommandFailed(f"the RAID tool gives a size as {text!r}") from error


def parse_volumes(data: Json) -> tuple[VirtualDrive, ...]:
    """Return the volumes in the answer to `/cX/vall show all J`."""
    found = []
    for key, rows in data.items():
        name = re.fullmatch(r"/c\d+/v(\d+)", key)
        if name and isinstance(rows, list) and rows and isinstance(rows[0], dict):
            found.append(_volume(int(name[1]), rows[0], data))
    return tuple(sorted(found, key=lambda volume: volume.number))


def _volume(number: int, row: Json, data: Json) -> VirtualDrive:
    properties = _part(data, f"VD{number} Properties")
    members = data.get(f"PDs for VD {number}", [])
    blocks = properties.get("Number of Blocks")
    sector = 4096 if any(str(one.get("SeSz", "")).startswith("4") for one in members) else 512
    exact = blocks * sector if isinstance(blocks, int) and blocks > 0 else None
    strip = _text(properties, "Strip Size")
    operation = _text(properties, "Active Operations")
    return VirtualDrive(
        number=number,
        level=_text(row, "TYPE") or "unknown",
        state=_text(row, "State") or "unknown",
        size_bytes=exact or parse_size(row.get("Size")),
        name=_text(row, "Name") or "",
        drives=tuple(parse_address(one.get("EID:Slt")) for one in members),
        wwn=parse_wwn(_text(properties, "SCSI NAA Id")),
        strip_bytes=parse_size(strip) if strip else None,
        operation=None if operation in (None, "None") else operation,
    )


def parse_wwn(text: str | None) -> str | None:
    """Return the WWN that Linux gives to a volume's disk, from `SCSI NAA Id`."""
    plain = (text or "").lower().removeprefix("naa.").removeprefix("0x")
    return f"0x{plain}" if _WWN_DIGITS.fullmatch(plain) else None


def parse_progress(data: Any) -> int | None:
    """Return the percent in the answer to `show init`; None if nothing is in progress."""
    for row in data if isinstance(data, list) else []:
        if isinstance(row, dict) and str(row.get("Status", "")).lower().startswith("in progress"):
            percent = str(row.get("Progress%", "")).strip()
            return int(percent) if percent.isdecimal() else 0
    return None


def _part(data: Any, key: str) -> Json:
    part = data.get(key) if isinstance(data, dict) else None
    return part if isinstance(part, dict) else {}


def _text(data: Json, key: str) -> str | None:
    text = str(data.get(key, "")).strip()
    return None if text in ("", "-", "N/A") else text


def _integer(value: Any) -> int:
    return int(str(value))
