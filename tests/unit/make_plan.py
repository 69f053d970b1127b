"""Builders of valid values: a test changes only what it is about."""

from typing import Any

import msgspec

from agent.model.inventory import Board, Drive, Found, Inventory, Nic, SecureBoot, Transport
from agent.model.job import DeploySpec
from agent.model.layout import (
    BootCode,
    Content,
    Ext,
    Layout,
    Raw,
    Swap,
    Vfat,
    Volume,
)
from agent.model.nodes import (
    BIOS_BOOT_TYPE,
    ESP_TYPE,
    LINUX_TYPE,
    SWAP_TYPE,
    Disk,
    Gpt,
    Partition,
)
from agent.model.template import FORMAT_VERSION, Firmware, NetworkStack, OsIdentity, TemplateConfig
from agent.units import GiB, MiB

JOB = "j-0123456789ab"
DISK_UUID = "5a6f2a3c-0c5e-4c1d-9d52-1f0e6b1f0001"


def guid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


def make_drive(**changes: Any) -> Drive:
    drive = Drive(
        path="/dev/vda",
        size_bytes=8 * GiB,
        sector_bytes=512,
        physical_sector_bytes=512,
        model="QEMU HARDDISK",
        serial="SN-1",
        wwn=None,
        transport=Transport.VIRTIO,
    )
    return msgspec.structs.replace(drive, **changes)


def make_inventory(*drives: Drive, **changes: Any) -> Inventory:
    inventory = Inventory(
        firmware="bios",
        secure_boot=SecureBoot.UNSUPPORTED,
        arch="x86_64",
        kernel="6.12",
        board=Board(),
        cpu_model="QEMU",
        cpus=1,
        memory_bytes=GiB,
        disks=drives or (make_drive(),),
        nics=(
            Nic(name="eth0", mac="52:54:00:12:34:56", driver="virtio_net", link=True, boot=True),
        ),
    )
    return msgspec.structs.replace(inventory, **changes)


def make_os(**changes: Any) -> OsIdentity:
    system = OsIdentity(
        id="debian",
        version="13",
        pretty_name="Debian GNU/Linux 13 (trixie)",
        kernel="6.12.1-amd64",
        bootloader="grub2",
        initramfs_tool="initramfs-tools",
        network_stack=NetworkStack.IFUPDOWN,
    )
    return msgspec.structs.replace(system, **changes)


def make_partition(number: int, offset: int, size: int, **more: Any) -> Partition:
    part = Partition(
        id=f"disk0p{number}",
        on="disk0",
        number=number,
        offset_bytes=offset,
        size_bytes=size,
        type=LINUX_TYPE,
        uuid=guid(number),
        name="",
    )
    return msgspec.structs.replace(part, **more)


def make_volume(name: str, on: str, content: Content, size: int, **more: Any) -> Volume:
    """Return a full volume that cannot be smaller, if `more` does not say otherwise."""
    known = {"used_bytes": size, "minimum_bytes": size, **more}
    return Volume(id=name, on=on, content=content, size_bytes=size, **known)


def make_layout(
    *,
    size_bytes: int = 4 * GiB,
    sector_bytes: int = 512,
    esp_bytes: int = 64 * MiB,
    root_bytes: int = 3 * GiB,
    swap_bytes: int = 256 * MiB,
    swap_last: bool = True,
) -> Layout:
    """BIOS boot, ESP, root and swap, one behind the other."""
    at = MiB
    nodes: list[Disk | Partition] = [
        Disk(
            id="disk0",
            size_bytes=size_bytes,
            sector_bytes=sector_bytes,
            physical_sector_bytes=sector_bytes,
            table=Gpt(uuid=DISK_UUID),
        )
    ]
    volumes = [
        make_volume("boot-code", "disk0", BootCode(), 440),
    ]
    root = (
        "root",
        root_bytes,
        LINUX_TYPE,
        Ext(uuid=guid(101), label="root", block_bytes=4096, features=("extent",)),
        "/",
    )
    swap = ("swap", swap_bytes, SWAP_TYPE, Swap(uuid=guid(102), label="", page_bytes=4096), None)
    rows = [
        ("bios-boot", MiB, BIOS_BOOT_TYPE, Raw(), None),
        ("esp", esp_bytes, ESP_TYPE, Vfat(uuid="ABCD-1234", label="EFI"), "/boot/efi"),
        *((root, swap) if swap_last else (swap, root)),
    ]
    for number, (name, size, kind, content, mount) in enumerate(rows, start=1):
        nodes.append(make_partition(number, at, size, type=kind, name=name))
        used = 0 if name == "swap" else size // 4
        volumes.append(
            make_volume(
                name,
                f"disk0p{number}",
                content,
                size,
                used_bytes=used,
                minimum_bytes=size // 2 if name == "root" else size,
                mount=mount,
            )
        )
        at += size
    return Layout(nodes=tuple(nodes), volumes=tuple(volumes))


def make_template(layout: Layout | None = None, **changes: Any) -> TemplateConfig:
    template = TemplateConfig(
        format=FORMAT_VERSION,
        name="demo",
        captured_at="2026-11-23T12:00:00Z",
        captured_by="metalcast 0.1.0",
        firmware=Firmware.BIOS,
        boots=(Firmware.BIOS, Firmware.UEFI),
        os=make_os(),
        source=make_inventory(),
        layout=layout or make_layout(),
    )
    return msgspec.structs.replace(template, **changes)


def make_spec(**changes: Any) -> DeploySpec:
    return msgspec.structs.replace(DeploySpec(template="demo"), **changes)


def make_found(what: str, usage: str = "raid", **more: Any) -> Found:
    return Found(path="/dev/vda2", what=what, usage=usage, **more)


def with_volume(layout: Layout, name: str, **fields: Any) -> Layout:
    volumes = tuple(
        msgspec.structs.replace(volume, **fields) if volume.id == name else volume
        for volume in layout.volumes
    )
    return Layout(nodes=layout.nodes, volumes=volumes)


def with_root_partition(layout: Layout, **fields: Any) -> Layout:
    """Return `layout` with its root partition changed."""
    nodes = tuple(
        msgspec.structs.replace(node, **fields) if node.id == "disk0p3" else node
        for node in layout.nodes
    )
    return Layout(nodes=nodes, volumes=layout.volumes)
