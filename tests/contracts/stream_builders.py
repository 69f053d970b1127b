"""Valid sources and templates for the tests of the stream; a test changes what it is about."""

import random
from pathlib import Path

from agent.model.extents import Extents
from agent.model.inventory import Board, Inventory, SecureBoot
from agent.model.layout import (
    Content,
    Layout,
    Raw,
    Volume,
)
from agent.model.nodes import Disk
from agent.model.template import FORMAT_VERSION, Firmware, TemplateConfig
from agent.store.body import Limits
from agent.store.registry import RegistryClient
from agent.store.retry import Retry
from agent.store.target import RegistryTarget
from agent.stream.capture import Captured, capture_template
from agent.stream.chunks import VolumeSource
from agent.stream.usedmap import used_map
from agent.system.command import Run
from agent.units import Extent, MiB

QUICK = Retry(attempts=4, first_s=0.01, longest_s=0.05)
IMPATIENT = Limits(connect_s=2, read_s=0.5, window_s=0.5)
BASE = 1 * MiB
"""Where the volumes of these tests begin on their disk."""


def make_client(
    url: str, token: str | None = None, *, retry: Retry = QUICK, limits: Limits = IMPATIENT
) -> RegistryClient:
    return RegistryClient(url, "demo", token, retry=retry, limits=limits)


def make_volume(size_bytes: int, name: str = "root", content: Content | None = None) -> Volume:
    return Volume(
        id=name,
        on="disk0",
        content=content or Raw(),
        size_bytes=size_bytes,
        used_bytes=0,
        minimum_bytes=size_bytes,
    )


def make_config(*volumes: Volume) -> TemplateConfig:
    disk = Disk(
        id="disk0", size_bytes=2**40, sector_bytes=512, physical_sector_bytes=512, table=None
    )
    inventory = Inventory(
        firmware="bios",
        secure_boot=SecureBoot.UNSUPPORTED,
        arch="x86_64",
        kernel="6.12",
        board=Board(),
        cpu_model="test",
        cpus=2,
        memory_bytes=2**30,
        disks=(),
    )
    return TemplateConfig(
        format=FORMAT_VERSION,
        name="demo",
        captured_at="2026-11-23T16:00:00Z",
        captured_by="metalcast 0.1.0",
        firmware=Firmware.BIOS,
        boots=(Firmware.BIOS,),
        os=None,
        source=inventory,
        layout=Layout(nodes=(disk,), volumes=volumes),
    )


def mixed_bytes(size: int, seed: int) -> bytes:
    """Return bytes of three kinds: random (half of all), like text, and long runs of zeros."""
    draw = random.Random(seed)
    pieces: list[bytes] = []
    while sum(map(len, pieces)) < size:
        length = draw.randrange(64 * 1024, 3 * MiB)
        kind = draw.choice((0, 0, 1, 2))
        if kind == 0:
            pieces.append(draw.randbytes(length))
        elif kind == 1:
            words = draw.randbytes(500).hex().encode()
            pieces.append((words * (length // len(words) + 1))[:length])
        else:
            pieces.append(bytes(length))
    return b"".join(pieces)[:size]


def make_source(folder: Path, data: bytes, *, used: tuple[Extent, ...] = ()) -> VolumeSource:
    """Return a raw volume that holds `data`, on a disk of its own."""
    disk = folder / "source.img"
    disk.write_bytes(bytes(BASE) + data)
    return VolumeSource(
        make_volume(len(data)), disk, BASE, used or (Extent(0, len(data)),), serial="SOURCE-1"
    )


def used_extents(device: Path, content: Content, size_bytes: int) -> Extents:
    """Return the used extents of a volume, both opinions heard."""
    with used_map(Run(), device, content, size_bytes) as used:
        used.confirm()
        return used.extents


def capture(client: RegistryClient, *sources: VolumeSource, pack_bytes: int = 4 * MiB) -> Captured:
    config = make_config(*(source.volume for source in sources))
    return capture_template(
        RegistryTarget(client), config, sources, tag="latest", pack_bytes=pack_bytes
    )


def make_target(folder: Path, size_bytes: int, *, name: str = "target.img") -> Path:
    """Return a disk full of old bytes."""
    disk = folder / name
    disk.write_bytes(b"\xa5" * (BASE + size_bytes + BASE))
    return disk
