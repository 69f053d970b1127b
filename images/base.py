"""The base layer: what the image is made of, apart from our own code. Slow to make, so cached."""

import fcntl
import hashlib
import json
import posixpath
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from images.cpio import compressed, cpio_bytes, padded
from images.elf import LIBRARIES, is_elf, library_closure
from images.globs import Chosen, is_exact
from images.host import BuildError, require, run
from images.kernel import Drivers, add_drivers, add_firmware, choose_drivers
from images.packages import PackageVersions, Source, unpacked
from images.python import (
    LOCK,
    WHEELS,
    TreePython,
    add_wheels,
    drop_from_stdlib,
    fetch_wheels,
)
from images.recipe import Recipe
from images.tree import (
    Entry,
    Tree,
    make_character_device,
    make_file,
    make_folder,
    make_link,
    read_folder,
    read_tar,
    unpack,
    write_tar,
)

HERE = Path(__file__).parent
FILES = HERE / "files"
EPOCH = 1_577_836_800
"""The time of every file in the image: 2020-01-01. A time that says nothing is always the same."""

_AFTERWARDS = ("__main__.py", "build.py", "cli.py", "iso.py", "repeat.py")
"""Our files that work on a finished base layer: a change in them makes no new one."""

_KEPT_IN_CACHE = 4
_CERTIFICATES = "usr/share/ca-certificates/mozilla/"
_BUNDLE = "etc/ssl/certs/ca-certificates.crt"

COMPRESSION = {
    # zstd level, squashfs block size
    "fast": (3, "128K"),
    "release": (22, "256K"),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """All that decides what a base layer is."""

    recipe: Recipe
    source: Source
    compression: str
    firmware_blobs: bool = False
    overlay: Path | None = None

    def key(self, versions: PackageVersions) -> str:
        """Return a name that differs whenever the result could."""
        digest = hashlib.sha256()
        code = [path for path in sorted(HERE.glob("*.py")) if path.name not in _AFTERWARDS]
        parts = [
            repr(self.recipe).encode(),
            json.dumps(versions, sort_keys=True).encode(),
            f"{self.compression} {self.firmware_blobs} {self.source.key()}".encode(),
            LOCK.read_bytes(),
            *(path.read_bytes() for path in code),
        ]
        for folder in (FILES, self.overlay):
            for name, entry in sorted(read_folder(folder).items()) if folder else ():
                parts.append(f"{name} {entry.mode:o}".encode())
                parts.append(entry.body)
        for part in parts:
            digest.update(hashlib.sha256(part).digest())
        return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Base:
    """A finished base layer in the cache."""

    folder: Path

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def image(self) -> Path:
        return self.folder / "base.img"

    @property
    def facts(self) -> dict[str, object]:
        loaded: dict[str, object] = json.loads((self.folder / "facts.json").read_text())
        return loaded

    @property
    def python(self) -> TreePython:
        return TreePython(self.folder / "host")


def build_base(wanted: Wanted, cache: Path, *, refresh: bool = False) -> Base:
    """Return the base layer for `wanted`, from `cache` if it is there."""
    require("mksquashfs", "strip")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "images.lock").open("w") as lock:
        # Two builds at once would do the same work twice.
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _cached(wanted, cache, refresh)


def _cached(wanted: Wanted, cache: Path, refresh: bool) -> Base:
    tar, versions = unpacked(wanted.source, cache, refresh=refresh)
    folder = cache / "base" / wanted.key(versions)
    if (folder / "facts.json").exists():
        (folder / "facts.json").touch()
        return Base(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix="partial-", dir=folder.parent))
    partial.chmod(0o755)
    try:
        _build(wanted, tar, versions, cache, partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _forget_old(folder.parent)
    return Base(folder)


def _forget_old(folder: Path) -> None:
    """Keep the few base layers that were used last; each takes 200 MiB."""
    finished = sorted(folder.glob("*/facts.json"), key=lambda path: path.stat().st_mtime)
    for facts in finished[:-_KEPT_IN_CACHE]:
        shutil.rmtree(facts.parent, ignore_errors=True)


def _build(wanted: Wanted, tar: Path, versions: PackageVersions, cache: Path, folder: Path) -> None:
    with tar.open("rb") as stream:
        everything = Tree(read_tar(stream))
    tree = choose_files(everything, wanted.recipe)
    drop_from_stdlib(tree, wanted.recipe.python.drop)
    add_wheels(tree, fetch_wheels(cache))
    _add_certificates(tree, everything)
    add_libraries(tree, everything, wanted.recipe.libraries)

    tree.add("usr/bin/busybox", everything["usr/bin/busybox"])
    drivers = choose_drivers(everything, wanted.recipe.kernel)
    host = folder / "host"
    unpack(_runnable_here(tree), host)
    python = TreePython(host)
    python.compile(tree)
    add_drivers(tree, drivers, everything)
    _add_module_indexes(tree, drivers, python)
    blobs = add_firmware(tree, drivers, everything) if wanted.firmware_blobs else 0

    unknown = set(wanted.recipe.applets) - set(python.applets())
    if unknown:
        raise BuildError(f"busybox has no applet {', '.join(sorted(unknown))}")
    for name in wanted.recipe.applets:
        if f"usr/sbin/{name}" not in tree:
            tree.setdefault(f"usr/bin/{name}", make_link("busybox"))
    for name, entry in read_folder(FILES / "tree").items():
        tree.add(name, entry)
    if wanted.overlay:
        for name, entry in read_folder(wanted.overlay).items():
            tree.add(name, entry)
    for name in ("dev", "mnt", "proc", "root", "run", "sys", "tmp", "var/lib", "var/tmp"):
        tree.add(name, make_folder(0o1777 if name.endswith("tmp") else 0o755))
    tree.add("etc/mtab", make_link("/proc/self/mounts"))
    tree.add("var/run", make_link("/run"))
    tree.add("var/lock", make_link("/run/lock"))

    squashfs = folder / "root.squashfs"
    write_squashfs(tree, squashfs, wanted.compression)
    early = _early(everything, drivers, wanted.recipe.kernel.early)
    body = compressed(cpio_bytes(early, EPOCH)) + _with_squashfs(squashfs)
    (folder / "base.img").write_bytes(body)
    squashfs.unlink()
    (kernel,) = (path for path in everything if path.startswith("boot/vmlinuz-"))
    (folder / "vmlinuz").write_bytes(everything[kernel].body)
    facts = {
        "kernel": drivers.release,
        "drivers": len(drivers.by_name),
        "firmware_blobs": blobs,
        "root_entries": len(tree),
        "packages": {name: facts["version"] for name, facts in sorted(versions.items())},
    }
    (folder / "facts.json").write_text(json.dumps(facts, indent=1, sort_keys=True))


def choose_files(everything: Tree, recipe: Recipe) -> Tree:
    """Return what the recipe keeps of the packages' files, and what kept links lead to."""
    chosen = Chosen(recipe.keep)
    tree = Tree()
    for path, entry in everything.items():
        if path not in chosen:
            continue
        if not (entry.is_file or entry.is_link):
            continue
        tree.add(path, entry)
        if entry.is_link and (target := everything.resolve(path)):
            if everything[target].is_file:
                tree.add(target, everything[target])
            elif target not in tree:
                tree.add(target, make_folder())
    for pattern in chosen.wanted:
        if is_exact(pattern) and pattern not in everything:
            raise BuildError(f"no package has {pattern}, which the recipe keeps")
    return tree


def add_libraries(tree: Tree, everything: Tree, opened: tuple[str, ...]) -> None:
    """Add `opened` and every shared library that `tree` needs. BuildError if one is missing."""
    for name in opened:
        link = f"{LIBRARIES}/{name}"
        target = everything.resolve(link)
        if target is None:
            raise BuildError(f"no package has the library {name}, which the recipe keeps")
        tree.add(link, everything[link])
        tree.add(target, everything[target])
    whole = Tree({**everything, **tree})
    programs = [path for path, entry in tree.items() if entry.is_file and is_elf(entry.body)]
    found, missing = library_closure(whole, programs)
    if missing:
        lines = sorted(f"{path} needs {name}" for path, name in missing)
        raise BuildError("shared libraries are missing: " + "; ".join(lines))
    for path in found:
        tree.add(path, whole[path])


def write_squashfs(tree: Tree, target: Path, compression: str) -> None:
    """Write `tree` as a squashfs; owners and modes come from the archive, so no root is needed."""
    level, block = COMPRESSION[compression]
    run(
        [
            *("mksquashfs", "-", target, "-tar", "-noappend", "-quiet", "-no-progress"),
            *("-comp", "zstd", "-Xcompression-level", str(level), "-b", block),
            # The archive has no entry for the top folder itself.
            *("-all-root", "-root-mode", "755"),
            *("-no-exports", "-no-xattrs", "-mkfs-time", str(EPOCH), "-all-time", str(EPOCH)),
        ],
        feed=lambda pipe: write_tar(pipe, tree, EPOCH),
    )


def _runnable_here(tree: Tree) -> Tree:
    """Return the part of `tree` that the build itself runs: Python, kmod, their libraries."""
    wanted = Chosen(
        ["usr/bin/{python3.13,kmod,busybox}", f"{LIBRARIES}/*", "usr/lib/python3.13/**"]
    )
    return Tree({path: entry for path, entry in tree.items() if path in wanted})


def _add_module_indexes(tree: Tree, drivers: Drivers, python: TreePython) -> None:
    """Let the image's own depmod write the indexes that modprobe and udev read."""
    folder = f"usr/lib/modules/{drivers.release}/"
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        unpack(Tree({p: entry for p, entry in tree.items() if p.startswith(folder)}), work)
        (work / "lib").symlink_to("usr/lib")
        python.depmod(work, drivers.release)
        for path in sorted((work / folder).glob("modules.*")):
            # The text forms are for people; only the binary ones are read.
            if path.suffix != ".bin" and path.with_suffix(path.suffix + ".bin").exists():
                tree.pop(folder + path.name, None)
                continue
            tree.add(folder + path.name, make_file(path.read_bytes()))


def _add_certificates(tree: Tree, everything: Tree) -> None:
    """Add the authorities that Debian trusts as the one file that OpenSSL and requests read."""
    paths = sorted(path for path in everything if path.startswith(_CERTIFICATES))
    bodies = [everything[path].body for path in paths if everything[path].is_file]
    tree.add(_BUNDLE, make_file(b"".join(bodies)))
    tree.add("usr/lib/ssl/cert.pem", make_link(f"/{_BUNDLE}"))
    tree.add("usr/lib/ssl/certs", make_link("/etc/ssl/certs"))
    tree.add(f"{WHEELS}/certifi/cacert.pem", make_link(f"/{_BUNDLE}"))


def _early(everything: Tree, drivers: Drivers, names: tuple[str, ...]) -> dict[str, Entry]:
    """Return the files that run before there is a root filesystem."""
    early = Tree()
    for name in ("base", "changes", "dev", "modules", "newroot", "proc", "sys"):
        early.add(name, make_folder())
    early.add("dev/console", make_character_device(5, 1, 0o600))
    early.add("dev/null", make_character_device(1, 3, 0o666))
    early.add("bin/busybox", everything["usr/bin/busybox"])
    for name, entry in read_folder(FILES / "early").items():
        early.add(name, entry)
    ordered = drivers.in_load_order(names)
    for driver in ordered:
        early.add(f"modules/{posixpath.basename(driver.path)}.ko", make_file(driver.body))
    lines = "".join(f"{posixpath.basename(driver.path)}.ko\n" for driver in ordered)
    early.add("modules/order", make_file(lines.encode()))
    return early


def _with_squashfs(squashfs: Path) -> bytes:
    return padded(cpio_bytes({"root.squashfs": make_file(squashfs.read_bytes())}, EPOCH))
