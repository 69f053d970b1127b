"""The transmission phase of NBD, spoken over a socket pair as the kernel would."""

import errno
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agent.errors import ChunkCorrupt, DiskError
from agent.system.nbd import Export, Request, parse_request, render_reply

DATA = bytes(range(256)) * 64
# As the kernel sent it: a read of 4096 bytes at 8192, cookie 0x100000007.
RECORDED = bytes.fromhex("25609513 0000 0000 0000000100000007 0000000000002000 00001000")


def test_a_request_of_the_kernel_is_understood() -> None:
    assert parse_request(RECORDED) == Request(0, 0x1_0000_0007, 8192, 4096)


def test_what_is_no_request_is_refused() -> None:
    with pytest.raises(DiskError, match="0x25609514"):
        parse_request(bytes.fromhex("25609514") + RECORDED[4:])


def test_a_reply_carries_the_cookie_and_the_error() -> None:
    assert render_reply(7, errno.EIO).hex() == "67446698000000050000000000000007"


class Kernel:
    """The other end: asks, and reads replies."""

    def __init__(self, end: socket.socket, export: Export) -> None:
        self.end = end
        self.export = export

    def send(
        self, kind: int, cookie: int, offset: int = 0, size: int = 0, data: bytes = b""
    ) -> None:
        self.end.sendall(struct.pack(">IHHQQI", 0x25609513, 0, kind, cookie, offset, size) + data)

    def reply(self, size: int = 0) -> tuple[int, int, bytes]:
        magic, error, cookie = struct.unpack(">IIQ", self.take(16))
        assert magic == 0x67446698
        return error, cookie, self.take(0 if error else size)

    def take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.end.recv(size - len(data))
            assert piece, "hung up"
            data += piece
        return data


def read_data(offset: int, size: int) -> bytes:
    return DATA[offset : offset + size]


def read_damaged(offset: int, size: int) -> bytes:
    if offset >= 8192:
        raise ChunkCorrupt(f"chunk {offset // 4096} is damaged")
    return read_data(offset, size)


@contextmanager
def kernel(read: object = read_data) -> Iterator[Kernel]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    export = Export(ours, len(DATA), read, threading.Event())  # type: ignore[arg-type]
    server = threading.Thread(target=export.serve)
    server.start()
    with ours, theirs:
        try:
            yield Kernel(theirs, export)
        finally:
            theirs.close()
            server.join(10)
            assert not server.is_alive()


def test_reads_are_answered_with_the_bytes() -> None:
    with kernel() as asked:
        asked.send(0, 1, 512, 1024)
        assert asked.reply(1024) == (0, 1, DATA[512:1536])
        asked.send(3, 2)
        assert asked.reply() == (0, 2, b"")


def test_a_write_is_refused_and_its_bytes_are_no_request() -> None:
    with kernel() as asked:
        asked.send(1, 1, 0, 4096, data=RECORDED * 146 + bytes(8))
        assert asked.reply() == (errno.EPERM, 1, b"")
        asked.send(4, 2, 0, 4096)
        assert asked.reply() == (errno.EINVAL, 2, b"")
        asked.send(0, 3, 0, 16)
        assert asked.reply(16) == (0, 3, DATA[:16])
    assert asked.export.error is None


def test_a_read_beyond_the_end_is_refused_and_does_no_harm() -> None:
    with kernel() as asked:
        asked.send(0, 1, len(DATA) - 512, 1024)
        assert asked.reply() == (errno.EINVAL, 1, b"")
        asked.send(0, 2, len(DATA) - 512, 512)
        assert asked.reply(512) == (0, 2, DATA[-512:])
    assert not asked.export.failed.is_set()


def test_the_first_error_is_kept_and_all_reads_fail_from_then_on() -> None:
    with kernel(read_damaged) as asked:
        asked.send(0, 1, 12288, 512)
        assert asked.reply() == (errno.EIO, 1, b"")
        asked.send(0, 2, 8192, 512)
        assert asked.reply() == (errno.EIO, 2, b"")
        asked.send(0, 3, 0, 512)
        assert asked.reply() == (errno.EIO, 3, b"")
    assert isinstance(asked.export.error, ChunkCorrupt)
    assert str(asked.export.error) == "chunk 3 is damaged"
    assert asked.export.failed.is_set()


def test_too_few_bytes_are_an_error_not_zeros() -> None:
    with kernel(lambda offset, size: b"short") as asked:
        asked.send(0, 1, 0, 512)
        assert asked.reply() == (errno.EIO, 1, b"")
    assert str(asked.export.error) == "5 of 512 bytes came"


def test_slow_reads_do_not_hold_up_others() -> None:
    first_waits = threading.Event()

    def read(offset: int, size: int) -> bytes:
        if offset == 0:
            assert first_waits.wait(10)
        return read_data(offset, size)

    with kernel(read) as asked:
        asked.send(0, 1, 0, 512)
        asked.send(0, 2, 512, 512)
        assert asked.reply(512)[:2] == (0, 2)
        first_waits.set()
        assert asked.reply(512)[:2] == (0, 1)


def test_goodbye_ends_it() -> None:
    with kernel() as asked:
        asked.send(2, 1)
        assert asked.end.recv(1) == b""


def test_what_is_no_protocol_ends_it_with_an_error() -> None:
    with kernel() as asked:
        asked.end.sendall(bytes(28))
        assert asked.end.recv(1) == b""
    assert "where an NBD request begins" in str(asked.export.error)
