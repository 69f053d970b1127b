"""LLDP frames come from whoever is on the wire."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.inventory import LldpNeighbour
from agent.probe.lldp import parse_lldp_frame

HEADER = bytes.fromhex("0180c200000eaabbccddeeff88cc")


def field(kind: int, value: bytes) -> bytes:
    return (kind << 9 | len(value)).to_bytes(2, "big") + value


CHASSIS = field(1, b"\4" + bytes.fromhex("00163e112233"))
PORT = field(2, b"\5" + b"Ethernet1/7")
TTL = field(3, b"\0\x78")
END = field(0, b"")


def test_a_switch() -> None:
    frame = HEADER + CHASSIS + PORT + TTL + field(4, b"uplink") + field(5, b"leaf-12\0") + END
    assert parse_lldp_frame(frame + bytes(20)) == LldpNeighbour(
        chassis="00:16:3e:11:22:33", port="Ethernet1/7", system="leaf-12"
    )


@pytest.mark.parametrize(
    ("chassis", "expected"),
    [
        (b"\5\1\x0a\0\0\1", "10.0.0.1"),
        (b"\5\2" + bytes(15) + b"\1", "::1"),
        (b"\7switch-a", "switch-a"),
        (b"\4abc", "abc"),
        (b"\7\x1b[2J\xff\nname", "?[2J??name"),
    ],
)
def test_identifiers(chassis: bytes, expected: str) -> None:
    found = parse_lldp_frame(HEADER + field(1, chassis) + PORT + TTL + END)
    assert found is not None
    assert found.chassis == expected


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        HEADER,
        HEADER[:13],
        HEADER + CHASSIS,
        HEADER + PORT + TTL + END,
        HEADER + END + CHASSIS + PORT,
        HEADER + field(1, b"\4") + PORT + END,
        HEADER + field(1, b"") + PORT + END,
        HEADER + CHASSIS + PORT[:-1],
        HEADER + b"\xff\xff" + CHASSIS + PORT,
        HEADER[:12] + b"\x08\x00" + CHASSIS + PORT + END,
        HEADER + field(1, b"\7   ") + PORT + END,
    ],
)
def test_what_is_not_sound_is_nothing(frame: bytes) -> None:
    assert parse_lldp_frame(frame) is None


def test_the_first_of_two_names_counts() -> None:
    frame = HEADER + CHASSIS + PORT + field(5, b"first") + field(5, b"second") + END
    found = parse_lldp_frame(frame)
    assert found is not None
    assert found.system == "first"


@given(st.binary(max_size=600))
def test_no_frame_breaks_it(data: bytes) -> None:
    for frame in (data, HEADER + data, HEADER + CHASSIS + PORT + data):
        found = parse_lldp_frame(frame)
        if found:
            assert all(text.isprintable() for text in (found.chassis, found.port))
