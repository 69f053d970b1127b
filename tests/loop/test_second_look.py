"""The second look at what is used: partclone's own answer, and what follows if it is another."""

import lzma
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from agent.errors import CommandFailed, SourceUnfit, hint_of
from agent.flows.capture import capture
from agent.model.job import CaptureSpec
from agent.model.layout import Btrfs, Content, Exfat, Ext, F2fs, Ntfs, Vfat, Xfs
from agent.stream import usedmap
from agent.stream.usedmap import used_map
from agent.system.command import Output, Run, Word
from agent.units import MiB
from tests.loop.test_capture_damaged import World
from tests.loop.test_capture_damaged import world as world
from tests.loop.test_stream_roundtrip import make_fat, tool
from tests.loop.test_table_source import source as source

RECORDED = Path(__file__).parent / "recorded_filesystems"
UUID = "ce3cc2af-727f-4b57-b60d-5d98c0dda39f"
ROW = re.compile(rb"^0x([0-9A-F]+)\s+0x([0-9A-F]+)\s+([+?])$", re.M)

Change = Callable[[bytes], bytes]


@dataclass
class Partclone:
    """Runs programs as `Run` does; what partclone says goes through `change` first.

    `only` names the one kind that is changed; `known` is what was said before, to say it again.
    """

    change: Change = lambda said: said
    only: str = ""
    known: bytes | None = None
    heard: dict[str, bytes] = field(default_factory=dict)

    def __call__(
        self,
        words: Sequence[Word],
        *,
        into: Callable[[bytes], None] | None = None,
        **more: Any,
    ) -> Output:
        name = str(words[0])
        if not name.startswith("partclone."):
            return Run()(words, into=into, **more)
        assert into is not None
        pieces: list[bytes] = []
        if self.known is None:
            Run()(words, into=pieces.append, **more)
        said = b"".join(pieces) if self.known is None else self.known
        self.heard[name] = said
        into(self.change(said) if self.only in ("", name) else said)
        return Output(b"", "", 0)


def rows(said: bytes) -> list[tuple[int, int, bytes]]:
    return [(int(row[1], 16), int(row[2], 16), row[3]) for row in ROW.finditer(said)]


def changed(said: bytes, old: tuple[int, int, bytes], *new: tuple[int, int, bytes]) -> bytes:
    """Return what was said with one row in place of another; rows of no bytes are left out."""
    wanted = [other for row in rows(said) for other in (new if row == old else (row,)) if other[1]]
    head = said[: next(ROW.finditer(said)).start()]
    return head + b"".join(b"0x%08X  0x%08X  %b\n" % row for row in wanted)


def longest(said: bytes, kind: bytes) -> tuple[int, int, bytes]:
    return max((row for row in rows(said) if row[2] == kind), key=lambda row: row[1])


def a_run_more(said: bytes) -> bytes:
    """Say that a sector in the middle of what is free is used."""
    start, size, _ = free = longest(said, b"?")
    half = size // 1024 * 512
    rest = (start + half + 512, size - half - 512, b"?")
    return changed(said, free, (start, half, b"?"), (start + half, 512, b"+"), rest)


def a_run_less(said: bytes) -> bytes:
    """Say that one of the used runs is free."""
    used = longest(said, b"+")
    return changed(said, used, (*used[:2], b"?"))


def the_last_run_less(said: bytes) -> bytes:
    used = [row for row in rows(said) if row[2] == b"+"][-1]
    return changed(said, used, (*used[:2], b"?"))


def a_run_longer(said: bytes) -> bytes:
    start, size, _ = free = longest(said, b"?")
    return changed(said, free, (start, 512, b"+"), (start + 512, size - 512, b"?"))


def a_run_shorter(said: bytes) -> bytes:
    start, size, _ = used = longest(said, b"+")
    return changed(said, used, (start, size - 512, b"+"), (start + size - 512, 512, b"?"))


CHANGES = {
    "a run more": (a_run_more, "partclone"),
    "a run less": (a_run_less, "us"),
    "the last run less": (the_last_run_less, "us"),
    "a run longer": (a_run_longer, "partclone"),
    "a run shorter": (a_run_shorter, "us"),
}


def make_files(folder: Path) -> Path:
    tree = folder / "tree"
    tree.mkdir()
    for number in range(12):
        (tree / f"file-{number}").write_bytes(b"file %d\n" % number * 500 * number)
    return tree


def blank(folder: Path, size: int) -> Path:
    image = folder / "made.img"
    with image.open("wb") as file:
        file.truncate(size)
    return image


def sh(*words: str | Path) -> None:
    name, *rest = words
    subprocess.run([tool(str(name)), *rest], check=True, capture_output=True, timeout=120)


def make_ext(folder: Path) -> Path:
    image = blank(folder, 32 * MiB)
    sh("mke2fs", "-q", "-t", "ext4", "-F", "-d", make_files(folder), image)
    return image


def make_xfs(folder: Path) -> Path:
    image = blank(folder, 304 * MiB)
    tree = make_files(folder)
    lines = [f"{file.name} ---644 0 0 {file}" for file in sorted(tree.iterdir())]
    proto = folder / "proto"
    proto.write_text("\n".join(["/", "0 0", "d--755 0 0", *lines, "$", ""]))
    sh("mkfs.xfs", "-q", "-f", "-p", proto, image)
    return image


def make_btrfs(folder: Path) -> Path:
    image = blank(folder, 128 * MiB)
    sh("mkfs.btrfs", "--quiet", "--metadata=single", "--rootdir", make_files(folder), image)
    return image


def recorded(name: str) -> Callable[[Path], Path]:
    def unpack(folder: Path) -> Path:
        image = folder / f"{name}.img"
        with lzma.open(RECORDED / f"{name}.img.xz") as packed, image.open("wb") as file:
            while piece := packed.read(MiB):
                if any(piece):
                    file.write(piece)
                else:
                    file.seek(len(piece), 1)
            file.truncate(file.tell())
        return image

    return unpack


KINDS: dict[str, tuple[Content, Callable[[Path], Path]]] = {
    "extfs": (Ext(uuid=UUID, label="", block_bytes=4096, features=()), make_ext),
    "xfs": (Xfs(uuid=UUID, label="", block_bytes=4096), make_xfs),
    "vfat": (Vfat(uuid="93E1-EE89", label=""), lambda folder: make_fat(folder, "-F", "32")),
    "f2fs": (F2fs(uuid=UUID, label="flash", block_bytes=4096), recorded("f2fs")),
    "ntfs": (Ntfs(uuid="", label="", block_bytes=4096, sector_bytes=512), recorded("ntfs")),
    "exfat": (
        Exfat(uuid="1A2B-3C4D", label="", block_bytes=4096, sector_bytes=512),
        recorded("exfat"),
    ),
}


@dataclass(frozen=True)
class Looked:
    """A filesystem, and what the real partclone said of it when our map was confirmed."""

    kind: str
    image: Path
    said: bytes

    def confirm(self, run: Partclone) -> None:
        content, _ = KINDS[self.kind]
        with used_map(run, self.image, content, self.image.stat().st_size) as used:
            used.confirm()
        assert list(run.heard) == [f"partclone.{self.kind}"]


@pytest.fixture(scope="module", params=KINDS)
def looked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Looked:
    tool(f"partclone.{request.param}")
    _, make = KINDS[request.param]
    found = Looked(request.param, make(tmp_path_factory.mktemp(request.param)), b"")
    run = Partclone()
    found.confirm(run)
    return replace(found, said=run.heard[f"partclone.{found.kind}"])


def test_partclone_is_asked_and_says_what_we_say(looked: Looked) -> None:
    assert {kind for _, _, kind in rows(looked.said)} == {b"+", b"?"}
    looked.confirm(Partclone(known=looked.said))
    same = longest(looked.said, b"?")
    looked.confirm(Partclone(lambda said: changed(said, same, same), known=looked.said))


@pytest.mark.parametrize("name", CHANGES)
def test_another_map_is_a_refusal(looked: Looked, name: str) -> None:
    change, who = CHANGES[name]
    with pytest.raises(SourceUnfit, match="two programs disagree about what is used") as caught:
        looked.confirm(Partclone(change, known=looked.said))
    assert f"on {looked.image}: " in str(caught.value)
    assert str(caught.value).endswith(f"in use for {who} alone")
    assert "check the filesystem" in (hint_of(caught.value) or "")


def test_a_look_that_failed_is_a_refusal(looked: Looked) -> None:
    def fail(_said: bytes) -> bytes:
        raise CommandFailed("partclone failed with status 1")

    with pytest.raises(SourceUnfit, match="a second look at what is used could not be had"):
        looked.confirm(Partclone(fail, known=looked.said))


def test_a_large_one_is_looked_at_as_well(looked: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time: a map that waits for its turn and is given up was not confirmed."""
    monkeypatch.setattr(usedmap, "_ALONE_BYTES", 0)
    looked.confirm(Partclone(known=looked.said))
    with pytest.raises(SourceUnfit, match="two programs disagree about what is used"):
        looked.confirm(Partclone(a_run_less, known=looked.said))
    run = Partclone(known=looked.said)
    content, _ = KINDS[looked.kind]
    with usedmap._alone:
        waiting = used_map(run, looked.image, content, looked.image.stat().st_size)
        waiting.close()
    with pytest.raises(SourceUnfit, match="was given up"):
        waiting.confirm()
    assert run.heard == {}


CHECKS = {"vfat": "fsck.fat", "ntfs": "ntfsresize", "exfat": "fsck.exfat"}


@pytest.mark.parametrize("is_sound", [True, False])
def test_one_too_large_for_partclone_is_checked_by_its_own_program(
    looked: Looked, monkeypatch: pytest.MonkeyPatch, is_sound: bool
) -> None:
    """Ext, XFS and F2FS have counts of their own, which were compared when they were read."""
    asked: list[str] = []

    def run(words: Sequence[Word], **named: Any) -> Output:
        if words[0] not in CHECKS.values():
            return Run()(words, **named)
        asked.append(str(words[0]))
        return Output(b"", "it is damaged", 0 if is_sound else 1)

    monkeypatch.setattr(usedmap, "_PARTCLONE_BYTES", 0)
    content, _ = KINDS[looked.kind]
    with used_map(run, looked.image, content, looked.image.stat().st_size) as used:
        if is_sound or looked.kind not in CHECKS:
            used.confirm()
        else:
            with pytest.raises(SourceUnfit, match="a second look at what is used could not be had"):
                used.confirm()
    assert asked == [program for kind, program in CHECKS.items() if kind == looked.kind]


def test_a_btrfs_is_looked_at_by_its_own_check(tmp_path: Path) -> None:
    """partclone leaves out what is kept twice. What is wrong here is of no use to a map."""
    image, content = make_btrfs(tmp_path), Btrfs(uuid=UUID, label="", block_bytes=4096)
    size = image.stat().st_size
    with used_map(Run(), image, content, size) as used:
        used.confirm()
        before = used.extents
    name_at = image.read_bytes().index(b"file-11")
    with image.open("r+b") as file:
        file.seek(name_at)
        file.write(b"g")
    with used_map(Run(), image, content, size) as used:
        assert used.extents == before
        with pytest.raises(SourceUnfit, match="a second look at what is used could not be had"):
            used.confirm()


@pytest.mark.root
@pytest.mark.parametrize("kind", ["extfs", "vfat"])
def test_a_capture_ends_there_and_nothing_is_listed(world: World, kind: str) -> None:
    """A disk with a vfat and an ext4: one of them is enough."""
    run = Partclone(a_run_less, only=f"partclone.{kind}")
    place = replace(world.place(world.drive), run=run)
    with pytest.raises(SourceUnfit, match="two programs disagree about what is used"):
        capture(place, CaptureSpec(name="demo"))
    assert f"partclone.{kind}" in run.heard
    assert world.registry.blobs, "the packs were sent meanwhile"
    assert world.registry.manifests == {}
