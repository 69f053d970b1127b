"""The kernel's drivers: chosen by path, completed by what they depend on, never changed inside."""

import lzma
import posixpath
import re
from dataclasses import dataclass, field

from images.globs import Chosen, is_exact
from images.host import BuildError
from images.recipe import Kernel
from images.tree import Tree, make_file

_MODULES = re.compile(r"usr/lib/modules/([^/]+)/kernel/(.+)\.ko(?:\.xz)?")


@dataclass(frozen=True, slots=True)
class Driver:
    """One kernel module: its path below `kernel/` without suffix, its bytes, what it asks for."""

    path: str
    body: bytes
    depends: tuple[str, ...] = ()
    firmware: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Drivers:
    """The chosen drivers of one kernel `release`, by module name."""

    release: str
    by_name: dict[str, Driver] = field(default_factory=dict)

    def in_load_order(self, names: tuple[str, ...]) -> list[Driver]:
        """Return the drivers of `names`, each after what it depends on."""
        done: dict[str, Driver] = {}

        def visit(name: str) -> None:
            if name in done or name not in self.by_name:
                return
            for other in self.by_name[name].depends:
                visit(other)
            done[name] = self.by_name[name]

        for name in names:
            visit(module_name(name))
        return list(done.values())


def module_name(path: str) -> str:
    """Return the name the kernel gives to the module in the file `path`."""
    return posixpath.basename(path).replace("-", "_")


def choose_drivers(everything: Tree, kernel: Kernel) -> Drivers:
    """Return the drivers that the recipe names and all that they depend on.

    Raises BuildError if a pattern without wildcards names nothing: a driver that was expected
    and is silently missing shows up as a server that cannot be deployed.
    """
    paths: dict[str, str] = {}
    releases = set()
    for path in everything:
        if found := _MODULES.fullmatch(path):
            releases.add(found.group(1))
            paths[found.group(2)] = path
    if len(releases) != 1:
        raise BuildError(f"expected one kernel, found {sorted(releases) or 'none'}")
    drivers = Drivers(releases.pop())
    by_name = {module_name(path): path for path in paths}
    chosen = Chosen(kernel.modules)
    todo = sorted(path for path in paths if path in chosen)
    absent = [name for name in chosen.wanted if is_exact(name) and name not in paths]
    if absent:
        raise BuildError(f"the kernel has no driver {', '.join(absent)}, which the recipe names")
    for name in kernel.early:
        if module_name(name) not in by_name:
            raise BuildError(f"the kernel has no driver {name}")
        todo.append(by_name[module_name(name)])
    while todo:
        path = todo.pop()
        name = module_name(path)
        if name in drivers.by_name:
            continue
        entry = everything[paths[path]]
        body = lzma.decompress(entry.body) if paths[path].endswith(".xz") else entry.body
        info = module_info(body)
        depends = tuple(
            word for text in info.get("depends", []) for word in text.split(",") if word
        )
        soft = [word for text in info.get("softdep", []) for word in _soft_names(text)]
        drivers.by_name[name] = Driver(path, body, depends, tuple(info.get("firmware", [])))
        for other in (*depends, *soft):
            # What is missing here is built into the kernel.
            if (other_path := by_name.get(module_name(other))) is not None:
                todo.append(other_path)
    return drivers


def module_info(body: bytes) -> dict[str, list[str]]:
    """Return the `key=value` pairs of the module's .modinfo section (zero-separated text)."""
    info: dict[str, list[str]] = {}
    for key in ("depends", "softdep", "firmware"):
        for found in re.finditer(rb"(?<=\0)%s=([^\0]*)\0" % key.encode(), body):
            info.setdefault(key, []).append(found.group(1).decode(errors="replace"))
    return info


def add_drivers(tree: Tree, drivers: Drivers, everything: Tree) -> None:
    """Put `drivers` into `tree`, not compressed by themselves: the image does that better."""
    folder = f"usr/lib/modules/{drivers.release}"
    for driver in drivers.by_name.values():
        tree.add(f"{folder}/kernel/{driver.path}.ko", make_file(driver.body))
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        body = everything[f"{folder}/{name}"].body
        if name == "modules.order":
            body = re.sub(rb"\.ko\.xz$", b".ko", body, flags=re.MULTILINE)
        tree.add(f"{folder}/{name}", make_file(body))


def add_firmware(tree: Tree, drivers: Drivers, everything: Tree) -> int:
    """Put the firmware files that `drivers` name into `tree`; return how many there are."""
    wanted = Chosen(
        f"usr/lib/firmware/{name}{suffix}"
        for driver in drivers.by_name.values()
        for name in driver.firmware
        for suffix in ("", ".xz", ".zst")
    )
    count = 0
    for path in sorted(everything):
        if path not in wanted:
            continue
        target = everything.resolve(path)
        if target is None:
            continue
        tree.add(path, everything[path])
        tree.add(target, everything[target])
        count += 1
    return count


def _soft_names(text: str) -> list[str]:
    return [word for word in text.split() if not word.endswith(":")]
