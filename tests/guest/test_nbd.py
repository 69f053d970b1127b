"""A block device whose bytes come from a function, under a real kernel: it always goes away."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.errors import AgentError, DiskError, ServerError
from agent.system import block
from agent.system.command import Run
from agent.system.nbd import attached
from agent.units import MiB
from tests.guest.conftest import sh
from tests.guest.trees import is_none_left


def zeros(offset: int, size: int) -> bytes:
    return bytes(size)


def write_sector(device: Path) -> None:
    with (
        block.opened(device, os.O_WRONLY | os.O_DIRECT) as fd,
        block.aligned_buffer(4096) as buffer,
    ):
        os.pwritev(fd, [buffer], 0)


def test_several_devices_at_once_and_none_is_left() -> None:
    run = Run()
    with ExitStack() as stack:
        devices = [stack.enter_context(attached(run, size * MiB, 512, zeros)) for size in (1, 2, 3)]
        assert len(set(devices)) == 3
        assert [block.size_bytes(device) for device in devices] == [MiB, 2 * MiB, 3 * MiB]
        with pytest.raises((OSError, DiskError), match="Read-only|not permitted"):
            write_sector(devices[0])
    assert is_none_left()


def test_signals_do_not_take_the_device_away() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        with attached(Run(), MiB, 512, lambda offset, size: b"\x07" * size) as device:
            for _ in range(50):
                os.kill(os.getpid(), signal.SIGUSR1)
            block.flush(device)
            assert device.read_bytes() == b"\x07" * MiB
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard


def test_what_the_user_of_the_device_raises_comes_through() -> None:
    with pytest.raises(KeyError), attached(Run(), MiB, 512, zeros):
        raise KeyError
    with pytest.raises(DiskError) as info, attached(Run(), MiB, 512, zeros):
        raise DiskError("something else")
    assert info.value.__cause__ is None
    assert is_none_left()


CHILD = """
import sys, time
from pathlib import Path
from agent.system.command import Run
from agent.system.mount import mounted
from agent.system.nbd import attached
file = open(sys.argv[1], "rb")
import os
size = os.fstat(file.fileno()).st_size
with attached(Run(), size, 512, lambda at, n: os.pread(file.fileno(), n, at)) as device:
    with mounted(Run(), device, Path(sys.argv[2]), "ext4", "ro,noload"):
        print(device, flush=True)
        time.sleep(600)
"""


def test_a_killed_process_leaves_no_device(tmp_path: Path) -> None:
    image, where = tmp_path / "small.img", tmp_path / "mnt"
    with image.open("wb") as file:
        file.truncate(16 * MiB)
    sh("mkfs.ext4", "-q", "-F", image)
    for _ in range(2):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, image, where], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        device = child.stdout.readline().strip()
        assert device.startswith("/dev/nbd")
        child.kill()
        child.wait()
        child.stdout.close()
        sh("umount", where)
        assert is_none_left()


EXTENTS = """
import os, sys
from pathlib import Path
from agent.system.command import Run
from agent.system.fiemap import file_extents
from agent.system.mount import mounted
from agent.system.nbd import attached
file = open(sys.argv[1], "rb")
size = os.fstat(file.fileno()).st_size
with attached(Run(), size, 512, lambda at, n: os.pread(file.fileno(), n, at)) as device:
    with mounted(Run(), device, Path(sys.argv[2]), "ext4", "ro,noload") as where:
        fd = os.open(where / "scattered", os.O_RDONLY)
        Path("/proc/sys/vm/drop_caches").write_text("3")
        print(len(file_extents(fd, "scattered")))
        os.close(fd)
"""


def test_the_places_of_a_file_are_read_of_the_device(tmp_path: Path) -> None:
    """The kernel reads the tree of extents meanwhile, of a thread of the process that asks."""
    image, where = tmp_path / "small.img", tmp_path / "mnt"
    with image.open("wb") as file:
        file.truncate(64 * MiB)
    sh("mkfs.ext4", "-q", "-F", image)
    where.mkdir()
    sh("mount", "-o", "loop", image, where)
    with (where / "scattered").open("wb") as file:
        for number in range(1000):
            file.seek(number * 16384)
            file.write(b"one block of four")
    sh("umount", where)
    done = subprocess.run(
        [sys.executable, "-c", EXTENTS, image, where],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("1000\n", "")
    assert is_none_left()


def test_a_waiting_read_does_not_keep_the_device(tmp_path: Path) -> None:
    """The server hangs; whoever used the device gives up; it goes away all the same."""
    go = threading.Event()

    def hang(offset: int, size: int) -> bytes:
        go.wait(60)
        raise ServerError("cancelled")

    class GiveUp(AgentError):
        pass

    with pytest.raises(GiveUp), attached(Run(), MiB, 512, hang, cancel=go.set):
        raise GiveUp("enough")
    assert is_none_left()


def test_a_read_that_the_end_cuts_off_is_no_error() -> None:
    asked, go = threading.Event(), threading.Event()

    def hang(offset: int, size: int) -> bytes:
        asked.set()
        go.wait(60)
        raise ServerError("cancelled")

    def look(device: Path) -> None:
        with contextlib.suppress(OSError):
            device.read_bytes()

    with attached(Run(), MiB, 512, hang, cancel=go.set) as device:
        reader = threading.Thread(target=look, args=(device,))
        reader.start()
        assert asked.wait(30)
    reader.join(30)
    assert not reader.is_alive()
    assert is_none_left()
