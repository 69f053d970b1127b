"""Archives for the kernel: the same bytes whatever the order and the machine."""

import struct
from collections.abc import Iterator

import zstandard

from images.cpio import compressed, cpio_bytes
from images.tree import Tree, make_character_device, make_file, make_folder, make_link

EPOCH = 1_577_836_800


def make_tree() -> Tree:
    tree = Tree()
    tree.add("bin/run", make_file(b"#!/bin/sh\n", 0o755))
    tree.add("bin/again", make_link("run"))
    tree.add("dev/console", make_character_device(5, 1, 0o600))
    tree.add("empty", make_folder(0o700))
    return tree


def records(data: bytes) -> Iterator[tuple[str, tuple[int, ...], bytes]]:
    """Read an archive as initramfs/buffer-format.rst of the kernel describes it."""
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = tuple(int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13))
        name_size, size = fields[11], fields[6]
        name = data[at + 110 : at + 110 + name_size - 1].decode()
        at = -(-(at + 110 + name_size) // 4) * 4
        yield name, fields, data[at : at + size]
        at = -(-(at + size) // 4) * 4
        if name == "TRAILER!!!":
            assert not data[at:].strip(b"\0")
            return


def test_what_goes_in_comes_out() -> None:
    found = {name: (fields, body) for name, fields, body in records(cpio_bytes(make_tree(), EPOCH))}
    assert list(found) == [
        *("bin", "bin/again", "bin/run", "dev", "dev/console", "empty", "TRAILER!!!")
    ]
    fields, body = found["bin/run"]
    assert body == b"#!/bin/sh\n"
    assert fields[1:6] == (0o100755, 0, 0, 1, EPOCH)
    assert found["bin/again"][1] == b"run"
    fields, _ = found["dev/console"]
    assert (fields[1], fields[9], fields[10]) == (0o020600, 5, 1)
    assert found["empty"][0][1] == 0o040700


def test_the_order_of_adding_does_not_show() -> None:
    backwards = Tree(reversed(make_tree().items()))
    assert cpio_bytes(backwards, EPOCH) == cpio_bytes(make_tree(), EPOCH)


def test_archives_can_follow_each_other() -> None:
    packed = compressed(cpio_bytes(make_tree(), EPOCH))
    assert len(packed) % 512 == 0
    assert struct.unpack("<I", packed[:4]) == (0xFD2FB528,)
    plain = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    assert plain == cpio_bytes(make_tree(), EPOCH)
