"""The parsers of the stacks themselves, as second opinions.

`netplan` and `ifup` are installed. NetworkManager and cloud-init would take over the network of the
machine that runs the tests, so their Debian packages may just as well be unpacked, side by side,
into a folder that METALCAST_ORACLES names.
"""

import os
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import NoReturn

import pytest

from tests.conftest import cannot_run

Sections = dict[str, list[tuple[str, str]]]


def missing(program: str, required: bool) -> NoReturn:
    """Skip, or fail where CI is set and scripts/setup promises the program."""
    if required:
        cannot_run(f"{program} is not installed")
    pytest.skip(f"{program} is not installed")


def program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    return found or missing(name, required=True)


def unpacked(path: str) -> Path | None:
    """Return `path` in the folder of unpacked packages, if it is there."""
    folder = os.environ.get("METALCAST_ORACLES")
    found = Path(folder).resolve() / path if folder else None
    return found if found and found.exists() else None


def run(words: list[str], stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"} | environment,
    )


def nmcli(keyfile: str) -> subprocess.CompletedProcess[str]:
    """Have NetworkManager's library read `keyfile` and write it again."""
    words = ["--offline", "connection", "modify", "connection.stable-id", "read"]
    installed = shutil.which("nmcli")
    if installed:
        return run([installed, *words], keyfile)
    found = unpacked("usr/bin/nmcli")
    if not found:
        missing("nmcli", required=bool(os.environ.get("METALCAST_ORACLES")))
    libraries = next((found.parents[2] / "usr/lib").glob("*/libnm.so.0")).parent
    return run([str(found), *words], keyfile, LD_LIBRARY_PATH=str(libraries))


def net_convert(document: Path, out: Path, macs: dict[str, str]) -> None:
    """Have cloud-init write ifcfg files for a netplan document."""
    python, environment = "/usr/bin/python3", {}
    modules = unpacked("usr/lib/python3/dist-packages/cloudinit")
    if modules:
        environment = {"PYTHONPATH": str(modules.parent)}
    elif not shutil.which("cloud-init"):
        missing("cloud-init", required=bool(os.environ.get("METALCAST_ORACLES")))
    words = [python, "-m", "cloudinit.cmd.main", "devel", "net-convert"]
    words += ["-p", str(document), "-k", "yaml", "-d", str(out), "-D", "rhel", "-O", "sysconfig"]
    for name, mac in macs.items():
        words += ["-m", f"{name},{mac}"]
    done = run(words, **environment)
    assert done.returncode == 0, done.stderr


def parse_ini(text: str) -> Sections:
    """Return the sections of a unit file or keyfile; a section may come twice, and so may a key."""
    sections: Sections = defaultdict(list)
    title, count = "", 0
    for line in text.splitlines():
        if line.startswith("["):
            # Each [Route] is a thing of its own.
            title, count = line.strip("[]"), count + 1
            if title == "Route":
                title = f"Route {count}"
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            sections[title].append((key, value))
    return sections
