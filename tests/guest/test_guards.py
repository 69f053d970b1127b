"""The guard of valuable things against real signatures, wherever they can be."""

import fcntl
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.errors import DiskError
from agent.flows.capture import write_protected
from agent.model.inventory import Drive
from agent.planning.refusals import valuables
from agent.probe import probe_drives
from agent.source.tags import probe_tags
from agent.system import block
from agent.system.command import Run
from agent.system.hold import held
from tests.guest.conftest import sh
from tests.guest.signatures import (
    FIRMWARE_RAID,
    PLAIN,
    VALUABLE,
    make_array,
    make_group,
    put,
    size_of,
)

RUN = Run()
NAMES = tuple(VALUABLE)
ON_PARTITIONS = ("md-0.90", "vg", "zfs")
"""Those of the short run: superblocks at the end, in front, and at both ends."""
CONTENTS = {**VALUABLE, **FIRMWARE_RAID, **PLAIN}


def drive(path: Path) -> Drive:
    (found,) = (one for one in probe_drives(RUN) if one.path == str(path))
    return found


def guarded(path: Path) -> dict[str, set[str]]:
    """Return by device what the guard would ask for."""
    found: dict[str, set[str]] = {}
    for one in valuables(drive(path)):
        found.setdefault(one.path, set()).add(one.what)
    return found


def partitioned(disk: Path, label: str) -> tuple[Path, ...]:
    """Return a primary partition and, of an MBR, two logical ones."""
    script = {
        "gpt": "label: gpt\nsize=100M\nsize=380M\n",
        "dos": "label: dos\nsize=60M, type=83\ntype=f\nsize=60M\nsize=380M\n",
    }
    sh("sfdisk", "--quiet", disk, stdin=script[label])
    sh("udevadm", "settle")
    numbers = {"gpt": (1, 2), "dos": (1, 5, 6)}
    return tuple(Path(block.partition_path(disk, number)) for number in numbers[label])


def no_groups() -> None:
    subprocess.run(["vgchange", "--activate", "n"], check=False, capture_output=True)


@pytest.mark.parametrize("name", [*NAMES, *FIRMWARE_RAID])
def test_on_a_whole_disk(name: str, scratch: list[Path]) -> None:
    what, make = CONTENTS[name]
    make(scratch[0])
    assert what in guarded(scratch[0]).get(str(scratch[0]), set())
    assert not drive(scratch[0]).users


@pytest.mark.parametrize("name", ["md-1.0", "vg", "luks2", "zfs"])
def test_on_sectors_of_4096(name: str, scratch_4k: Path) -> None:
    what, make = VALUABLE[name]
    make(scratch_4k)
    assert what in guarded(scratch_4k).get(str(scratch_4k), set())


@pytest.mark.parametrize(
    ("label", "name"),
    [
        *(
            pytest.param("dos", name, marks=() if name in ON_PARTITIONS else pytest.mark.full)
            for name in NAMES
        ),
        *(("gpt", name) for name in ON_PARTITIONS),
    ],
)
def test_on_partitions(label: str, name: str, scratch: list[Path]) -> None:
    """On the last partition alone: of an MBR, a logical one."""
    what, make = VALUABLE[name]
    last = partitioned(scratch[0], label)[-1]
    make(last)
    found = guarded(scratch[0])
    assert what in found.get(str(last), set())
    # whatever lies at the end of the last partition is not at the end of the disk
    assert set(found) == {str(last)}


@pytest.mark.parametrize(
    ("metadata", "name"),
    [("0.90", "luks2"), ("1.0", "vg"), ("1.0", "zfs"), ("1.1", "luks2"), ("1.2", "vg")],
)
def test_inside_of_an_array(metadata: str, name: str, scratch: list[Path]) -> None:
    """Stopped, as a machine has it that was just switched on: both it and what is in it."""
    what, make = VALUABLE[name]
    array = make_array(scratch[0], metadata)
    make(array)
    no_groups()
    assert drive(scratch[0]).users, "a running array is in use"
    sh("mdadm", "--stop", array)
    sh("udevadm", "settle")
    found = guarded(scratch[0])
    assert {"linux_raid_member", what} <= found[str(scratch[0])]
    assert not drive(scratch[0]).users


@pytest.mark.parametrize("name", ["luks1", "luks2", "md-1.2"])
def test_inside_of_a_group(name: str, scratch: list[Path]) -> None:
    what, make = VALUABLE[name]
    last = partitioned(scratch[0], "dos")[-1]
    make(make_group(last))
    no_groups()
    sh("udevadm", "settle")
    assert guarded(scratch[0]) == {str(last): {"LVM2_member", what}}


def test_an_array_of_partitions_with_a_group_in_it(scratch: list[Path]) -> None:
    first = partitioned(scratch[0], "gpt")[0]
    array = make_array(first)
    VALUABLE["luks2"][1](make_group(array))
    no_groups()
    sh("mdadm", "--stop", array)
    sh("udevadm", "settle")
    assert guarded(scratch[0]) == {
        str(first): {"linux_raid_member", "LVM2_member", "crypto_LUKS"},
    }


@pytest.mark.parametrize("name", ["md-1.2", "vg", "luks2", "zfs"])
def test_where_only_the_backup_table_names_it(name: str, scratch: list[Path]) -> None:
    """The first table is lost, the kernel shows no partition: what was there still counts."""
    what, make = VALUABLE[name]
    make(partitioned(scratch[0], "gpt")[-1])
    put(scratch[0], 0, bytes(34 * 512))
    block.reread_table(scratch[0])
    sh("udevadm", "settle")
    assert not list(Path(f"/sys/class/block/{scratch[0].name}").glob(f"{scratch[0].name}*"))
    assert what in guarded(scratch[0]).get(str(scratch[0]), set())


def test_of_several_in_one_place_each_is_found(scratch: list[Path]) -> None:
    """A mirror's superblock behind two filesystems where the kernel shows no partition.

    blkid gives up there: that of util-linux 2.41 says there is nothing.
    """
    last = partitioned(scratch[0], "gpt")[-1]
    sh("mkfs.xfs", "-q", "-f", last)
    with last.open("rb") as file:
        head = file.read(512)
    sh("mkfs.ext4", "-q", "-F", last)
    put(last, 0, head)
    assert probe_tags(RUN, last)["TYPE"] == "ambiguous"
    what, make = VALUABLE["md-1.0"]
    make(last)
    sh("mkfs.ext4", "-q", "-F", last, "100M")
    put(last, 0, head)
    put(scratch[0], 0, bytes(34 * 512))
    block.reread_table(scratch[0])
    sh("udevadm", "settle")
    seen = {found.what for found in drive(scratch[0]).contents if found.usage != "table"}
    assert seen == {"xfs", "ext4", what}
    assert guarded(scratch[0]) == {str(scratch[0]): {what}}


def test_what_is_open_is_in_use(scratch: list[Path], tmp_path: Path) -> None:
    uses: dict[str, Callable[[Path], object]] = {
        "swap": lambda path: sh("swapon", path),
        "ext4": lambda path: sh("mount", path, tmp_path),
    }
    parts = partitioned(scratch[0], "dos")
    for name, part in zip(uses, parts, strict=False):
        CONTENTS[name][1](part)
        assert not any(str(part) in user for user in drive(scratch[0]).users)
        uses[name](part)
        assert any(str(part) in user for user in drive(scratch[0]).users), name
    sh("swapoff", parts[0])
    sh("umount", parts[1])


@pytest.mark.parametrize("name", PLAIN)
def test_plain_filesystems_are_named_and_free(name: str, scratch: list[Path]) -> None:
    what, make = PLAIN[name]
    last = partitioned(scratch[0], "dos")[-1]
    make(last)
    seen = drive(scratch[0])
    assert (str(last), what) in {(found.path, found.what) for found in seen.contents}
    assert valuables(seen) == ()


def test_a_blank_disk_has_nothing(scratch: list[Path], scratch_4k: Path) -> None:
    for path in (scratch[0], scratch_4k):
        assert drive(path).contents == ()
    partitioned(scratch[0], "gpt")
    assert [one.what for one in drive(scratch[0]).contents] == ["gpt"]
    assert size_of(scratch[0]) == drive(scratch[0]).size_bytes


def test_two_paths_are_one_disk() -> None:
    """One image on two addresses of a SCSI bus, with one WWN, as two cables show it."""
    (seen,) = (one for one in probe_drives(RUN) if one.serial == "SCRATCH-PATHS")
    names = sorted(path.name for path in Path("/sys/block").glob("sd*"))
    nodes = [f"/dev/{name}" for name in names if wwid(name) == wwid(Path(seen.path).name)]
    assert len(nodes) == 2
    assert (seen.path, seen.paths) == (nodes[0], tuple(nodes))
    assert seen.wwn is not None
    assert seen.wwn.startswith("0x5000c5")
    VALUABLE["luks2"][1](Path(nodes[1]))
    block.flush(nodes[0])  # the kernel keeps what it read of each path
    assert guarded(Path(nodes[0])) == {nodes[0]: {"crypto_LUKS"}}
    CONTENTS["swap"][1](Path(nodes[1]))
    sh("swapon", nodes[1])
    assert drive(Path(nodes[0])).users == (f"{nodes[1]} is swap in use",)
    sh("swapoff", nodes[1])
    sh("wipefs", "--all", nodes[1])


def test_every_path_of_a_disk_is_held_and_shows_what_was_written() -> None:
    (seen,) = (one for one in probe_drives(RUN) if one.serial == "SCRATCH-PATHS")
    nodes = [Path(path) for path in seen.paths]
    CONTENTS["swap"][1](nodes[1])
    sh("swapon", nodes[1])
    with pytest.raises(DiskError, match=f"{nodes[1]} is in use"), held(nodes[0], seen.paths):
        pass
    sh("swapoff", nodes[1])
    with write_protected(seen):
        assert [block.is_read_only(node) for node in nodes] == [True, True]
    assert [block.is_read_only(node) for node in nodes] == [False, False]
    with held(nodes[0], seen.paths):
        for node in nodes:
            with node.open("rb") as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        sh("sfdisk", "--quiet", "--wipe=always", nodes[0], stdin="label: gpt\nsize=10M\n")
        assert not block.partition_nodes(nodes[1])
    assert len(block.partition_nodes(nodes[1])) == 1
    assert {found.what for found in drive(nodes[0]).contents} == {"gpt"}
    sh("wipefs", "--all", nodes[0])
    for node in nodes:
        block.reread_table(node)


def test_a_write_protected_disk_shows_what_was_written_to_its_partition(
    scratch: list[Path],
) -> None:
    part = partitioned(scratch[0], "gpt")[0]
    place = int(Path(f"/sys/class/block/{part.name}/start").read_text()) * 512
    with scratch[0].open("rb", buffering=0) as file:  # as a running array on its other partition
        old = os.pread(file.fileno(), 4096, place)
        put(part, 0, bytes(byte ^ 0xFF for byte in old))
        block.flush(part)
        assert os.pread(file.fileno(), 4096, place) == old, "nothing is remembered here"
        with write_protected(drive(scratch[0])):
            assert os.pread(file.fileno(), 4096, place) == bytes(byte ^ 0xFF for byte in old)


def wwid(name: str) -> str:
    return Path(f"/sys/block/{name}/device/wwid").read_text().strip()
