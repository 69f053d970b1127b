"""fstab for another layout: only what moved changes."""

from collections.abc import Sequence

import pytest

from agent.identity.boot.fstab import Changes, rewrite_fstab
from agent.identity.boot.mount_options import kept_options
from agent.model.layout import Btrfs, Content, Ext, Layout, Subvolume, Swap, Vfat, Volume, Xfs
from agent.model.nodes import (
    LINUX_TYPE,
    Array,
    Disk,
    Gpt,
    LogicalVolume,
    Luks,
    LvKind,
    MdLevel,
    MdMetadata,
    Node,
    Partition,
    PhysicalVolume,
    VolumeGroup,
)
from agent.units import GiB

OLD = "5f1c9a52-0c63-4a0e-9a5a-8f8e21d5a001"
NEW = "aaaaaaaa-0c63-4a0e-9a5a-8f8e21d5a001"
LVM = "aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggggg"
MD = "11112222:33334444:55556666:77778888"

# as the Debian 12 installer writes it
DEBIAN = f"""\
# /etc/fstab: static file system information.
#
# <file system> <mount point>   <type>  <options>       <dump>  <pass>
# / was on /dev/sda2 during installation
UUID={OLD} /               ext4    errors=remount-ro 0       1
# /boot/efi was on /dev/sda1 during installation
UUID=4D43-0001  /boot/efi       vfat    umask=0077      0       1
UUID=5f1c9a52-0c63-4a0e-9a5a-8f8e21d5a002 none            swap    sw              0       0
/dev/sr0        /media/cdrom0   udf,iso9660 user,noauto     0       0
10.0.0.1:/srv /srv nfs defaults,_netdev 0 0
"""


def ext(uuid: str = OLD, label: str = "") -> Ext:
    return Ext(uuid=uuid, label=label, block_bytes=4096, features=("has_journal", "extent"))


def xfs(uuid: str = NEW) -> Xfs:
    return Xfs(uuid=uuid, label="", block_bytes=4096)


def swap(uuid: str = "5f1c9a52-0c63-4a0e-9a5a-8f8e21d5a002") -> Swap:
    return Swap(uuid=uuid, label="", page_bytes=4096)


def disk(number: int) -> Disk:
    return Disk(
        id=f"disk{number}",
        size_bytes=8 * GiB,
        sector_bytes=512,
        physical_sector_bytes=512,
        table=Gpt(uuid=f"00000000-0000-4000-8000-00000000000{number}"),
    )


def part(number: int, on: str = "disk0") -> Partition:
    return Partition(
        id=f"{on}p{number}",
        on=on,
        number=number,
        offset_bytes=number * GiB,
        size_bytes=GiB,
        type=LINUX_TYPE,
        uuid=f"00000000-0000-4000-8000-0000000{on[-1]}000{number}",
        name="",
    )


def volume(on: str, content: Content, mount: str | None = None) -> Volume:
    return Volume(
        id=f"v-{on}",
        on=on,
        content=content,
        size_bytes=GiB,
        used_bytes=GiB,
        minimum_bytes=GiB,
        mount=mount,
    )


def array(members: Sequence[str] = ("disk0p2", "disk1p2"), name: str = "host:0") -> Array:
    return Array(
        id="md0",
        members=tuple(members),
        level=MdLevel.RAID1,
        metadata=MdMetadata.V1_2,
        uuid=MD,
        name=name,
        size_bytes=GiB,
    )


def layout(nodes: Sequence[Node], *volumes: Volume) -> Layout:
    return Layout(nodes=tuple(nodes), volumes=volumes)


def single() -> Layout:
    return layout(
        [disk(0), part(1), part(2), part(3)],
        volume("disk0p1", Vfat(uuid="4D43-0001", label=""), "/boot/efi"),
        volume("disk0p2", ext(), "/"),
        volume("disk0p3", swap()),
    )


def mirror(root: Content | None = None) -> Layout:
    parts = [part(number, on) for on in ("disk0", "disk1") for number in (1, 2, 3)]
    return layout(
        [disk(0), disk(1), *parts, array()],
        volume("disk0p1", Vfat(uuid="4D43-0001", label=""), "/boot/efi"),
        volume("disk1p1", Vfat(uuid="4D43-0002", label="")),
        volume("md0", root or ext(NEW), "/"),
    )


def on_lvm(root: Content, *, encrypted: bool = False) -> Layout:
    below = "disk0p2"
    nodes: list[Node] = [disk(0), part(1), part(2)]
    if encrypted:
        nodes.append(
            Luks(
                id="luks0",
                on=below,
                version=2,
                uuid="99999999-0c63-4a0e-9a5a-8f8e21d5a001",
                cipher="aes-xts-plain64",
                key_bytes=64,
                size_bytes=GiB,
            )
        )
        below = "luks0"
    physical = PhysicalVolume(on=below, uuid=LVM, size_bytes=GiB)
    nodes += [
        VolumeGroup(id="vg0", physical=(physical,), name="vg-a", uuid=LVM, extent_bytes=4096),
        *(
            LogicalVolume(id=f"lv-{name}", on="vg0", name=name, uuid=LVM, lv=kind, size_bytes=GiB)
            for name, kind in (("root", LvKind.LINEAR), ("swap", LvKind.LINEAR))
        ),
    ]
    return layout(nodes, volume("lv-root", root, "/"), volume("lv-swap", swap(NEW)))


def test_the_same_layout_changes_nothing() -> None:
    assert rewrite_fstab(DEBIAN, Changes(single(), single())) == DEBIAN


def test_a_mirror_changes_the_lines_of_what_moved_alone() -> None:
    found = rewrite_fstab(DEBIAN, Changes(single(), mirror()))
    old, new = DEBIAN.splitlines(), found.splitlines()
    assert len(old) == len(new)
    changed = {number: line for number, line in enumerate(new) if line != old[number]}
    assert changed == {
        4: f"UUID={NEW} /               ext4    errors=remount-ro 0       1",
        # one ESP of two: without its disk the system must still come up
        6: "UUID=4D43-0001  /boot/efi       vfat    umask=0077,nofail      0       1",
        7: "# not on this disk: " + old[7],
    }


def test_another_filesystem_takes_its_own_options_alone() -> None:
    found = rewrite_fstab(DEBIAN, Changes(single(), mirror(xfs())))
    assert f"UUID={NEW} /               xfs    defaults 0       0\n" in found


@pytest.mark.parametrize(
    ("options", "old", "new", "kept"),
    [
        ("errors=remount-ro,noatime", "ext4", "xfs", "noatime"),
        ("noatime,data=ordered,x-systemd.automount", "ext4", "xfs", "noatime,x-systemd.automount"),
        ("subvol=@,compress=zstd,ssd,rw", "btrfs", "ext4", "rw"),
        ("errors=remount-ro", "vfat", "ext4", ""),
        ("sunit=128,swidth=256,noatime", "xfs", "xfs", "noatime"),
        ("usrquota,grpquota,discard", "ext4", "xfs", "usrquota,grpquota,discard"),
        ("inode64,logbufs=8,nofail", "xfs", "ext4", "nofail"),
        ("acl,user_xattr", "ext3", "ext4", "acl,user_xattr"),
    ],
)
def test_options_that_the_new_type_cannot_take_go(
    options: str, old: str, new: str, kept: str
) -> None:
    assert ",".join(kept_options(options, old, new, moved=True)) == kept


@pytest.mark.parametrize(
    "spec",
    [
        f"UUID={OLD.upper()}",
        f'UUID="{OLD}"',
        f"/dev/disk/by-uuid/{OLD}",
        "LABEL=root",
        "/dev/disk/by-label/root",
        "PARTUUID=00000000-0000-4000-8000-000000000002",
    ],
)
def test_a_name_that_still_holds_is_kept(spec: str) -> None:
    line = f"{spec} / ext4 defaults 0 1\n"
    there = layout([disk(0), part(2)], volume("disk0p2", ext(label="root"), "/"))
    assert rewrite_fstab(line, Changes(there, there)) == line


@pytest.mark.parametrize("spec", ["/dev/sda2", "LABEL=other", "/dev/mapper/old-root", "/dev/md0"])
def test_a_name_that_does_not_hold_is_replaced(spec: str) -> None:
    there = layout([disk(0), part(2)], volume("disk0p2", ext(), "/"))
    found = rewrite_fstab(f"{spec} / ext4 defaults 0 1\n", Changes(there, there))
    assert found == f"UUID={OLD} / ext4 defaults 0 1\n"


def test_a_logical_volume_may_keep_its_path() -> None:
    line = "/dev/mapper/vg--a-root\t/\text4\tdefaults\t0\t1\n"
    found = rewrite_fstab(line, Changes(on_lvm(ext()), on_lvm(ext())))
    assert found.startswith(line)
    assert found.endswith(f"UUID={NEW} none swap sw 0 0\n")


def test_swap_follows_to_the_swap_that_is_there() -> None:
    found = rewrite_fstab("/dev/sda3 none swap sw,pri=5 0 0\n", Changes(single(), on_lvm(ext())))
    assert f"UUID={NEW} none swap sw,pri=5 0 0\n" in found
    assert found.count("swap") == 1


def test_a_swap_file_stays() -> None:
    line = "/swapfile none swap sw 0 0\n"
    assert rewrite_fstab(line, Changes(single(), mirror())).startswith(line)


def test_btrfs_gets_and_loses_subvolumes() -> None:
    line = f"UUID={OLD} / ext4 noatime,errors=remount-ro 0 1\n"
    tree = Btrfs(
        uuid=NEW,
        label="",
        block_bytes=4096,
        subvolumes=(Subvolume(path="@", mount="/"), Subvolume(path="@home", mount="/home")),
    )
    there = layout([disk(0), part(2)], volume("disk0p2", tree))
    before = layout([disk(0), part(2)], volume("disk0p2", ext(), "/"))
    found = rewrite_fstab(line, Changes(before, there))
    assert found == (
        f"UUID={NEW} / btrfs noatime,subvol=@ 0 0\nUUID={NEW} /home btrfs subvol=@home 0 0\n"
    )
    assert rewrite_fstab(found, Changes(there, before)).startswith(
        f"UUID={OLD} / ext4 noatime 0 1\n# not on this disk: "
    )


def test_what_no_line_mounts_gets_one() -> None:
    there = layout(
        [disk(0), part(1), part(2)],
        volume("disk0p2", ext(), "/"),
        volume("disk0p1", ext(NEW), "/srv/a b"),
    )
    found = rewrite_fstab(f"UUID={OLD} / ext4 defaults 0 1\n", Changes(there, there))
    assert found.endswith(f"\nUUID={NEW} /srv/a\\040b ext4 defaults 0 2\n")
