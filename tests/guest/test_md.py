"""Arrays on real devices: made, read without a write to the members, checked, grown."""

import os
import random
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from agent.errors import CommandFailed, DiskError
from agent.model.nodes import Array, MdLevel, MdMetadata
from agent.system import block
from agent.system.command import Run
from agent.tools import arrays, mdadm
from agent.units import GiB, KiB, MiB
from tests.guest.conftest import sh

RUN = Run()
UUID = "1f2e3d4c:5b6a7988:00112233:4455abcd"
Loops = Callable[..., list[Path]]
MEMBERS = {MdLevel.RAID1: 2, MdLevel.RAID5: 3}
LAYOUTS = {MdLevel.RAID5: "left-asymmetric", MdLevel.RAID6: "left-symmetric"}
SIZES = (12 * MiB, 13 * MiB + 512, 12 * MiB + 64 * KiB, 15 * MiB)

# Each level and each format; every pair would say no more. The long matrix has some more pairs.
CASES = [(level, MdMetadata.V1_2) for level in MdLevel] + [
    (MdLevel.RAID1, MdMetadata.V0_90),
    (MdLevel.RAID1, MdMetadata.V1_0),
    (MdLevel.RAID5, MdMetadata.V1_1),
    (MdLevel.LINEAR, MdMetadata.V0_90),
]
LONG = [
    (MdLevel.RAID1, MdMetadata.V1_1),
    (MdLevel.RAID5, MdMetadata.V0_90),
    (MdLevel.RAID5, MdMetadata.V1_0),
    (MdLevel.RAID10, MdMetadata.V0_90),
    (MdLevel.RAID10, MdMetadata.V1_0),
    (MdLevel.RAID6, MdMetadata.V1_1),
    (MdLevel.RAID4, MdMetadata.V1_0),
    (MdLevel.RAID0, MdMetadata.V1_0),
    (MdLevel.LINEAR, MdMetadata.V1_0),
]


@pytest.fixture
def loops(tmp_path: Path) -> Iterator[Loops]:
    """Returns a maker of loop disks; their files are `disk-N`."""
    made: list[Path] = []

    def make(*sizes: int) -> list[Path]:
        for size in sizes:
            file = tmp_path / f"disk-{len(made)}"
            file.touch()
            os.truncate(file, size)
            made.append(Path(sh("losetup", "--find", "--show", file).strip()))
            # A loop device stays write-protected when it gets another file.
            block.set_read_only(made[-1], False)
        return made[-len(sizes) :]

    yield make
    subprocess.run(["mdadm", "--stop", "--scan"], check=False, capture_output=True)
    for loop in made:
        sh("losetup", "--detach", loop)
        (tmp_path / f"disk-{made.index(loop)}").unlink()


def an_array(level: MdLevel, metadata: MdMetadata, **other: object) -> Array:
    count = MEMBERS.get(level, 4)
    striped = level not in (MdLevel.RAID1, MdLevel.LINEAR)
    layout = "near=2" if level is MdLevel.RAID10 else LAYOUTS.get(level, "")
    fields: dict[str, object] = {
        "id": "md0",
        "members": tuple(f"disk{n}" for n in range(count)),
        "level": level,
        "metadata": metadata,
        "chunk_bytes": 64 * KiB if striped else 0,
        "layout": layout,
        "uuid": UUID,
        "name": "" if metadata is MdMetadata.V0_90 else "web1:root",
        "size_bytes": 0,
    }
    return msgspec.convert({**fields, **other, "kind": "md"}, Array)


def found(devices: Sequence[Path]) -> mdadm.FoundArray:
    members = []
    for number, device in enumerate(devices):
        if member := mdadm.examine(RUN, device):
            members.append((f"disk{number}", member))
    (one,) = mdadm.find_arrays(members)
    return one


def scribble(device: Path) -> bytes:
    """Write here and there; return all that the array then holds."""
    size = block.size_bytes(device)
    chance = random.Random(size)
    with device.open("r+b", buffering=0) as file:
        for _ in range(24):
            file.seek(chance.randrange(size // 4096) * 4096)
            file.write(os.urandom(4096 * chance.randrange(1, 40))[: size - file.tell()])
        os.fsync(file.fileno())
    block.flush(device)
    return device.read_bytes()


def bytes_of(devices: Sequence[Path]) -> list[bytes]:
    for device in devices:
        block.flush(device)
    return [device.read_bytes() for device in devices]


def wait(device: Path) -> None:
    mdadm.wait_for_sync(device, lambda _: None, 60)


@pytest.mark.parametrize(
    ("level", "metadata"), [*CASES, *(pytest.param(*pair, marks=pytest.mark.full) for pair in LONG)]
)
def test_what_is_made_is_what_was_found(level: MdLevel, metadata: MdMetadata, loops: Loops) -> None:
    """Examined, it is the array that was asked for; read, not one byte of its members changes."""
    array = an_array(level, metadata, bitmap=level is MdLevel.RAID1)
    devices = loops(*SIZES[: len(array.members)])
    for device in devices:  # what a member held before must do no harm
        device.write_bytes(os.urandom(4 * MiB))
    device = arrays.make(RUN, array, devices)
    if level is not MdLevel.LINEAR:
        wait(device)
    size = block.size_bytes(device)
    usable = mdadm.usable_bytes(array, [block.size_bytes(one) for one in devices])
    assert size * 0.8 < usable <= size
    held = scribble(device)
    if level not in (MdLevel.LINEAR, MdLevel.RAID0):
        assert mdadm.check(device) == 0
    arrays.stop(RUN, device)
    one = found(devices)
    expected = msgspec.structs.replace(array, size_bytes=size)
    if level is MdLevel.RAID0:
        expected = msgspec.structs.replace(expected, layout="alternate")
    assert one.array == expected
    assert one.unfit == ()
    before = bytes_of(devices)
    read = arrays.assemble_read_only(RUN, array, devices)
    assert read.read_bytes() == held
    assert block.is_read_only(read)
    arrays.stop(RUN, read)
    assert bytes_of(devices) == before


@pytest.mark.parametrize("metadata", list(MdMetadata)[:4])
@pytest.mark.parametrize("level", [MdLevel.RAID1, MdLevel.RAID5])
def test_no_more_is_promised_than_is_there(
    level: MdLevel, metadata: MdMetadata, loops: Loops
) -> None:
    array = an_array(level, metadata, bitmap=level is MdLevel.RAID5)
    for size in (9 * GiB + 1536, 260 * GiB + 40 * KiB):
        devices = loops(*[size] * len(array.members))
        words = mdadm.make_words(
            array,
            Path("/dev/md100"),
            devices,
            equal=True,
        )
        RUN([*words[:2], "--assume-clean", *words[2:]])
        real = block.size_bytes("/dev/md100")
        usable = mdadm.usable_bytes(array, [size] * len(array.members))
        assert real * 0.99 < usable <= real
        arrays.stop(RUN, Path("/dev/md100"))


@pytest.mark.parametrize(
    "metadata", [pytest.param(MdMetadata.V1_1, marks=pytest.mark.full), MdMetadata.V1_2]
)
@pytest.mark.parametrize("level", [MdLevel.RAID1, MdLevel.RAID5, MdLevel.RAID10])
def test_data_of_an_older_mdadm_fit_disks_of_the_same_size(
    level: MdLevel, metadata: MdMetadata, loops: Loops
) -> None:
    """Its data begin earlier than those of today's arrays, so more is in them."""
    array = an_array(level, metadata)
    count = len(array.members)
    old = loops(*[40 * MiB] * count)
    words = mdadm.make_words(
        array, Path("/dev/md100"), old, data_offset_bytes=512 * KiB, equal=True
    )
    RUN([*words[:2], "--assume-clean", *words[2:]])
    size = block.size_bytes("/dev/md100")
    arrays.stop(RUN, Path("/dev/md100"))
    one = found(old).array
    assert one is not None
    assert one.size_bytes == size

    ordinary = arrays.make(RUN, array, loops(*[40 * MiB] * count))
    assert block.size_bytes(ordinary) < size
    arrays.stop(RUN, ordinary)

    new = loops(*[40 * MiB] * count)
    device = arrays.make(RUN, one, new)
    assert block.size_bytes(device) >= size
    held = scribble(device)
    wait(device)
    assert mdadm.check(device) == 0
    assert device.read_bytes() == held
    size = block.size_bytes(device)
    arrays.stop(RUN, device)
    again = found(new)
    assert again.array == msgspec.structs.replace(one, size_bytes=size)
    assert again.unfit == ()

    with pytest.raises(DiskError, match="are to be put on it"):
        arrays.make(RUN, one, loops(*[32 * MiB] * count))
    assert " : active" not in Path("/proc/mdstat").read_text()


def test_a_degraded_array_with_a_spare(loops: Loops) -> None:
    """Its spare fills the gap of the new one; of a source without spare the gap stays."""
    array = an_array(MdLevel.RAID5, MdMetadata.V1_2, bitmap=True)
    devices = loops(*[12 * MiB] * 3)
    device = Path("/dev/md100")
    mdadm.make(RUN, array, device, [devices[0], None, devices[2]], data_offset_bytes=MiB)
    held = scribble(device)
    arrays.stop(RUN, device)
    one = found(devices)
    assert one.array is not None
    assert one.array.members == ("disk0", None, "disk2")
    assert one.unfit == ()
    assert one.notes == ("the array web1:root is degraded: 1 of its members are missing",)
    assert one.data_offset_bytes == MiB
    source = [devices[0], devices[2]]
    before = bytes_of(source)
    read = arrays.assemble_read_only(RUN, array, source)
    assert read.read_bytes() == held
    arrays.stop(RUN, read)
    assert bytes_of(source) == before
    with pytest.raises(CommandFailed):
        arrays.assemble_read_only(RUN, array, source[:1])
    for member in source:
        block.set_read_only(member, False)
    sh("mdadm", "--zero-superblock", devices[0])
    assert mdadm.examine(RUN, devices[0]) is None

    target = loops(*[12 * MiB] * 4)
    device = arrays.make(RUN, array, target[:3], target[3:])
    wait(device)
    assert mdadm.sync_state(device).degraded == 0
    arrays.stop(RUN, device)
    one = found(target)
    assert one.array is not None
    assert one.array.spares == ("disk3",)


def test_partitions_without_a_way_to_zero_are_brought_into_step(scratch: list[Path]) -> None:
    parts = []
    for disk in scratch:
        sh("sfdisk", "--quiet", disk, stdin="label: gpt\nsize=64MiB, type=L\nsize=24MiB, type=L\n")
        sh("udevadm", "settle")
        part = block.partition_nodes(disk)[1]
        part.write_bytes(os.urandom(24 * MiB))
        parts.append(part)
    array = an_array(MdLevel.RAID5, MdMetadata.V1_0)
    words = mdadm.make_words(
        array,
        Path("/dev/md100"),
        parts,
        equal=True,
    )
    RUN(words)
    wait(Path("/dev/md100"))
    assert mdadm.check(Path("/dev/md100")) == 0
    arrays.stop(RUN, Path("/dev/md100"))
    assert found(parts).unfit == ()
    device = arrays.make(RUN, array, parts)
    wait(device)
    assert mdadm.check(device) == 0
    arrays.stop(RUN, device)


def test_a_member_that_dropped_out_is_named(loops: Loops) -> None:
    array = an_array(MdLevel.RAID1, MdMetadata.V1_2)
    devices = loops(12 * MiB, 12 * MiB)
    device = arrays.make(RUN, array, devices)
    wait(device)
    sh("mdadm", device, "--fail", devices[1])
    sh("mdadm", device, "--remove", devices[1])
    scribble(device)
    arrays.stop(RUN, device)
    one = found(devices)
    assert one.array is not None
    assert one.array.members == ("disk0", None)
    (why,) = one.unfit
    assert why.startswith("disk1 is an older state of the array web1:root")
