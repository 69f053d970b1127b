"""Debian packages, unpacked by mmdebstrap: no container engine, and no package's script is run."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from images.host import BuildError, require, run
from images.tree import Tree, read_tar, write_tar

_DEB = re.compile(r"var/cache/apt/archives/([a-z0-9][a-z0-9.+-]*)_([^_/]+)_[a-z0-9]+\.deb")
_NEVER = re.compile(
    r"(?:dev|proc|run|sys|tmp|var|usr/share/(?:doc|man|locale|info|i18n|perl|perl5|icu)"
    r"|usr/lib/x86_64-linux-gnu/(?:gconv|perl|perl5|perl-base|libicudata\..*))(?:/.*)?"
)
"""What no image wants of any package, left out of the cache as well."""

PackageVersions = dict[str, dict[str, str]]


@dataclass(frozen=True, slots=True)
class Source:
    """Where packages come from. `mirror` None: mmdebstrap's own default for the suite."""

    suite: str
    components: tuple[str, ...]
    packages: tuple[str, ...]
    mirror: str | None = None
    keyring: Path | None = None

    def key(self) -> str:
        """Return a name for this choice of packages; not of their versions."""
        words = [self.suite, *self.components, "", *sorted(self.packages), "", self.mirror or ""]
        return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def unpacked(source: Source, cache: Path, *, refresh: bool) -> tuple[Path, PackageVersions]:
    """Return the tar of all packages' files and what they are; fetched unless `cache` has them."""
    folder = cache / "packages" / source.key()
    tar, versions = folder / "tree.tar", folder / "packages.json"
    if refresh or not versions.exists():
        folder.mkdir(parents=True, exist_ok=True)
        versions.unlink(missing_ok=True)
        found = _fetch(source, tar)
        # Written last: its presence says that the tar is whole.
        versions.write_text(json.dumps(found, sort_keys=True, indent=1))
    loaded: PackageVersions = json.loads(versions.read_text())
    return tar, loaded


def _fetch(source: Source, target: Path) -> PackageVersions:
    require("mmdebstrap")
    tree = Tree()
    debs: PackageVersions = {}

    def take(stream: IO[bytes]) -> None:
        for path, entry in read_tar(stream):
            if deb := _DEB.fullmatch(path):
                version = deb.group(2).replace("%3a", ":")
                digest = hashlib.sha256(entry.body).hexdigest()
                debs[deb.group(1)] = {"version": version, "sha256": digest}
            elif not _NEVER.fullmatch(path):
                tree[path] = entry

    run(_command(source), drain=take)
    if not debs:
        raise BuildError("mmdebstrap fetched no package")
    with target.open("wb") as out:
        write_tar(out, tree, epoch=0)
    return debs


def _command(source: Source) -> Sequence[str | Path]:
    return [
        "mmdebstrap",
        # Only unpack: nothing from the packages runs, so this needs neither root nor a chroot.
        "--variant=extract",
        "--format=tar",
        "--architectures=amd64",
        f"--components={','.join(source.components)}",
        f"--include={','.join(source.packages)}",
        # Keeps the .deb files in the archive that we read: they name the versions.
        "--skip=cleanup/apt/cache",
        *([f"--keyring={source.keyring}"] if source.keyring else []),
        source.suite,
        "-",
        *([source.mirror] if source.mirror else []),
    ]
