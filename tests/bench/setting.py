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
from tests.bench.data import images, wide_ext4, xfs_images
from tests.bench.rounds import BenchFailed, say, timed, timed_pipe
from tests.bench.servers import nginx
from tests.contracts.registries import netboot
from tests.harness.cache import cache_dir, key_of, made_once

ROOT: Final = Path(__file__).parents[2]
REPOSITORY: Final = "bench"
TAG: Final = "latest"


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
    url: str
    rounds: int
    is_quick: bool
    wants_small: bool

    @property
    def data(self) -> Data:
        return self.small if self.wants_small else self.system

    @cached_property
    def system(self) -> Data:
        words = "ext4 of 12 GiB that holds 5.9 GiB of a Debian system"
        return Data("system", images().system, words)

    @cached_property
    def small(self) -> Data:
        return Data("small", images().small, "ext4 of 4 GiB that holds 1 GiB of a Debian system")

    @cached_property
    def small_xfs(self) -> Data:
        return Data("small-xfs", xfs_images().small, "the same 1 GiB on an XFS of 4 GiB")

    @cached_property
    def wide_xfs(self) -> Data:
        return Data("wide-xfs", xfs_images().wide, "the same 1 GiB on an XFS of just below 16 TiB")

    @cached_property
    def wide(self) -> Data:
        return Data("wide", wide_ext4(), "the same 1 GiB on an ext4 of just below 16 TiB")

    def url_of(self, path: Path) -> str:
        """Return where nginx serves a file or folder of the cache."""
        return f"{self.url}/{path.relative_to(cache_dir())}"

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

    def template(self, data: Data) -> tuple[Path, Template]:
        """Return the layout folder with `data` as a template of today's code, and the template."""
        key = key_of(str(data.image), *(path.read_bytes() for path in sorted(_format_code())))
        folder = made_once(f"bench-template-{data.name}", key, lambda at: self._export(data, at))
        return folder / "layout", open_template(LayoutFolder(folder / "layout"), TAG)

    def _export(self, data: Data, folder: Path) -> None:
        say(f"capturing {data.name} once, for all that deploy it")
        store = folder / "captured"
        store.mkdir()
        with netboot(store) as url:
            self.child("capture", url, REPOSITORY, data.image, TAG)
            source = RegistryClient(url, REPOSITORY)
            copy_template(source, TAG, FolderTarget(LayoutFolder(folder / "layout")), TAG)
            source.close()
        shutil.rmtree(store)

    def peers(self, data: Data) -> Path:
        """Return the folder with the image as partclone's and as raw bytes, both zstd -3."""
        key = key_of(str(data.image), "zstd -3 -T2")

        def make(folder: Path) -> None:
            say(f"making the images of the peers from {data.name}")
            log = self.work / "peers.log"
            timed_pipe(partclone_capture(data.image, folder / "partclone.zst"), log)
            timed_pipe(f"zstd -q -3 -T2 -c {data.image} > {folder / 'raw.zst'}", log)

        return made_once(f"bench-peers-{data.name}", key, make)


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
        with nginx(cache_dir(), work) as url:
            yield Setting(work, url, rounds, is_quick, wants_small)
