"""Kernel, base layer and agent layer, put together into what a server or a medium hands out."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import agent as agent_package
from agent.model.places import find_templates
from agent.trust.keyring import KEYS, SERVER, TEMPLATES, Keyring
from agent.trust.minisign import ids_of, render_public_key
from images.base import EPOCH, Base, Wanted, build_base
from images.cpio import compressed, cpio_bytes
from images.tree import Tree, make_file, make_folder

_HOME = "usr/lib/metalcast"
_LAYER = "layer/"
"""Where the early init finds the agent layer; it copies it over the base."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Built:
    """A built image: its folder and its manifest."""

    folder: Path
    manifest: dict[str, object]


def build_image(
    wanted: Wanted,
    cache: Path,
    output: Path,
    say: Say,
    keyring: Keyring,
    *,
    refresh: bool = False,
) -> Built:
    """Write vmlinuz, initrd.img, base.img, agent.img and manifest.json to `output`.

    The agent in it trusts `keyring`, which is part of the agent layer: other keys need no new base.
    """
    say("base layer: packages, drivers, Python")
    base = build_base(wanted, cache, refresh=refresh)
    say("agent layer")
    sources = agent_sources()
    agent = agent_layer(base, sources, key_files(keyring))
    output.mkdir(parents=True, exist_ok=True)
    _copy(base.kernel, output / "vmlinuz")
    _copy(base.image, output / "base.img")
    (output / "agent.img").write_bytes(agent)
    with (output / "initrd.img.partial").open("wb") as target:
        target.write(base.image.read_bytes())
        target.write(agent)
    (output / "initrd.img.partial").replace(output / "initrd.img")
    manifest = {
        "format": 1,
        "agent_sources": _digest(sources),
        "compression": wanted.compression,
        "template_keys": ids_of(keyring.templates),
        "server_keys": ids_of(keyring.server),
        "files": {
            name: _facts(output / name)
            for name in ("agent.img", "base.img", "initrd.img", "vmlinuz")
        },
        **base.facts,
    }
    (output / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return Built(output, manifest)


def agent_sources() -> Tree:
    """Return our own code and the templates, where they lie in the image."""
    tree = Tree()
    folders = {"agent": Path(agent_package.__file__).parent, "templates": find_templates()}
    for name, folder in folders.items():
        for source in sorted(folder.rglob("*")):
            relative = f"{name}/{source.relative_to(folder).as_posix()}"
            if source.is_file() and "__pycache__" not in source.parts:
                tree.add(f"{_HOME}/{relative}", make_file(source.read_bytes()))
    tree.add(f"{_HOME}/agent", make_folder())
    tree.add(f"{_HOME}/templates", make_folder())
    return tree


def key_files(keyring: Keyring) -> Tree:
    """Return the files that the agent reads `keyring` from: the same for the same keys."""
    tree = Tree()
    for kind, keys in ((TEMPLATES, keyring.templates), (SERVER, keyring.server)):
        for key in keys:
            # Two keys may have one id, by chance or on purpose; both are trusted then.
            name = f"{key.name}-{hashlib.sha256(key.key).hexdigest()[:16]}.pub"
            path = (KEYS / kind / name).as_posix().lstrip("/")
            tree.add(path, make_file(render_public_key(key).encode()))
    return tree


def agent_layer(base: Base, sources: Tree, keys: Tree) -> bytes:
    """Return the archive of `sources`, compiled by the image's own Python, and of `keys`."""
    tree = Tree(sources)
    base.python.compile(tree)
    for path, entry in keys.items():
        tree.add(path, entry)
    layer = Tree()
    for path, entry in tree.items():
        layer.add(_LAYER + path, entry)
    return compressed(cpio_bytes(layer, EPOCH))


def _digest(tree: Tree) -> str:
    digest = hashlib.sha256()
    for path, entry in sorted(tree.items()):
        digest.update(hashlib.sha256(path.encode()).digest() + hashlib.sha256(entry.body).digest())
    return digest.hexdigest()


def _copy(source: Path, target: Path) -> None:
    partial = target.with_name(target.name + ".partial")
    shutil.copyfile(source, partial)
    partial.replace(target)


def _facts(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size_bytes": path.stat().st_size, "sha256": digest}
