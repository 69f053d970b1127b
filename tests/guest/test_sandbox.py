"""The sandbox against a hostile program: what it tries must fail, and be gone afterwards."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.system.command import Run
from agent.system.sandbox import SandboxFailed, run_inside
from tests.guest import SCRATCH_BYTES
from tests.guest.conftest import sh

BUSYBOX = Path("/usr/bin/busybox")
SECRET = Path("/run/metalcast/secret-token")


@pytest.fixture
def disk(scratch: list[Path]) -> Path:
    return scratch[0]


@pytest.fixture
def root(disk: Path, tmp_path: Path) -> Iterator[Path]:
    """A system on a disk of its own, mounted as a deployment mounts it; its shell is busybox."""
    sh("mkfs.ext4", "-q", "-F", disk)
    where = tmp_path / "root"
    where.mkdir()
    sh("mount", "-o", "rw,nosuid,nodev,noexec", disk, where)
    for name in ("bin", "usr/sbin", "etc", "dev", "proc", "sys", "run", "tmp", "var/tmp"):
        (where / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, where / "bin/busybox")
    for applet in sh(BUSYBOX, "--list").split():
        if applet != "busybox":
            (where / "bin" / applet).symlink_to("busybox")
    SECRET.parent.mkdir(parents=True, exist_ok=True)
    SECRET.write_text("a token")
    yield where
    SECRET.unlink()
    sh("umount", where)


def inside(root: Path, script: str, *devices: Path, timeout_s: float = 60) -> str:
    """Have the captured system's update-initramfs be `script`, and run it."""
    program = root / "usr/sbin/update-initramfs"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return run_inside(Run(), root, ["update-initramfs", "-u"], devices=devices, timeout_s=timeout_s)


def test_it_runs_and_changes_its_own_system(root: Path, disk: Path) -> None:
    said = inside(root, 'echo hello; echo "$#" >/etc/made; wc -c </dev/$(ls /dev | grep vd)', disk)
    assert said == f"hello\n{SCRATCH_BYTES}\n"
    assert (root / "etc/made").read_text() == "1\n"
    assert not list((root / "dev").iterdir())


def test_it_sees_no_secret(root: Path, disk: Path) -> None:
    os.environ["METALCAST_TOKEN"] = "a token"
    try:
        said = inside(
            root,
            "env; cat /proc/cmdline; ls -A /run; ls /run/metalcast; cat /proc/1/environ;"
            "cat /proc/1/cmdline; ls /proc/1/root/; ls /usr/lib/metalcast; ls -d /proc/[0-9]*; :",
            disk,
        )
    finally:
        del os.environ["METALCAST_TOKEN"]
    assert "a token" not in said
    assert "secret-token" not in said
    assert "METALCAST" not in said
    assert "console=" not in said
    assert "agent boot" not in said
    assert "Permission denied" in said or "can't open" in said
    seen = [line for line in said.splitlines() if line.startswith("/proc/")]
    assert 1 <= len(seen) < 6


def test_it_has_no_network(root: Path, disk: Path) -> None:
    said = inside(root, "ip link; ip route; ping -c 1 -W 2 10.0.2.2; echo status $?", disk)
    assert "eth0" not in said
    assert "enp" not in said
    assert "status 0" not in said


def test_it_reaches_no_other_disk(root: Path, disk: Path, scratch: list[Path]) -> None:
    other = scratch[1]
    number = other.stat().st_rdev
    major, minor = os.major(number), os.minor(number)
    sh("dd", "if=/dev/zero", f"of={other}", "bs=1M", "count=1")
    with other.open("r+b") as file:
        file.write(b"untouched")
    # a node that the template brought along must be dead as well
    os.mknod(root / "planted", 0o60600, number)
    said = inside(
        root,
        f"ls /dev; mknod /tmp/other b {major} {minor}; echo x >/tmp/other;"
        f"echo x >/dev/{other.name}; echo x >/planted; mount -t devtmpfs dev /tmp;"
        f"echo x >/sys/class/block/{other.name}/queue/read_ahead_kb; dd if=/planted count=1; :",
        disk,
    )
    with other.open("rb") as file:
        assert file.read(9) == b"untouched"
    names = said.split()
    assert disk.name in names
    assert other.name not in names
    assert said.count("Operation not permitted") >= 1
    assert "Read-only file system" in said
    assert "Permission denied" in said


def test_with_the_mapper_it_still_maps_and_mounts_nothing(root: Path, scratch: list[Path]) -> None:
    target, other = scratch[1], scratch[2]
    sectors = int(sh("blockdev", "--getsz", target))
    sh("dmsetup", "create", "ours", "--table", f"0 {sectors} linear {target} 0")
    shutil.copy("/usr/sbin/dmsetup", root / "usr/sbin/dmsetup")
    _with_libraries(root, "/usr/sbin/dmsetup")
    said = inside(
        root,
        "dmsetup table ours; echo read $?;"
        f"dmsetup create theirs --table '0 2048 linear /dev/{other.name} 0'; echo made $?;"
        "dmsetup remove ours; echo removed $?;"
        "mount -t devtmpfs dev /tmp; echo mounted $?; unshare -m true; echo unshared $?",
        Path("/dev/mapper/ours"),
    )
    assert "read 0" in said, said
    assert "made 0" not in said
    assert "removed 0" not in said
    assert "mounted 0" not in said
    assert "unshared 0" not in said
    assert "ours" in sh("dmsetup", "ls")
    assert "theirs" not in sh("dmsetup", "ls")


def _with_libraries(root: Path, program: str) -> None:
    """Copy what `program` needs to run; the loader itself says what that is."""
    loader = "/lib64/ld-linux-x86-64.so.2"
    for line in sh(loader, "--list", program).splitlines():
        for word in line.split():
            if word.startswith("/"):
                place = root / word.lstrip("/")
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(word, place)


def test_it_cannot_change_the_machine(root: Path, disk: Path) -> None:
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    said = inside(
        root,
        "echo '|/evil' >/proc/sys/kernel/core_pattern; echo b >/proc/sysrq-trigger; reboot -f;"
        "hostname evil; date -s 2001-01-01; insmod /x.ko; chroot /proc/1/root /bin/sh -c :;"
        "swapoff -a; umount /proc; mount -o remount,rw /sys; echo went on",
        disk,
    )
    assert said.endswith("went on\n")
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before
    assert os.uname().nodename != "evil"


def test_nothing_of_it_outlives_it(root: Path, disk: Path) -> None:
    mounts = Path("/proc/self/mounts").read_text()
    inside(root, "setsid sleep 7654 & (trap '' TERM HUP; exec sleep 7655) & echo started", disk)
    assert "sleep\0765" not in _all_processes()
    assert Path("/proc/self/mounts").read_text() == mounts


def test_its_time_ends(root: Path, disk: Path) -> None:
    with pytest.raises(SandboxFailed, match="still running after 5 s"):
        inside(
            root, "echo last words; setsid sleep 7656 & trap '' TERM; sleep 7657", disk, timeout_s=5
        )
    assert "sleep\0765" not in _all_processes()


def test_it_cannot_fill_memory(root: Path, disk: Path) -> None:
    free = _available()
    with pytest.raises(SandboxFailed):
        inside(root, "dd if=/dev/zero of=/tmp/big bs=1M && exec tail -c 2000000000 /dev/zero", disk)
    assert _available() > free // 2


def test_it_cannot_fill_the_process_table(root: Path, disk: Path) -> None:
    with pytest.raises(SandboxFailed, match="can't fork"):
        inside(root, "n=0; while [ $n -lt 700 ]; do sleep 3000 & n=$((n+1)); done", disk)


def test_its_output_is_bounded_and_quoted(root: Path, disk: Path) -> None:
    with pytest.raises(SandboxFailed, match="wrote more than"):
        inside(root, "yes", disk)
    with pytest.raises(SandboxFailed, match="failed with status 3: one | two"):
        inside(root, "echo one; echo two >&2; exit 3", disk)
    with pytest.raises(SandboxFailed, match="cannot be run"):
        run_inside(Run(), root, ["grub-install"], devices=[disk], timeout_s=30)


def _all_processes() -> str:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text())
        except OSError:
            continue
    return "\n".join(found)


def _available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1])
    raise AssertionError("no MemAvailable")
