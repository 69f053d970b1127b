"""The boot image: made once for what it is made of, and again when that changes."""

import os
import subprocess
import sys
from pathlib import Path

from tests.harness.cache import cache_dir, locked


def boot_image(*options: str) -> Path:
    """Return the folder of the image that tests share; $METALCAST_IMAGE names another."""
    if named := os.environ.get("METALCAST_IMAGE"):
        return Path(named)
    return build_image(cache_dir() / "boot-image", *options)


def build_image(folder: Path, *options: str) -> Path:
    """Have `metalcast build-image` fill `folder`, and return it; its own cache makes that cheap.

    Speed of building counts here more than size, so the compression is the developer's.
    """
    words = [sys.executable, "-m", "images", "--output", str(folder), "--cache", str(cache_dir())]
    words += ["--compression", "fast", *options]
    with locked(cache_dir() / "boot-image.lock"):
        done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"metalcast build-image failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return folder
