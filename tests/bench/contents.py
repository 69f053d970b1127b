"""What the data is, in twelve digits: two people who see the same ones have measured the same.

Counted are names and contents of the files, not the bytes of an image: those have the times at
which files were unpacked, and places that follow the order of a folder on that machine.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Final

from tests.harness.cache import cache_dir, locked

DIGITS: Final = 12
_KEPT: Final = ".files-sha256"


def digest_of_image(image: Path) -> str:
    """Return the digest of what is below /usr in an ext4, which is kept beside it."""
    kept = image.with_suffix(_KEPT)
    with locked(cache_dir() / "bench-contents.lock"):
        if not kept.exists():
            with tempfile.TemporaryDirectory(prefix="bench-files-", dir=cache_dir()) as folder:
                tree = Path(folder) / "tree"
                files_of(image, tree)
                keep_digest(image, tree / "usr")
    return kept.read_text()


def keep_digest(image: Path, usr: Path) -> None:
    """Write down what `image` was made of."""
    kept = image.with_suffix(_KEPT)
    half = kept.with_suffix(".part")
    half.write_text(digest_of_files(usr))
    half.replace(kept)


def digest_of_files(folder: Path) -> str:
    """Return the first digits of the SHA-256 of all files below `folder`: names and contents."""
    whole = sha256()
    for path in files(folder):
        with path.open("rb") as file:
            content = file_digest(file, "sha256").digest()
        name = os.fsencode(path.relative_to(folder))
        whole.update(len(name).to_bytes(4, "big") + name + content)
    return whole.hexdigest()[:DIGITS]


def files(folder: Path) -> Iterator[Path]:
    """Yield the regular files below `folder`, each folder's in the order of their names."""
    for found in sorted(folder.iterdir()):
        if found.is_symlink():
            continue
        if found.is_dir():
            yield from files(found)
        elif found.is_file():
            yield found


def files_of(image: Path, tree: Path) -> None:
    """Copy what is below /usr out of an ext4."""
    tree.mkdir()
    words = ["debugfs", "-R", f"rdump /usr {tree}", str(image)]
    done = subprocess.run(
        words, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    said = [line for line in done.stderr.splitlines() if not _is_harmless(line)]
    if said:  # its status says nothing
        raise RuntimeError(f"{image} could not be read:\n" + "\n".join(said[:10]))


def _is_harmless(line: str) -> bool:
    return line.startswith("debugfs ") or "changing ownership" in line
