"""Programs that serve while a test runs: started, waited for, ended."""

import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_PORT_S = 10.0
_START_S = 20.0


class NotStarted(RuntimeError):
    """A program that did not begin to serve in time, or ended."""


def wait_for_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Return once `process` answers on loopback. Raises NotStarted."""
    deadline = time.monotonic() + _PORT_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise NotStarted(f"{process.args!r} did not start")


@contextmanager
def storage_daemon(blockdevs: Sequence[str], shown: str, node: Path, base: Path) -> Iterator[Path]:
    """Yield `node`, a file that is QEMU's block device `shown`, of the size of `base`."""
    node.write_bytes(b"")
    process = subprocess.Popen(
        [
            "qemu-storage-daemon",
            *(word for blockdev in blockdevs for word in ("--blockdev", blockdev)),
            *("--export", f"type=fuse,id=disk,node-name={shown},mountpoint={node},writable=on"),
        ],
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + _START_S
        while node.stat().st_size != base.stat().st_size:
            if process.poll() is not None or time.monotonic() > deadline:
                process.terminate()
                said = process.stderr.read().decode() if process.stderr else ""
                raise NotStarted(f"qemu-storage-daemon did not start: {said}")
            time.sleep(0.02)
        yield node
    finally:
        process.terminate()
        process.wait(timeout=30)
