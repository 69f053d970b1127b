"""Python in the image: Debian's interpreter, pinned wheels, everything compiled beforehand.

The image's own interpreter compiles, started here by its own loader: no chroot, no emulator, and
the byte code is right for it whatever Python builds the image.
"""

import hashlib
import posixpath
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from images.elf import LIBRARIES, is_elf
from images.globs import Chosen
from images.host import BuildError, require, run
from images.tree import Tree, make_file, read_folder, unpack

STDLIB = "usr/lib/python3.13"
WHEELS = "usr/lib/python3/dist-packages"
LOCK = Path(__file__).parent / "wheels.lock"

_PLATFORMS = ("manylinux_2_28", "manylinux_2_17", "manylinux2014", "manylinux_2_5", "manylinux1")
_UNWANTED = Chosen(
    [
        "**/{test,tests,testing}/**",
        "*.dist-info/{RECORD,INSTALLER,WHEEL,REQUESTED,entry_points.txt,top_level.txt}",
        "*.dist-info/{licenses,sboms}/**",
        "**/*.{pyi,pxd,c,h,so.debug}",
        "**/py.typed",
        # The C module does all that we use; the cffi one is another 10 MiB.
        "zstandard/{_cffi*,backend_cffi.py}",
        # What builds bindings. Those of libsodium are built; they need `_cffi_backend` alone.
        "{cffi,pycparser}/**",
        "bin/**",
    ]
)


class TreePython:
    """The image's own interpreter and tools, unpacked in `folder` and run here without a chroot."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _loader(
        self, program: str, *argv: str | Path, argv0: str | None = None
    ) -> list[str | Path]:
        return [
            self.folder / LIBRARIES / "ld-linux-x86-64.so.2",
            *("--argv0", argv0 or posixpath.basename(program)),
            *("--library-path", self.folder / LIBRARIES),
            self.folder / program,
            *argv,
        ]

    def depmod(self, base: Path, release: str) -> None:
        """Write the module indexes of the tree below `base`."""
        run(self._loader("usr/bin/kmod", "-b", base, release, argv0="depmod"))

    def applets(self) -> list[str]:
        """Return the names that the image's busybox answers to."""
        return run([self.folder / "usr/bin/busybox", "--list"]).decode().split()

    def compile(self, tree: Tree) -> None:
        """Add the byte code of each Python file in `tree` to it."""
        sources = Tree({path: entry for path, entry in tree.items() if path.endswith(".py")})
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            unpack(sources, work)
            run(
                self._loader(
                    *("usr/bin/python3.13", "-S", "-m", "compileall", "-q", "-f", "-j", "1"),
                    # Trusted as it is: no look at times, which differ, and no hashing at start.
                    *("--invalidation-mode", "unchecked-hash"),
                    *("-s", work, "-p", "/", work),
                ),
                extra_env={
                    "PYTHONHOME": str(self.folder / "usr"),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "PYTHONNOUSERSITE": "1",
                },
            )
            for path, entry in read_folder(work).items():
                if path.endswith(".pyc"):
                    tree.add(path, entry)


def fetch_wheels(cache: Path) -> Path:
    """Return a folder with the wheels of `wheels.lock`, each checked against its SHA-256."""
    key = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]
    folder = cache / "wheels" / key
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix="partial-", dir=folder.parent))
    try:
        platforms = [f"--platform={name}_x86_64" for name in _PLATFORMS]
        run(
            [
                *(sys.executable, "-m", "pip", "--disable-pip-version-check", "download"),
                *("--require-hashes", "--no-deps", "--only-binary=:all:"),
                *("--implementation=cp", "--python-version=313", "--abi=cp313", *platforms),
                *("--dest", partial, "--requirement", LOCK),
            ]
        )
        partial.chmod(0o755)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def add_wheels(tree: Tree, folder: Path) -> None:
    """Put what the wheels in `folder` hold into `tree`, without tests, stubs and symbols."""
    require("strip")
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith("/") or name in _UNWANTED:
                    continue
                body = archive.read(name)
                if is_elf(body):
                    body = _stripped(body)
                if ".data/" in name:
                    raise BuildError(f"{wheel.name} puts files elsewhere: {name}")
                tree.add(f"{WHEELS}/{name}", make_file(body))


def drop_from_stdlib(tree: Tree, patterns: tuple[str, ...]) -> None:
    """Remove from `tree` what `patterns` name, relative to the standard library."""
    unwanted = Chosen(f"{STDLIB}/{pattern}" for pattern in patterns)
    # A folder left empty would still be importable, as a namespace.
    kept = Tree()
    for path, entry in tree.items():
        if path not in unwanted and (entry.is_file or entry.is_link):
            kept.add(path, entry)
    tree.clear()
    tree.update(kept)


def _stripped(body: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        before, after = Path(name) / "before", Path(name) / "after"
        before.write_bytes(body)
        run(["strip", "--strip-unneeded", "-o", after, before])
        return after.read_bytes()
