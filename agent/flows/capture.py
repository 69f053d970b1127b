"""From disks to a template: choose, look, plan, show, upload. The disks are only read."""

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
from agent.model.found import CapturePlan, CaptureVolume
from agent.model.inventory import Drive, Inventory
from agent.model.job import CaptureSpec
from agent.planning.capture import plan_capture, template_config
from agent.planning.damage import damage_facts
from agent.planning.review import render_capture
from agent.planning.sources import source_disks
from agent.report import now
from agent.source.left_out import left_out
from agent.source.open import opened_system
from agent.store.template import Template, open_template
from agent.stream.capture import capture_template
from agent.stream.chunks import VolumeSource
from agent.stream.damage import Damage
from agent.stream.usedmap import UsedMap, confirm_all, used_map
from agent.system import block
from agent.system.command import Runner
from agent.system.hold import other_paths
from agent.units import Extent

TAG = "latest"
_DAMAGED = (
    "smartctl -a says how the disk is; --accept-damage (metalcast.accept_damage=yes) stores what "
    "cannot be read as zeros"
)


def look_at_disks(run: Runner, inventory: Inventory, spec: CaptureSpec) -> CapturePlan:
    """See what is on the disks that `spec` means and decide how they would be captured.

    Nothing is sent. Raises SourceUnfit with every reason why they cannot be, each with the command
    that helps.
    """
    with _opened_plan(run, inventory, spec) as plan:
        return plan


def capture(place: Workplace, spec: CaptureSpec) -> dict[str, Any]:
    """Capture the disks that `spec` asks for into the job's repository; return the result.

    The kernel refuses every write to the disks meanwhile. Nothing is listed before all is there.
    """
    began = time.monotonic()
    target = place.target
    parent = open_parent(place, spec) if spec.parent else None
    with _opened_plan(place.run, place.inventory, spec) as plan:
        place.report(PlanMade(text=render_capture(plan), digest=plan.digest))
        with ExitStack() as looks:
            maps = {
                volume.volume: looks.enter_context(_used(place.run, plan, volume))
                for volume in plan.volumes
            }
            place.confirm_claim()
            looks.enter_context(target.at_work())
            try:
                captured = capture_template(
                    target,
                    template_config(plan, place.inventory, now(), f"metalcast {version()}"),
                    [
                        _source(plan, volume, maps[volume.volume])
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
    damage = damage_facts(captured.config.holes)
    for line in damage["damage"]:
        place.report(Logged(level=Level.WARNING, message=f"the template is damaged: {line}"))
    return {
        "digest": captured.digest,
        "name": spec.name,
        "disk": ", ".join(source.identity for source in plan.sources),
        "raw_bytes": sum(source.size_bytes for source in plan.sources),
        "used_bytes": captured.used_bytes,
        "stored_bytes": captured.stored_bytes,
        "uploaded_bytes": captured.uploaded_bytes,
        "parent": captured.config.parent,
        "left_out": [redaction.path for redaction in plan.redactions],
        **damage,
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
    return open_template(place.source, trusted.digest)


@contextmanager
def write_protected(drive: Drive) -> Iterator[None]:
    """The kernel refuses writes to the disk and its partitions, by any path, while this lasts.

    What is read from then on is what they hold: of a disk that something else keeps open, the
    kernel may remember what it was before its partition was written. Raises SourceUnfit if the
    kernel will not refuse writes. Afterwards the disk is as writable as it was.
    """
    disk = Path(drive.path)
    nodes = [
        node
        for path in (disk, *other_paths(disk, drive.paths))
        if block.is_block_device(path)
        for node in (path, *block.partition_nodes(path))
    ]
    writable = [node for node in nodes if not block.is_read_only(node)]
    if not all(block.set_read_only(node, True) for node in nodes):
        raise SourceUnfit((f"the kernel will not write-protect {drive.path}",))
    try:
        for node in nodes:
            block.flush(node)
        yield
    finally:
        for node in writable:
            block.set_read_only(node, False)


@contextmanager
def _opened_plan(run: Runner, inventory: Inventory, spec: CaptureSpec) -> Iterator[CapturePlan]:
    """Yield the plan; the devices that it names are there until the end, all of them read-only."""
    drives = source_disks(spec, inventory.disks)
    with ExitStack() as stack:
        for drive in drives.values():
            stack.enter_context(write_protected(drive))
        found = stack.enter_context(opened_system(run, drives, inventory.arch, spec.keys))
        seen = survey(run, found)
        if not spec.keep_identity:
            found = stack.enter_context(left_out(run, found, seen))
        yield plan_capture(inventory, found, seen, spec, tuple(drives.values()))


def _used(run: Runner, plan: CapturePlan, volume: CaptureVolume) -> UsedMap:
    content = plan.layout.volume(volume.volume).content
    return used_map(
        run,
        Path(volume.path),
        content,
        volume.size_bytes,
        others=[Path(path) for path in volume.others],
        covered=volume.covered,
    )


def _source(plan: CapturePlan, volume: CaptureVolume, used: UsedMap) -> VolumeSource:
    ids = [disk.id for disk in plan.layout.disks]
    on_disk = volume.place.node in ids and not volume.covered
    disk = plan.sources[ids.index(volume.place.node)] if on_disk else None
    return VolumeSource(
        volume=plan.layout.volume(volume.volume),
        device=Path(disk.path if disk else volume.path),
        offset_bytes=0 if volume.covered else volume.place.offset_bytes,
        used=used.extents,
        blank=tuple(Extent(offset, size) for offset, size in volume.redacted),
        serial=disk.serial if disk else None,
        zeros=used.zeros,
    )
