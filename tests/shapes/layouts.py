"""One disk with ext4, as a template has it, and the same system on a mirror of two disks."""

from agent.model.layout import Ext, Layout, Raw, Swap, Vfat, Volume, Xfs
from agent.model.nodes import (
    BIOS_BOOT_TYPE,
    ESP_TYPE,
    LINUX_TYPE,
    SWAP_TYPE,
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
from agent.units import GiB, MiB
from tests.harness.rootfs import ROOT_UUID

NEW_ROOT_UUID = "0a1b2c3d-1111-4222-8333-444455556666"
ARRAY_UUID = "11112222:33334444:55556666:77778888"
ESP_SERIALS = ("AAAA0001", "AAAA0002")
LEG_BYTES = 3 * GiB
BOOT_UUID = "0a1b2c3d-2222-4222-8333-444455556666"
SWAP_UUID = "0a1b2c3d-3333-4222-8333-444455556666"
LUKS_UUID = "0a1b2c3d-4444-4222-8333-444455556666"
LUKS_NAME = "secret"
GROUP = "vg-sys"
_LVM_UUID = "aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggggg"
_FEATURES = ("has_journal", "extent", "64bit")


def _uuid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


def _disk(name: str) -> Disk:
    return Disk(
        id=name,
        size_bytes=LEG_BYTES,
        sector_bytes=512,
        physical_sector_bytes=512,
        table=Gpt(uuid=_uuid(int(name[4:]) + 1)),
    )


def _part(disk: str, number: int, start: int, size: int, kind: str) -> Partition:
    return Partition(
        id=f"{disk}p{number}",
        on=disk,
        number=number,
        offset_bytes=start,
        size_bytes=size,
        type=kind,
        uuid=_uuid(16 * (int(disk[4:]) + 1) + number),
        name="",
    )


def _volume(on: str, content: Ext | Xfs | Swap | Vfat | Raw, mount: str | None = None) -> Volume:
    return Volume(
        id=f"v-{on}",
        on=on,
        content=content,
        size_bytes=64 * MiB,
        used_bytes=MiB,
        minimum_bytes=MiB,
        mount=mount,
    )


def single() -> Layout:
    """Return what tests/harness/source.py makes: bios_boot, ESP, swap, ext4."""
    parts = (
        _part("disk0", 1, MiB, MiB, BIOS_BOOT_TYPE),
        _part("disk0", 2, 2 * MiB, 64 * MiB, ESP_TYPE),
        _part("disk0", 3, 66 * MiB, 128 * MiB, SWAP_TYPE),
        _part("disk0", 4, 194 * MiB, GiB, LINUX_TYPE),
    )
    root = Ext(uuid=ROOT_UUID, label="root", block_bytes=4096, features=_FEATURES)
    swap = Swap(uuid="5f1c9a52-0c63-4a0e-9a5a-8f8e21d5a002", label="", page_bytes=4096)
    return Layout(
        nodes=(_disk("disk0"), *parts),
        volumes=(
            _volume("disk0p1", Raw()),
            _volume("disk0p2", Vfat(uuid="4D43-0001", label="ESP"), "/boot/efi"),
            _volume("disk0p3", swap),
            _volume("disk0p4", root, "/"),
        ),
    )


def mirror() -> Layout:
    """Return two disks, each with bios_boot and an ESP; `/` on a RAID 1 of both; no swap."""
    rest = LEG_BYTES - 67 * MiB
    nodes: list[Node] = []
    for name in ("disk0", "disk1"):
        nodes += [
            _disk(name),
            _part(name, 1, MiB, MiB, BIOS_BOOT_TYPE),
            _part(name, 2, 2 * MiB, 64 * MiB, ESP_TYPE),
            _part(name, 3, 66 * MiB, rest, LINUX_TYPE),
        ]
    array = Array(
        id="md0",
        members=("disk0p3", "disk1p3"),
        level=MdLevel.RAID1,
        metadata=MdMetadata.V1_2,
        uuid=ARRAY_UUID,
        name="any:0",
        size_bytes=rest - MiB,
    )
    first, second = (f"{serial[:4]}-{serial[4:]}" for serial in ESP_SERIALS)
    root = Ext(uuid=NEW_ROOT_UUID, label="root", block_bytes=4096, features=_FEATURES)
    return Layout(
        nodes=(*nodes, array),
        volumes=(
            _volume("disk0p1", Raw()),
            _volume("disk1p1", Raw()),
            _volume("disk0p2", Vfat(uuid=first, label="ESP"), "/boot/efi"),
            _volume("disk1p2", Vfat(uuid=second, label="ESP")),
            _volume("md0", root, "/"),
        ),
    )


def encrypted() -> Layout:
    """Return one disk: bios_boot, ESP, /boot on ext4, `/` on xfs and swap on LVM in LUKS."""
    rest = LEG_BYTES - 323 * MiB
    nodes: list[Node] = [
        _disk("disk0"),
        _part("disk0", 1, MiB, MiB, BIOS_BOOT_TYPE),
        _part("disk0", 2, 2 * MiB, 64 * MiB, ESP_TYPE),
        _part("disk0", 3, 66 * MiB, 256 * MiB, LINUX_TYPE),
        _part("disk0", 4, 322 * MiB, rest, LINUX_TYPE),
        Luks(
            id="luks0",
            on="disk0p4",
            version=2,
            uuid=LUKS_UUID,
            cipher="aes-xts-plain64",
            key_bytes=64,
            name=LUKS_NAME,
            size_bytes=rest - 16 * MiB,
        ),
        VolumeGroup(
            id="vg0",
            physical=(PhysicalVolume(on="luks0", uuid=_LVM_UUID, size_bytes=rest - 20 * MiB),),
            name=GROUP,
            uuid=_LVM_UUID,
            extent_bytes=4 * MiB,
        ),
    ]
    for name, size in (("root", 2 * GiB), ("swap", 128 * MiB)):
        nodes.append(
            LogicalVolume(
                id=f"lv-{name}",
                on="vg0",
                name=name,
                uuid=_LVM_UUID,
                lv=LvKind.LINEAR,
                size_bytes=size,
            )
        )
    boot = Ext(uuid=BOOT_UUID, label="", block_bytes=4096, features=_FEATURES)
    first = f"{ESP_SERIALS[0][:4]}-{ESP_SERIALS[0][4:]}"
    return Layout(
        nodes=tuple(nodes),
        volumes=(
            _volume("disk0p1", Raw()),
            _volume("disk0p2", Vfat(uuid=first, label="ESP"), "/boot/efi"),
            _volume("disk0p3", boot, "/boot"),
            _volume("lv-root", Xfs(uuid=NEW_ROOT_UUID, label="root", block_bytes=4096), "/"),
            _volume("lv-swap", Swap(uuid=SWAP_UUID, label="", page_bytes=4096)),
        ),
    )
