"""The proof that the same input gives the same bytes: everything is made a second time."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from agent.trust.keyring import Keyring
from images.base import Wanted
from images.build import Built, build_image
from images.host import BuildError
from images.iso import write_iso

_NAMES = ("agent.img", "base.img", "initrd.img", "manifest.json", "vmlinuz")


def check_reproducible(
    wanted: Wanted,
    keyring: Keyring,
    cache: Path,
    built: Built,
    iso: Path | None,
    arguments: tuple[str, ...],
    say: Callable[[str], None],
) -> None:
    """Build again in an empty cache, from freshly fetched packages. BuildError if a byte differs.

    What changed meanwhile (packages, our code) is another input: that is said, and fails too.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="repeat-", dir=cache) as name:
        work = Path(name)
        second = build_image(wanted, work / "cache", work / "image", say, keyring)
        if second.manifest["packages"] != built.manifest["packages"]:
            raise BuildError(
                "Debian has published other packages since the first build",
                hint="build with --refresh --check-reproducible",
            )
        if second.manifest["agent_sources"] != built.manifest["agent_sources"]:
            raise BuildError("the agent's sources were edited between the two builds")
        pairs = [(built.folder / file, second.folder / file) for file in _NAMES]
        if iso:
            write_iso(second.folder, work / "iso", arguments)
            pairs.append((iso, work / "iso"))
        differ = [first.name for first, other in pairs if not _same(first, other)]
    if differ:
        raise BuildError(f"the second build differs in {', '.join(differ)}")


def _same(first: Path, second: Path) -> bool:
    with first.open("rb") as one, second.open("rb") as other:
        while True:
            piece = one.read(1 << 20)
            if piece != other.read(1 << 20):
                return False
            if not piece:
                return True
