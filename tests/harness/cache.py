"""Where made things are kept between runs, and how a thing is made once."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_dir() -> Path:
    """Return the folder for what is dear to make: $METALCAST_CACHE or ~/.cache/metalcast."""
    named = os.environ.get("METALCAST_CACHE")
    folder = Path(named) if named else Path.home() / ".cache" / "metalcast"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def key_of(*inputs: object) -> str:
    """Return a short name for these inputs: bytes as they are, anything else by its repr."""
    digest = hashlib.sha256()
    for value in inputs:
        data = value if isinstance(value, bytes) else repr(value).encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock on `path`, so that two runs on one machine do not make one thing twice."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def made_once(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """Return the folder `kind`-`key` in the cache; if absent, let `make` fill it.

    It appears under its name only when `make` has returned. Older ones of the kind are removed.
    """
    folder = cache_dir() / f"{kind}-{key}"
    with locked(cache_dir() / f"{kind}.lock"):
        if not folder.exists():
            unfinished = Path(tempfile.mkdtemp(prefix=f"tmp-{kind}-", dir=cache_dir()))
            try:
                make(unfinished)
                unfinished.chmod(0o755)
                unfinished.rename(folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
            for old in cache_dir().glob(f"{kind}-" + "[0-9a-f]" * 16):
                if old != folder:
                    shutil.rmtree(old, ignore_errors=True)
    return folder
