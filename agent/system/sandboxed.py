"""The first process of a sandbox: makes it, runs one program in it, and ends with its status.

Started by `agent.system.sandbox` in fresh namespaces; the order comes on stdin as JSON. It stays
the first process, so that nothing inside can outlive it. It imports little: each import is time.
"""

import ctypes
import json
import os
import resource
import signal
import stat
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

from agent.system.kernel_guard import (
    CAP_SYS_ADMIN,
    KEPT_CAPABILITIES,
    drop_capabilities,
    install_filter,
)

_SYS_PIVOT_ROOT: Final = 155
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_NOATIME, _MS_BIND, _MS_REC = 32, 1024, 4096, 16384
_MNT_DETACH: Final = 2
_SETUP_FAILED: Final = 125
_CANNOT_RUN: Final = 127
_DEV: Final = Path("/dev")
_CGROUPS: Final = Path("/sys/fs/cgroup")
_GROUP: Final = "metalcast-sandbox"
_CHARACTERS: Final = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
_FOLDER_LINKS: Final = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
_HIDDEN: Final = ("/proc/cmdline", "/proc/keys", "/proc/kcore", "/proc/sysrq-trigger")
_ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/root",
    "TERM": "dumb",
    # there is no udev to wait for, and no node may be made
    "DM_DISABLE_UDEV": "1",
    "DRACUT_NO_MKNOD": "1",
}
_OPEN_FILES: Final = 4096


def main() -> NoReturn:
    """Make the sandbox, run the program, end as it ends."""
    try:
        order = json.load(sys.stdin)
        _enter_group(order["memory_bytes"], order["processes"])
        _enter_root(order["root"])
        _make_folders(order)
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        child = os.fork()
    except (OSError, ValueError, KeyError) as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(_SETUP_FAILED)
    if child == 0:
        _become(order)
    os._exit(_wait_for(child))


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    words = [word.encode() for word in (source, target, kind)]
    if libc.mount(*words, ctypes.c_ulong(flags), data.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def _enter_group(memory_bytes: int, processes: int) -> None:
    """Join a control group that bounds memory and processes of all that is inside together."""
    _mount("cgroup2", str(_CGROUPS), "cgroup2", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    (_CGROUPS / "cgroup.subtree_control").write_text("+memory +pids", encoding="ascii")
    group = _CGROUPS / _GROUP
    group.mkdir(exist_ok=True)
    (group / "memory.max").write_text(str(memory_bytes), encoding="ascii")
    (group / "pids.max").write_text(str(processes), encoding="ascii")
    if (swap := group / "memory.swap.max").exists():
        swap.write_text("0", encoding="ascii")
    (group / "cgroup.procs").write_text("0", encoding="ascii")


def _enter_root(root: str) -> None:
    """Make `root`, with what is mounted below it, the root; let go of everything else.

    Device nodes in its files stay dead and set-user-id bits without effect; its programs may run.
    """
    _mount(root, root, "", _MS_BIND | _MS_REC)
    for point, options in _mounts_below(root):
        flags = _MS_BIND | _MS_REMOUNT | _MS_NOSUID | _MS_NODEV | _MS_NOATIME
        _mount("", point, "", flags | (_MS_RDONLY if "ro" in options else 0))
    os.chdir(root)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SYS_PIVOT_ROOT, b".", b".") != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "pivot_root")
    if libc.umount2(b".", _MNT_DETACH) != 0:
        raise OSError(ctypes.get_errno(), "the old root stays")
    os.chdir("/")


def _mounts_below(root: str) -> list[tuple[str, list[str]]]:
    """Return the mount points at and below `root` with their options, outermost first."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        words = line.split(" ")
        point = words[4].encode().decode("unicode_escape").encode("latin-1").decode("utf-8")
        if point == root or point.startswith(f"{root}/"):
            found[point] = words[5].split(",")
    return sorted(found.items())


def _make_folders(order: dict[str, Any]) -> None:
    """Mount what a system expects. From here on every link leads into the sandbox."""
    quiet = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    for name in ("proc", "sys", "dev", "run", "tmp"):
        (Path("/") / name).mkdir(0o755, exist_ok=True)
    _mount("tmpfs", "/dev", "tmpfs", _MS_NOSUID, "mode=755,size=1m,nr_inodes=4096")
    os.umask(0)
    for name, (major, minor) in _CHARACTERS.items():
        os.mknod(f"/dev/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))
    for name, number in order["nodes"].items():
        _parent_of(name)
        os.mknod(f"/dev/{name}", stat.S_IFBLK | 0o600, number)
    for name, to in order["links"].items():
        _parent_of(name)
        (_DEV / name).symlink_to(f"/dev/{to}")
    if order["mapper"]:
        (_DEV / "mapper").mkdir(0o755, exist_ok=True)
        os.mknod("/dev/mapper/control", stat.S_IFCHR | 0o600, os.makedev(10, 236))
    for name, to in _FOLDER_LINKS.items():
        (_DEV / name).symlink_to(to)
    (_DEV / "pts").mkdir(0o755)
    (_DEV / "shm").mkdir(0o1777)
    _mount("devpts", "/dev/pts", "devpts", _MS_NOSUID | _MS_NOEXEC, "newinstance,ptmxmode=666")
    _mount("proc", "/proc", "proc", quiet | _MS_RDONLY)
    for hidden in _HIDDEN:
        if Path(hidden).exists():
            _mount("/dev/null", hidden, "", _MS_BIND)
    _mount("sysfs", "/sys", "sysfs", quiet | _MS_RDONLY)
    if Path("/sys/firmware").is_dir():
        _mount("tmpfs", "/sys/firmware", "tmpfs", quiet | _MS_RDONLY, "size=4k")
    size = order["memory_bytes"] // 2
    _mount("tmpfs", "/run", "tmpfs", _MS_NOSUID | _MS_NODEV, f"mode=755,size={size}")
    _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, f"mode=1777,size={size}")  # noqa: S108
    Path("/run/lock").mkdir(0o1777)
    if order["md_map"]:
        Path("/run/mdadm").mkdir(0o755)
        Path("/run/mdadm/map").write_text(order["md_map"], encoding="utf-8")
    os.umask(0o022)


def _parent_of(name: str) -> None:
    (_DEV / name).parent.mkdir(0o755, parents=True, exist_ok=True)


def _become(order: dict[str, Any]) -> NoReturn:
    """Give up what the program must not have, and become it."""
    try:
        os.setsid()
        os.dup2(1, 2)
        for limit, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, _OPEN_FILES)):
            resource.setrlimit(limit, (most, most))
        kept = KEPT_CAPABILITIES | ({CAP_SYS_ADMIN} if order["mapper"] else set())
        drop_capabilities(kept)
        install_filter()
        # Python ignores it, and so would every pipe of the program's scripts
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        argv = order["argv"]
        os.execvpe(argv[0], argv, _ENVIRONMENT)  # noqa: S606
    except OSError as error:
        os.write(1, f"{order['argv'][0]} cannot be run: {error}\n".encode())
    os._exit(_CANNOT_RUN)


def _wait_for(child: int) -> int:
    """Reap whatever ends until `child` does; return its status as a shell would say it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        found, status = os.wait()
        if found == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    main()
