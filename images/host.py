"""The one door to the programs of the building machine."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from agent.errors import AgentError

PACKAGE_OF = {
    "grub-mkimage": "grub-common grub-pc-bin grub-efi-amd64-bin",
    "mformat": "mtools",
    "mcopy": "mtools",
    "mmd": "mtools",
    "mksquashfs": "squashfs-tools",
    "mmdebstrap": "mmdebstrap uidmap debian-archive-keyring",
    "strip": "binutils",
    "xorriso": "xorriso",
}
"""The Debian and Ubuntu packages of the programs that we call."""


class BuildError(AgentError):
    """The image could not be built."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what a called program sees: a fixed locale and clock zone, sbin in its path."""
    path = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/local/sbin:/usr/sbin:/sbin"
    fixed = {"PATH": path, "LC_ALL": "C.UTF-8", "TZ": "UTC", "PYTHONHASHSEED": "0"}
    # mksquashfs refuses its own time options beside this one; we always pass times ourselves.
    kept = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    return {**kept, **fixed, **(extra or {})}


def require(*programs: str) -> None:
    """Raise BuildError, with what to install, unless all `programs` are there."""
    path = environment()["PATH"]
    missing = [name for name in programs if shutil.which(name, path=path) is None]
    if missing:
        packages = sorted({word for name in missing for word in PACKAGE_OF.get(name, name).split()})
        raise BuildError(
            f"not installed here: {', '.join(missing)}",
            hint=f"apt-get install {' '.join(packages)}",
        )


def run(
    argv: Sequence[str | Path],
    *,
    feed: Callable[[IO[bytes]], None] | None = None,
    drain: Callable[[IO[bytes]], None] | None = None,
    extra_env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float = 1800,
) -> bytes:
    """Run `argv` and return its output. Raises BuildError with its last words if it fails.

    `feed` writes its standard input, `drain` reads its output as it comes; not both at once.
    """
    words = [str(word) for word in argv]
    env = environment(extra_env)
    name, words[0] = words[0], shutil.which(words[0], path=env["PATH"]) or words[0]
    broken = False
    # A file, not a pipe, for what it says meanwhile: nobody reads that before the end.
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(
            words,
            stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
            stdout=log if feed else subprocess.PIPE,
            stderr=log,
            env=env,
            cwd=cwd,
        ) as process:
            try:
                if feed and process.stdin:
                    try:
                        feed(process.stdin)
                    except BrokenPipeError:
                        broken = True
                if drain and process.stdout:
                    drain(process.stdout)
                out, _ = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired as error:
                process.kill()
                raise BuildError(f"{name} did not end within {timeout_s:.0f} s") from error
            except BaseException:
                process.kill()
                raise
        if process.returncode or broken:
            log.seek(0)
            last = log.read().decode(errors="replace").strip().splitlines()[-12:]
            raise BuildError("\n".join([f"{name} failed, status {process.returncode}", *last]))
    return out or b""
