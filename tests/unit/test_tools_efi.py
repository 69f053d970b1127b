"""The firmware's boot entries: the network stays where it is, nothing is there twice."""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import pytest

from agent.errors import AgentError
from agent.system.command import DEFAULT_TIMEOUT_S, Output, Word
from agent.tools.efibootmgr import EfiEntries, ordered, parse_entries, write_entry
from tests.unit.make_plan import guid

PRINTED = f"""\
BootCurrent: 0003
Timeout: 0 seconds
BootOrder: 0000,0003,0002
Boot0000* UiApp\tFvVol(7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1)
Boot0002* debian\tHD(2,GPT,{guid(2).upper()},0x1000,0x20000)/File(\\EFI\\debian\\shimx64.efi)
Boot0003* UEFI PXEv4 (MAC:525400123456)\tPciRoot(0x0)/Pci(0x2,0x0)/MAC(525400123456,1)
Boot0004  Hidden
MirroredPercentageAbove4G: 0.00
"""


class FakeFirmware:
    """An efibootmgr with entries of its own."""

    def __init__(self, text: str) -> None:
        self.state = parse_entries(text)
        self.asked: list[str] = []

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
        plain = [str(word) for word in words]
        self.asked.append(" ".join(plain))
        entries, order = dict(self.state.entries), self.state.order
        if "--delete-bootnum" in plain:
            number = plain[plain.index("--bootnum") + 1]
            del entries[number]
            order = tuple(one for one in order if one != number)
        elif "--create-only" in plain:
            free = next(f"{n:04X}" for n in range(99) if f"{n:04X}" not in entries)
            entries[free] = plain[plain.index("--label") + 1]
        elif "--bootorder" in plain:
            order = tuple(plain[-1].split(","))
        self.state = EfiEntries(self.state.current, order, entries)
        lines = [f"BootCurrent: {self.state.current}", f"BootOrder: {','.join(order)}"]
        lines += [f"Boot{number}* {text}" for number, text in entries.items()]
        return Output("\n".join(lines).encode(), "", 0)


def test_entries_are_read() -> None:
    found = parse_entries(PRINTED)
    assert found.current == "0003"
    assert found.order == ("0000", "0003", "0002")
    assert set(found.entries) == {"0000", "0002", "0003", "0004"}
    assert parse_entries("") == EfiEntries(None, (), {})


@pytest.mark.parametrize(
    ("current", "order", "expected"),
    [
        ("0003", ("0000", "0003", "0002"), ("0000", "0003", "0009", "0002")),
        ("0003", ("0003",), ("0003", "0009")),
        ("0003", ("0009", "0003"), ("0003", "0009")),
        ("0007", ("0001",), ("0009", "0001")),
        (None, (), ("0009",)),
    ],
)
def test_ours_comes_right_behind_what_started_the_machine(
    current: str | None, order: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert ordered(EfiEntries(current, order, {}), "0009") == expected


def test_a_second_deployment_leaves_one_entry() -> None:
    firmware = FakeFirmware(PRINTED)
    disk = Path("/dev/vda")
    for _ in range(3):
        write_entry(firmware, disk, 2, guid(2), "EFI/debian/shimx64.efi", "debian")
        # what the real one prints for it
        ours = next(n for n, text in firmware.state.entries.items() if text == "debian")
        firmware.state.entries[ours] = f"debian\tHD(2,GPT,{guid(2)},0x1000,0x20000)"
    assert sum("debian" in text for text in firmware.state.entries.values()) == 1
    assert firmware.state.order == ("0000", "0003", ours)
    created = [line for line in firmware.asked if "--create-only" in line]
    assert "\\EFI\\debian\\shimx64.efi" in created[0]


def test_a_firmware_that_takes_no_entry_is_an_error() -> None:
    class Full(FakeFirmware):
        def __call__(self, words: Sequence[Word], **more: object) -> Output:
            plain = [str(word) for word in words]
            return super().__call__(["efibootmgr"] if "--create-only" in plain else plain)

    with pytest.raises(AgentError, match="took no boot entry"):
        write_entry(Full(PRINTED), Path("/dev/vda"), 2, guid(2), "x.efi", "debian")
