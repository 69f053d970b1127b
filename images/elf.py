"""What a program asks of its system: the shared libraries an ELF file names."""

import struct
from collections.abc import Iterable

from images.tree import Tree

LIBRARIES = "usr/lib/x86_64-linux-gnu"
"""Where Debian keeps the shared libraries of amd64, and where its loader looks without a cache."""

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NEEDED, _DT_STRTAB, _DT_RUNPATH = 1, 5, 29


def is_elf(body: bytes) -> bool:
    """Whether `body` is a 64-bit little-endian ELF file."""
    return body[:6] == b"\x7fELF\x02\x01"


def needed(body: bytes) -> tuple[str, ...]:
    """Return the names of the libraries that `body` needs; none for what is not an ELF file."""
    return _dynamic_strings(body, _DT_NEEDED)


def search_path(body: bytes) -> tuple[str, ...]:
    """Return the folders where the loader looks for what `body` needs, without leading slash."""
    own = (part for text in _dynamic_strings(body, _DT_RUNPATH) for part in text.split(":"))
    return (*(part.strip("/") for part in own if part.startswith("/")), LIBRARIES)


def _dynamic_strings(body: bytes, wanted: int) -> tuple[str, ...]:
    if not is_elf(body):
        return ()
    (table,) = struct.unpack_from("<Q", body, 32)
    entry_size, count = struct.unpack_from("<HH", body, 54)
    headers = [struct.unpack_from("<IIQQQQ", body, table + n * entry_size) for n in range(count)]
    loads = [(h[3], h[2], h[5]) for h in headers if h[0] == _PT_LOAD]
    dynamic = [h for h in headers if h[0] == _PT_DYNAMIC]
    if not dynamic:
        return ()
    offset, size = dynamic[0][2], dynamic[0][5]
    pairs = [struct.unpack_from("<qQ", body, at) for at in range(offset, offset + size, 16)]
    strings = next((value for tag, value in pairs if tag == _DT_STRTAB), None)
    if strings is None:
        return ()
    start = next(
        strings - address + at for address, at, length in loads if 0 <= strings - address < length
    )
    return tuple(_string(body, start + value) for tag, value in pairs if tag == wanted)


def library_closure(tree: Tree, roots: Iterable[str]) -> tuple[set[str], set[tuple[str, str]]]:
    """Return the paths of every library below `roots`, and (who, name) of each that is missing.

    A library's path comes with the symbolic links that lead to it.
    """
    found: set[str] = set()
    missing: set[tuple[str, str]] = set()
    todo = list(roots)
    while todo:
        path = todo.pop()
        body = tree[path].body
        for name in needed(body):
            links = (f"{folder}/{name}" for folder in search_path(body))
            link = next((link for link in links if tree.resolve(link)), "")
            target = tree.resolve(link)
            if target is None:
                missing.add((path, name))
                continue
            if target not in found:
                todo.append(target)
            found |= {link, target}
    return found, missing


def _string(body: bytes, start: int) -> str:
    return body[start : body.index(b"\0", start)].decode()
