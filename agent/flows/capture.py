"""From a disk to a template: choose, look, plan, show, upload. The disk is only read."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.errors import SourceUnfit
from agent.flows.version import version
from agent.flows.workplace import Workplace, peak_memory_bytes
from agent.identity.survey import survey
from agent.model.event import PlanMade
from agent.model.inventory import Drive, Inventory
from agent.model.job import CaptureSpec
from agent.model.plan import CapturePlan, CaptureVolume
from agent.planning.capture import plan_capture, template_config
from agent.planning.hints import pick_disk
from agent.planning.review import render_capture
from agent.report import now
from agent.stream.capture import capture_template
from agent.stream.chunks import VolumeSource
from agent.stream.usedmap import used_extents
from agent.system import block
from agent.system.command import Runner
from agent.tools.source import read_layout
from agent.units import Extent

TAG = "latest"


def look_at_disk(run: Runner, inventory: Inventory, spec: CaptureSpec, drive: Drive) -> CapturePlan:
    """See what is on `drive` and decide how it would be captured; nothing is sent.

    Raises SourceUnfit with every reason why it cannot be, each with the command that helps.
    """
    with write_protected(drive):
        return _plan(run, inventory, spec, drive)


def capture(place: Workplace, spec: CaptureSpec) -> dict[str, Any]:
    """Capture the disk that `spec` asks for into the job's repository; return the result.

    The kernel refuses every write to the disk meanwhile. Nothing is listed before all is there.
    """
    began = time.monotonic()
    drive = pick_disk(spec.disk, place.inventory.disks)
    with write_protected(drive):
        plan = _plan(place.run, place.inventory, spec, drive)
        place.report(PlanMade(text=render_capture(plan), digest=plan.digest))
        sources = tuple(_source(place.run, plan, volume, drive) for volume in plan.volumes)
        place.confirm_claim()
        captured = capture_template(
            place.registry,
            template_config(plan, place.inventory, now(), f"metalcast {version()}"),
            [source for source in sources if source is not None],
            place.report,
            tag=TAG,
            level=spec.level,
        )
    return {
        "digest": captured.digest,
        "name": spec.name,
        "disk": plan.source.identity,
        "raw_bytes": drive.size_bytes,
        "used_bytes": captured.used_bytes,
        "stored_bytes": captured.stored_bytes,
        "left_out": [redaction.path for redaction in plan.redactions],
        "stage_seconds": {stage: round(s, 2) for stage, s in captured.stage_seconds.items()},
        "seconds": round(time.monotonic() - began, 1),
        "peak_memory_bytes": peak_memory_bytes(),
    }


@contextmanager
def write_protected(drive: Drive) -> Iterator[None]:
    """The kernel refuses writes to the disk and its partitions while this lasts.

    Raises SourceUnfit if it will not. Afterwards the disk is as writable as it was.
    """
    disk = Path(drive.path)
    nodes = [disk, *block.partition_nodes(disk)] if block.is_block_device(disk) else []
    if not all(block.set_read_only(node, True) for node in nodes):
        raise SourceUnfit((f"the kernel will not write-protect {drive.path}",))
    try:
        yield
    finally:
        if not drive.read_only:
            for node in nodes:
                block.set_read_only(node, False)


def _plan(run: Runner, inventory: Inventory, spec: CaptureSpec, drive: Drive) -> CapturePlan:
    layout = read_layout(run, drive, inventory.arch)
    return plan_capture(inventory, layout, survey(run, drive, layout), spec, drive)


def _source(
    run: Runner, plan: CapturePlan, volume: CaptureVolume, drive: Drive
) -> VolumeSource | None:
    """Return where the data of `volume` is; None if it has none (swap)."""
    described = plan.layout.volume(volume.volume)
    disk = Path(drive.path)
    node = disk
    if volume.number is not None:
        node = Path(block.partition_path(disk, volume.number))
    used = used_extents(run, node, described.content, volume.size_bytes)
    if not used:
        return None
    return VolumeSource(
        volume=described,
        device=disk,
        offset_bytes=volume.offset_bytes,
        used=used,
        blank=tuple(Extent(offset, size) for offset, size in volume.redacted),
        serial=drive.serial,
    )
