"""A read-only block device whose bytes come from a function of ours: Linux' NBD, both ends here.

The kernel's end is driven by the old ioctls: with them the device lives in a thread of this
process, so that whatever ends the process also takes the device away; a device made by netlink
would stay. Our end speaks the transmission phase of the protocol (NetworkBlockDevice/nbd,
doc/proto.md) over a socket pair.
"""

import contextlib
import errno
import fcntl
import os
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.errors import AgentError, DiskError
from agent.system import block
from agent.system.command import Runner
from agent.units import MiB

Bytes = bytes | bytearray | memoryview
ReadAt = Callable[[int, int], Bytes]
"""Returns that many bytes from that offset on. Several threads call it at once."""

# <linux/nbd.h>
_SET_SOCK: Final = 0xAB00
_SET_BLKSIZE: Final = 0xAB01
_DO_IT: Final = 0xAB03
_CLEAR_SOCK: Final = 0xAB04
_SET_SIZE_BLOCKS: Final = 0xAB07
_DISCONNECT: Final = 0xAB08
_SET_TIMEOUT: Final = 0xAB09
_SET_FLAGS: Final = 0xAB0A
_HAS_FLAGS: Final = 1 << 0
_READ_ONLY: Final = 1 << 1
_SEND_FLUSH: Final = 1 << 2

_REQUEST: Final = struct.Struct(">IHHQQI")
_REPLY: Final = struct.Struct(">IIQ")
_REQUEST_MAGIC: Final = 0x25609513
_REPLY_MAGIC: Final = 0x67446698
_CMD_READ: Final = 0
_CMD_WRITE: Final = 1
_CMD_DISC: Final = 2
_CMD_FLUSH: Final = 3

_MOST_READ_BYTES: Final = 32 * MiB
_READERS: Final = 8
_READY_S: Final = 30.0
_SYS: Final = Path("/sys/block")
_SYSFS_UNIT: Final = 512
_NAME: Final = re.compile(r"nbd\d+")


def parse_request(data: bytes) -> "Request":
    """Return the request in `data`, its 28 bytes. Raises DiskError if it is none."""
    magic, _flags, kind, cookie, offset, size = _REQUEST.unpack(data)
    if magic != _REQUEST_MAGIC:
        raise DiskError(f"the kernel sent {magic:#x} where an NBD request begins")
    return Request(kind, cookie, offset, size)


def render_reply(cookie: int, error: int = 0) -> bytes:
    """Return the simple reply to the request with `cookie`; `error` is an errno, 0 for none."""
    return _REPLY.pack(_REPLY_MAGIC, error, cookie)


@dataclass(frozen=True, slots=True)
class Request:
    """One request of the kernel. `cookie` names it in the reply."""

    kind: int
    cookie: int
    offset: int
    size: int


@dataclass(slots=True)
class Export:
    """Serves one device over one end of a socket pair.

    The first read that fails is kept in `error`, and sets `failed`. From then on every read fails
    at once: with a part of the bytes missing no copy is right, and a dead server is not waited
    for again and again.
    """

    end: socket.socket
    size_bytes: int
    read: ReadAt
    failed: threading.Event
    error: BaseException | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def serve(self) -> None:
        """Answer until the kernel says goodbye or hangs up. Every read has ended on return."""
        with ThreadPoolExecutor(_READERS, thread_name_prefix="nbd-read") as pool:
            try:
                while (request := self._next()) is not None:
                    if request.kind == _CMD_READ:
                        pool.submit(self._answer, request)
                    elif request.kind == _CMD_WRITE:
                        self._swallow(request.size)
                        self._send(render_reply(request.cookie, errno.EPERM))
                    elif request.kind == _CMD_FLUSH:
                        self._send(render_reply(request.cookie))
                    elif request.kind == _CMD_DISC:
                        break
                    else:
                        self._send(render_reply(request.cookie, errno.EINVAL))
            except OSError:
                pass  # the kernel hung up: the device is being taken away
            except DiskError as error:
                self._fail(error)
            finally:
                self.hang_up()
                pool.shutdown(cancel_futures=True)

    def _answer(self, request: Request) -> None:
        data: Bytes = b""
        number = 0
        if request.offset + request.size > self.size_bytes or request.size > _MOST_READ_BYTES:
            number = errno.EINVAL
        elif self.failed.is_set():
            number = errno.EIO
        else:
            try:
                data = self.read(request.offset, request.size)
                if len(data) != request.size:
                    raise DiskError(f"{len(data)} of {request.size} bytes came")
            except BaseException as error:
                self._fail(error)
                data, number = b"", errno.EIO
        with contextlib.suppress(OSError):
            self._send(render_reply(request.cookie, number), data)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self.error is None and not self.failed.is_set():
                self.error = error
            self.failed.set()

    def _next(self) -> Request | None:
        data = self._receive(_REQUEST.size)
        return parse_request(data) if data else None

    def _receive(self, size: int) -> bytes:
        """Return `size` bytes, or none at all at the end."""
        data = bytearray()
        while len(data) < size:
            piece = self.end.recv(size - len(data))
            if not piece:
                return b""
            data += piece
        return bytes(data)

    def _swallow(self, size: int) -> None:
        while size:
            size -= len(self._receive(min(size, MiB))) or size

    def _send(self, head: bytes, data: Bytes = b"") -> None:
        """Send a reply whole; two threads never mix theirs."""
        with self._lock:
            self.end.sendall(head)
            if data:
                self.end.sendall(data)

    def hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self.end.shutdown(socket.SHUT_RDWR)


@contextmanager
def attached(
    run: Runner,
    size_bytes: int,
    block_bytes: int,
    read: ReadAt,
    *,
    failed: threading.Event | None = None,
    cancel: Callable[[], None] | None = None,
) -> Iterator[Path]:
    """Yield a read-only block device of `size_bytes` whose bytes `read` gives.

    `block_bytes` is its logical sector: 512 to 4096. A read may take as long as it likes. One that
    fails is EIO to whoever uses the device; the first error sets `failed` and is raised at the end:
    alone, or as the cause of the error that the device's user raised for it. `cancel` is called
    when the device goes away, to end reads that still wait. Unmount it first: the device goes away
    in any case.

    Raises DiskError when the kernel has no NBD or no free device.
    """
    if block_bytes not in (512, 1024, 2048, 4096) or size_bytes <= 0 or size_bytes % block_bytes:
        raise ValueError(f"{size_bytes} bytes in sectors of {block_bytes}")
    ours, kernels = socket.socketpair()
    export = Export(ours, size_bytes, read, failed or threading.Event())
    with ours, kernels:
        device, fd = _claim(run, kernels)
        try:
            _describe(fd, device, size_bytes, block_bytes)
            server = threading.Thread(target=export.serve, name=device.name, daemon=True)
            driver = _Driver(fd, device)
            server.start()
            driver.thread.start()
            try:
                _wait_until_there(driver, size_bytes)
                yield device
            except AgentError as error:
                if export.error is None:
                    raise
                raise error from export.error
            finally:
                first = export.error  # reads that the end cuts off are no errors
                with contextlib.suppress(OSError):
                    fcntl.ioctl(fd, _DISCONNECT)
                export.hang_up()
                if cancel is not None:
                    cancel()
                driver.thread.join()
                server.join()
        finally:
            with contextlib.suppress(OSError):
                fcntl.ioctl(fd, _CLEAR_SOCK)
            os.close(fd)
    if first is not None:
        raise first


class _Driver:
    """The thread that the kernel drives the device in, from attaching to detaching."""

    def __init__(self, fd: int, device: Path) -> None:
        self.fd = fd
        self.device = device
        self.error: OSError | None = None
        self.thread = threading.Thread(target=self._drive, name=f"{device.name}-do", daemon=True)

    def _drive(self) -> None:
        # Any signal to this thread would end the ioctl, and with it the device under a mount.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            fcntl.ioctl(self.fd, _DO_IT)
        except OSError as error:
            self.error = error


def _claim(run: Runner, kernels: socket.socket) -> tuple[Path, int]:
    """Return a free device and its descriptor, our socket set: that is what claims it."""
    if not (_SYS / "nbd0").exists():
        run(["modprobe", "nbd", "nbds_max=32", "max_part=0"])
        block.wait_for_node(Path("/dev/nbd0"))
    names = (entry.name for entry in _SYS.iterdir() if _NAME.fullmatch(entry.name))
    for name in sorted(names, key=lambda name: int(name[3:])):
        if (_SYS / name / "pid").exists() or (_SYS / name / "size").read_text().strip() != "0":
            continue
        device = Path("/dev") / name
        try:
            fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise DiskError(f"could not open {device}: {error.strerror}") from error
        try:
            fcntl.ioctl(fd, _SET_SOCK, kernels.fileno())
        except OSError as error:
            os.close(fd)
            if error.errno != errno.EBUSY:  # somebody else was quicker
                raise DiskError(f"could not set up {device}: {error.strerror}") from error
        else:
            return device, fd
    raise DiskError("no network block device is free", hint="too many views are open")


def _describe(fd: int, device: Path, size_bytes: int, block_bytes: int) -> None:
    """Tell the kernel what the device is. No time-out: a slow server must not kill it."""
    try:
        fcntl.ioctl(fd, _SET_BLKSIZE, block_bytes)
        fcntl.ioctl(fd, _SET_SIZE_BLOCKS, size_bytes // block_bytes)
        fcntl.ioctl(fd, _SET_FLAGS, _HAS_FLAGS | _READ_ONLY | _SEND_FLUSH)
        fcntl.ioctl(fd, _SET_TIMEOUT, 0)
    except OSError as error:
        raise DiskError(f"could not set up {device}: {error.strerror}") from error


def _wait_until_there(driver: _Driver, size_bytes: int) -> None:
    """Return when the kernel serves the device. Raises DiskError if it will not."""
    deadline = time.monotonic() + _READY_S
    # Not by opening it: whoever opens a device reads of it, and that may take as long as it likes.
    while not _is_there(_SYS / driver.device.name, size_bytes):
        if not driver.thread.is_alive():
            reason = driver.error.strerror if driver.error else "the kernel gave it up"
            raise DiskError(f"could not attach {driver.device}: {reason}")
        if time.monotonic() > deadline:
            raise DiskError(f"{driver.device} was not there after {_READY_S:g} s")
        time.sleep(0.02)


def _is_there(folder: Path, size_bytes: int) -> bool:
    size = int((folder / "size").read_text()) * _SYSFS_UNIT
    return (folder / "pid").exists() and size == size_bytes
