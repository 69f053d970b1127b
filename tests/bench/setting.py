"""What every bench stands on: data, servers, prepared files, and the child that is ours."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from agent.store.layout import LayoutFolder
from agent.store.registry import RegistryClient
from agent.store.target import FolderTarget
from agent.store.template import Template, open_template
from agent.store.transfer import copy_template
from tests.bench.contents import digest_of_image
from tests.bench.data import images, wide_ext4, xfs_images
from tests.bench.rounds import BenchFailed, say, timed, timed_pipe
from tests.bench.servers import Nginx, nginx
from tests.contracts.registries import netboot
from tests.harness.cache import cache_dir, key_of, made_once

ROOT: Final = Path(__file__).parents[2]
REPOSITORY: Final = "bench"
TAG: Final = "latest"
LEVEL: Final = "3"
"""What a capture has that is compared with `zstd -3`, or that others are made from."""
ADAPTIVE: Final = "adaptive"
"""What a capture has in the product, unless it is told."""


@dataclass(frozen=True, slots=True)
class Data:
    """One image, and what the lines say about it."""

    name: str
    image: Path
    words: str

    @property
    def size_bytes(self) -> int:
        return self.image.stat().st_size


@dataclass
class Setting:
    """One run of the bench. `work` is on the disk that is written to, and goes away."""

    work: Path
    server: Nginx
    rounds: int
    is_quick: bool
    wants_small: bool

    @property
    def data(self) -> Data:
        return self.small if self.wants_small else self.system

    @cached_property
    def system(self) -> Data:
        image = images().system
        words = f"ext4 of 12 GiB that holds 5.9 GiB of a Debian system ({_digest(image)})"
        return Data("system", image, words)

    @cached_property
    def small(self) -> Data:
        words = f"ext4 of 4 GiB that holds {self.subset}"
        return Data("small", images().small, words)

    @cached_property
    def small_xfs(self) -> Data:
        return Data("small-xfs", xfs_images().small, f"XFS of 4 GiB that holds {self.subset}")

    @cached_property
    def wide_xfs(self) -> Data:
        words = f"XFS of just below 16 TiB that holds {self.subset}"
        return Data("wide-xfs", xfs_images().wide, words)

    @cached_property
    def wide(self) -> Data:
        words = f"ext4 of just below 16 TiB that holds {self.subset}"
        return Data("wide", wide_ext4(), words)

    @cached_property
    def subset(self) -> str:
        """What all images but `system` hold."""
        return f"1 GiB of a Debian system ({_digest(images().small)})"

    def url_of(self, path: Path, *, counted: bool = False) -> str:
        """Return where nginx serves a file or folder of the cache and may count what it sends."""
        base = self.server.counted_url if counted else self.server.url
        return f"{base}/{path.relative_to(cache_dir())}"

    def child(self, mode: str, *words: str | Path) -> tuple[float, dict[str, Any]]:
        """Run ours in a process of its own; return its seconds, all of them, and its answer."""
        log = self.work / f"{mode}.log"
        seconds = timed([*self._python, mode, *map(str, words)], log)
        answer: dict[str, Any] = json.loads(log.read_text().splitlines()[-1])
        say(f"  ours: {answer}")
        return seconds, answer

    @cached_property
    def _python(self) -> tuple[str | Path, ...]:
        """How the child begins: from compiled modules, whatever is set here, as in the image."""
        compiled = f"PYTHONPYCACHEPREFIX={self.work / 'compiled'}"
        words = ("env", "-C", ROOT, "-u", "PYTHONDONTWRITEBYTECODE", compiled, sys.executable)
        timed([*words, "-c", "import tests.bench.child"], self.work / "compile.log")
        return (*words, "-m", "tests.bench.child")

    @contextmanager
    def registry(self) -> Iterator[str]:
        """Yield the URL of a registry of ours that has nothing yet, and goes away."""
        store = Path(tempfile.mkdtemp(prefix="store-", dir=self.work))
        try:
            with netboot(store) as url:
                yield url
        finally:
            shutil.rmtree(store)

    def template(self, data: Data) -> tuple[Path, Template]:
        """Return the layout folder with `data` as a template of today's code, and the template."""
        key = key_of(str(data.image), *(path.read_bytes() for path in sorted(_format_code())))
        folder = made_once(f"bench-template-{data.name}", key, lambda at: self._export(data, at))
        return folder / "layout", open_template(LayoutFolder(folder / "layout"), TAG)

    def _export(self, data: Data, folder: Path) -> None:
        say(f"capturing {data.name} once, for all that deploy it")
        with self.registry() as url:
            self.child("capture", url, REPOSITORY, data.image, TAG, LEVEL)
            source = RegistryClient(url, REPOSITORY)
            copy_template(source, TAG, FolderTarget(LayoutFolder(folder / "layout")), TAG)
            source.close()

    def peers(self, data: Data) -> Path:
        """Return the folder with the image as partclone's and as raw bytes, both zstd -3."""
        key = key_of(str(data.image), "zstd -3 -T2")

        def make(folder: Path) -> None:
            say(f"making the images of the peers from {data.name}")
            log = self.work / "peers.log"
            timed_pipe(partclone_capture(data.image, folder / "partclone.zst"), log)
            timed_pipe(f"zstd -q -3 -T2 -c {data.image} > {folder / 'raw.zst'}", log)

        return made_once(f"bench-peers-{data.name}", key, make)


def _digest(image: Path) -> str:
    return f"sha256 of its files {digest_of_image(image)}"


def partclone_capture(image: Path, file: Path) -> str:
    """Return the pipeline by which people capture a filesystem."""
    return f"partclone.extfs -c -L /dev/null -s {image} -o - | zstd -q -3 -T2 > {file}"


def warm(*files: Path) -> None:
    """Bring files into the page cache."""
    for file in files:
        subprocess.run(["cat", file], check=True, stdout=subprocess.DEVNULL)


def warm_template(layout: Path) -> None:
    warm(*sorted((layout / "blobs" / "sha256").iterdir()))


def _format_code() -> Iterator[Path]:
    """Yield the files of ours that say how a template looks."""
    for folder in ("agent/store", "agent/stream", "agent/tools", "agent/model"):
        yield from (ROOT / folder).glob("*.py")


@contextmanager
def setting(rounds: int, *, is_quick: bool, wants_small: bool) -> Iterator[Setting]:
    """Set up what all benches need: a folder on the disk, and nginx over the cache."""
    with tempfile.TemporaryDirectory(prefix="bench-work-", dir=cache_dir()) as name:
        work = Path(name)
        if shutil.which("partclone.extfs") is None:
            raise BenchFailed("partclone is not installed: scripts/setup")
        with nginx(cache_dir(), work) as server:
            yield Setting(work, server, rounds, is_quick, wants_small)
