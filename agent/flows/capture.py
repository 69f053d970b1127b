"""From a disk to a template: choose, look, plan, show, upload. The disk is only read."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from agent.errors import DiskError, SourceUnfit
from agent.flows.deploy import trust_template
from agent.flows.version import version
from agent.flows.workplace import Workplace, peak_memory_bytes
from agent.identity.survey import survey
from agent.model.event import Level, Logged, PlanMade
from agent.model.inventory import Drive, Inventory
from agent.model.job import CaptureSpec
from agent.model.plan import CapturePlan, CaptureVolume
from agent.planning.capture import plan_capture, template_config
from agent.planning.damage import damage_lines
from agent.planning.hints import pick_disk
from agent.planning.review import render_capture
from agent.report import now
from agent.store.hold import holding
from agent.store.template import Template, open_template
from agent.stream.capture import capture_template
from agent.stream.chunks import VolumeSource
from agent.stream.damage import Damage
from agent.stream.usedmap import UsedMap, confirm_all, used_map
from agent.system import block
from agent.system.command import Runner
from agent.tools.source import read_layout
from agent.units import Extent

TAG = "latest"
_DAMAGED = (
    "smartctl -a says how the disk is; --accept-damage (metalcast.accept_damage=yes) stores what "
    "cannot be read as zeros"
)


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
    parent = open_parent(place, spec) if spec.parent else None
    drive = pick_disk(spec.disk, place.inventory.disks)
    with write_protected(drive):
        plan = _plan(place.run, place.inventory, spec, drive)
        place.report(PlanMade(text=render_capture(plan), digest=plan.digest))
        with ExitStack() as looks:
            maps = {
                volume.volume: looks.enter_context(_used(place.run, plan, volume, drive))
                for volume in plan.volumes
            }
            place.confirm_claim()
            looks.enter_context(holding(place.registry))
            try:
                captured = capture_template(
                    place.registry,
                    template_config(plan, place.inventory, now(), f"metalcast {version()}"),
                    [
                        _source(plan, volume, drive, maps[volume.volume])
                        for volume in plan.volumes
                        if maps[volume.volume].extents
                    ],
                    place.report,
                    tag=TAG,
                    level=spec.level,
                    parent=parent,
                    damage=Damage() if spec.damaged else None,
                    confirm=lambda: confirm_all(maps.values()),
                )
            except DiskError as error:
                error.hint = error.hint or _DAMAGED
                raise
    damage = list(damage_lines(captured.config.holes))
    for line in damage:
        place.report(Logged(level=Level.WARNING, message=f"the template is damaged: {line}"))
    return {
        "digest": captured.digest,
        "name": spec.name,
        "disk": plan.source.identity,
        "raw_bytes": drive.size_bytes,
        "used_bytes": captured.used_bytes,
        "stored_bytes": captured.stored_bytes,
        "uploaded_bytes": captured.uploaded_bytes,
        "parent": captured.config.parent,
        "left_out": [redaction.path for redaction in plan.redactions],
        "damage": damage,
        "lost_bytes": sum(hole.size for hole in captured.config.holes),
        "stage_seconds": {stage: round(s, 2) for stage, s in captured.stage_seconds.items()},
        "bottleneck": captured.bottleneck,
        "seconds": round(time.monotonic() - began, 1),
        "peak_memory_bytes": peak_memory_bytes(),
    }


def open_parent(place: Workplace, spec: CaptureSpec) -> Template:
    """Return the template whose chunks are taken over, vouched for as one to be deployed is.

    Chunks are known again by what its index says of them: whoever made it could have put other
    data there, which would then be in this template. Raises TrustError.
    """
    assert spec.parent is not None
    trusted = trust_template(place, spec.parent, spec.parent_reference)
    return open_template(place.registry, trusted.digest)


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


def _used(run: Runner, plan: CapturePlan, volume: CaptureVolume, drive: Drive) -> UsedMap:
    disk = Path(drive.path)
    node = disk if volume.number is None else Path(block.partition_path(disk, volume.number))
    content = plan.layout.volume(volume.volume).content
    return used_map(run, node, content, volume.size_bytes)


def _source(plan: CapturePlan, volume: CaptureVolume, drive: Drive, used: UsedMap) -> VolumeSource:
    return VolumeSource(
        volume=plan.layout.volume(volume.volume),
        device=Path(drive.path),
        offset_bytes=volume.offset_bytes,
        used=used.extents,
        blank=tuple(Extent(offset, size) for offset, size in volume.redacted),
        serial=drive.serial,
    )
