"""The subvolumes of a btrfs: what btrfs-progs lists, what a plan says of those left behind."""

from agent.model.layout import MOST_UNMOUNTED, Btrfs, Subvolume
from agent.planning.reshape import left_behind
from agent.tools.btrfs import Subvolumes, parse_subvolumes
from tests.unit.make_plan import guid, make_layout, with_volume

# btrfs-progs 6.2.
LISTING = b"""\
ID 256 gen 7 top level 5 path @
ID 257 gen 7 top level 5 path @home
ID 258 gen 7 top level 256 path @/var/lib/ma chines
ID 259 gen 7 top level 5 path snap-\xff
"""
PATHS = ("@", "@/var/lib/ma chines", "@home", "snap-\\xff")


def test_subvolumes_are_listed_by_path_with_the_default_one() -> None:
    assert parse_subvolumes(LISTING, b"ID 256 gen 7 top level 5 path @\n") == Subvolumes(PATHS, "@")
    assert parse_subvolumes(LISTING, b"ID 5 (FS_TREE)\n") == Subvolumes(PATHS, None)
    assert parse_subvolumes(b"", b"ID 5 (FS_TREE)\n") == Subvolumes((), None)


def said(unmounted: tuple[str, ...]) -> list[str]:
    content = Btrfs(
        uuid=guid(101),
        label="",
        block_bytes=4096,
        subvolumes=(Subvolume(path="@", mount="/"),),
        unmounted=unmounted,
    )
    layout = with_volume(make_layout(), "root", content=content, mount=None)
    return [line for line in left_behind(layout, layout) if "subvolume" in line]


def test_each_subvolume_that_is_left_behind_is_said_with_its_path() -> None:
    assert said(("@/var/lib/machines", "snap")) == [
        "the subvolume @/var/lib/machines of root is not mounted by fstab and left behind",
        "the subvolume snap of root is not mounted by fstab and left behind",
    ]
    assert said(()) == []


def test_a_list_that_was_cut_says_so() -> None:
    lines = said(tuple(f"snap{number}" for number in range(MOST_UNMOUNTED)))
    assert len(lines) == MOST_UNMOUNTED + 1
    assert "may have more subvolumes" in lines[-1]
