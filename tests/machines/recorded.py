"""A recorded machine, unpacked so that the probe sees what it would have seen there."""

import shlex
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.errors import CommandFailed
from agent.model.inventory import Inventory
from agent.probe import probe_inventory
from agent.probe.network import Link, parse_ip_json
from agent.probe.udev import UdevDb, parse_udev_db
from agent.system.command import DEFAULT_TIMEOUT_S, Output, Word


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """Says what the programs said there. A program that was not run there is missing here."""

    said: Mapping[str, str]

    def __call__(
        self,
        words: Sequence[Word],
        *,
        stdin: str | bytes | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        ok: Collection[int] = (0,),
        env: Mapping[str, str] | None = None,
        into: Callable[[bytes], None] | None = None,
        stop: threading.Event | None = None,
    ) -> Output:
        line = shlex.join(str(word) for word in words)
        if line not in self.said:
            raise AssertionError(f"not recorded: {line}")
        if self.said[line].startswith("! "):
            raise CommandFailed(self.said[line][2:])
        return Output(self.said[line].encode(), "", 0)


@dataclass(frozen=True, slots=True)
class Recorded:
    root: Path
    udev: UdevDb
    links: tuple[Link, ...]
    run: RecordedRun

    def probe(self, boot_mac: str | None = None) -> Inventory:
        return probe_inventory(
            self.run, boot_mac=boot_mac, root=self.root, udev=self.udev, links=self.links
        )


def unpack(text: str, root: Path) -> Recorded:
    """Return the machine that `tests/machines/record.py` wrote down, its files below `root`."""
    sections = {}
    for part in text.split("==> ")[1:]:
        name, _, body = part.partition(" <==\n")
        sections[name] = body
    _make_tree(sections["tree"], root)
    said: dict[str, str] = {}
    for part in ("\n" + sections["programs"]).split("\n$ ")[1:]:
        line, _, body = part.partition("\n")
        said[line] = body
    return Recorded(
        root=root,
        udev=parse_udev_db(sections["udev"]),
        links=parse_ip_json(sections["ip"] or "[]"),
        run=RecordedRun(said),
    )


def _make_tree(text: str, root: Path) -> None:
    links: list[tuple[Path, str]] = []
    current: Path | None = None
    is_hex = False
    for line in text.splitlines():
        if line.startswith("\t"):
            assert current is not None, line
            data = bytes.fromhex(line[1:]) if is_hex else line[1:].encode() + b"\n"
            with current.open("ab") as file:
                file.write(data)
        elif " -> " in line:
            name, _, target = line.partition(" -> ")
            links.append((root / name[1:], target))
        elif line:
            is_hex = line.endswith(" hex")
            current = root / line.removesuffix(" hex")[1:]
            current.parent.mkdir(parents=True, exist_ok=True)
            current.write_bytes(b"")
    for path, target in links:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = Path(str(root) + target) if target.startswith("/") else path.parent / target
        there.mkdir(parents=True, exist_ok=True)
        path.symlink_to(there.resolve())
