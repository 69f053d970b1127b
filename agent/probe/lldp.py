"""LLDP: which switch and port an interface is plugged into. Passive: nothing is sent.

A frame comes from whoever is on the wire, so every length is checked and every text is cut to
printable ASCII before anyone sees it.
"""

import selectors
import socket
import time
from collections.abc import Iterator, Sequence

from agent.model.inventory import LldpNeighbour

_ETHERTYPE = 0x88CC
_HEADER_BYTES = 14
_MULTICAST = (
    bytes.fromhex("0180c2000000"),
    bytes.fromhex("0180c2000003"),
    bytes.fromhex("0180c200000e"),
)
_END, _CHASSIS, _PORT, _SYSTEM = 0, 1, 2, 5
_MAC_SUBTYPES = {_CHASSIS: 4, _PORT: 3}
_ADDRESS_SUBTYPES = {_CHASSIS: 5, _PORT: 4}
_TEXT_LIMIT = 255
_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP = 1
_PACKET_MR_MULTICAST = 0


def listen_lldp(names: Sequence[str], seconds: float) -> dict[str, LldpNeighbour]:
    """Return the neighbour of each interface that is heard within `seconds`.

    Switches speak every 30 seconds. Ends early once every interface has heard one. Needs root.
    """
    found: dict[str, LldpNeighbour] = {}
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        try:
            for name in names:
                selector.register(_listener(name), selectors.EVENT_READ, name)
            while len(found) < len(names) and (left := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    assert isinstance(key.fileobj, socket.socket)
                    neighbour = parse_lldp_frame(key.fileobj.recv(2048))
                    if neighbour:
                        found[key.data] = neighbour
        finally:
            for key in list(selector.get_map().values()):
                assert isinstance(key.fileobj, socket.socket)
                key.fileobj.close()
    return found


def _listener(name: str) -> socket.socket:
    listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETHERTYPE))
    listener.bind((name, _ETHERTYPE))
    index = socket.if_nametoindex(name)
    for group in _MULTICAST:
        request = (
            index.to_bytes(4, "little")
            + _PACKET_MR_MULTICAST.to_bytes(2, "little")
            + len(group).to_bytes(2, "little")
            + group.ljust(8, b"\0")
        )
        listener.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, request)
    return listener


def parse_lldp_frame(frame: bytes) -> LldpNeighbour | None:
    """Return what an Ethernet frame says of the neighbour; None if it is not sound LLDP.

    The standard wants chassis and port first, each once; a frame without them is not LLDP.
    """
    if frame[12:_HEADER_BYTES] != _ETHERTYPE.to_bytes(2, "big"):
        return None
    chassis = port = system = None
    for kind, value in _fields(frame[_HEADER_BYTES:]):
        if kind == _CHASSIS and chassis is None:
            chassis = _identifier(kind, value)
        elif kind == _PORT and port is None:
            port = _identifier(kind, value)
        elif kind == _SYSTEM and system is None:
            system = _printable(value)
    return LldpNeighbour(chassis=chassis, port=port, system=system) if chassis and port else None


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type, value); stop at the end mark or at the first field that is cut short."""
    at = 0
    while at + 2 <= len(data):
        head = int.from_bytes(data[at : at + 2], "big")
        kind, length = head >> 9, head & 0x1FF
        value = data[at + 2 : at + 2 + length]
        if kind == _END or len(value) < length:
            return
        yield kind, value
        at += 2 + length


def _identifier(kind: int, value: bytes) -> str | None:
    """Return a chassis or port identifier as text, by its subtype: MAC, address or words."""
    if len(value) < 2:
        return None
    subtype, rest = value[0], value[1:]
    if subtype == _MAC_SUBTYPES[kind] and len(rest) == 6:
        return rest.hex(":")
    if subtype == _ADDRESS_SUBTYPES[kind] and rest[0] == 1 and len(rest) == 5:
        return socket.inet_ntop(socket.AF_INET, rest[1:])
    if subtype == _ADDRESS_SUBTYPES[kind] and rest[0] == 2 and len(rest) == 17:
        return socket.inet_ntop(socket.AF_INET6, rest[1:])
    return _printable(rest)


def _printable(value: bytes) -> str | None:
    text = "".join(chr(byte) if 32 <= byte < 127 else "?" for byte in value.rstrip(b"\0"))
    return text[:_TEXT_LIMIT].strip() or None
