"""From a template to a disk: choose, plan, show, apply."""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from agent.apply import Host, apply
from agent.commit import COMMITTED, read_record
from agent.errors import DiskError
from agent.flows.hwraid import prepare_hardware_raid
from agent.flows.network import network_files
from agent.flows.workplace import Workplace, peak_memory_bytes
from agent.model.event import Level, Logged, PlanMade
from agent.model.inventory import Drive
from agent.model.job import DeploySpec, Verify
from agent.model.keys import DiskKey, keys_for
from agent.model.layout import Layout
from agent.model.nodes import Luks
from agent.model.plan import Plan
from agent.planning.damage import damage_facts
from agent.planning.deploy import plan_deploy
from agent.planning.review import render_plan
from agent.planning.targets import target_disks
from agent.probe import probe_drives
from agent.report import Report
from agent.store.template import Template, check_complete, open_template
from agent.stream.progress import slowest
from agent.stream.restore import Restored, restore_volume, volume_bytes
from agent.stream.verify import Verified, verify_volume
from agent.stream.view import volume_device
from agent.system.command import Runner
from agent.trust.claims import template_name
from agent.trust.templates import TrustedTemplate, require_signature
from agent.units import Extent

NO_JOB = "j-000000000000"
"""Stands for a deployment that a person started by hand."""


@dataclass(slots=True)
class TemplateSource:
    """The stream engine as `apply` wants it, with a sum of what it did."""

    run: Runner
    template: Template
    serials: Mapping[Path, str | None]
    """Of the disks; for messages."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Of each stage of what was restored and read back, summed over its threads."""
    seconds_each: dict[str, float] = field(default_factory=dict)
    """The same by thread: the largest is what the deployment waited for."""
    fetched_bytes: int = 0
    written_bytes: int = 0
    kept_bytes: int = 0
    read_back_bytes: int = 0

    def restore(
        self,
        volume: str,
        device: Path,
        offset_bytes: int,
        withhold: Sequence[Extent],
        report: Report,
    ) -> Mapping[Extent, bytes]:
        done = restore_volume(
            self.template,
            volume,
            device,
            offset_bytes,
            withhold=withhold,
            report=report,
            serial=self.serials.get(device),
        )
        self.fetched_bytes += done.bytes_fetched
        self.written_bytes += done.bytes_written
        self.kept_bytes += done.bytes_kept
        self._took(done)
        return done.withheld

    def verify(
        self,
        volume: str,
        device: Path,
        offset_bytes: int,
        mode: Verify,
        skip: Sequence[Extent],
        report: Report,
    ) -> None:
        done = verify_volume(
            self.template,
            volume,
            device,
            offset_bytes,
            mode,
            skip=skip,
            report=report,
            serial=self.serials.get(device),
        )
        self.read_back_bytes += done.bytes_checked
        self._took(done)

    def small(self, volume: str, max_bytes: int) -> bytes:
        return volume_bytes(self.template, volume, max_bytes)

    @contextmanager
    def view(self, volume: str) -> Iterator[Path]:
        sector = sector_of(self.template.config.layout, volume)
        with volume_device(self.run, self.template, volume, sector) as (view, device):
            yield device
            self.fetched_bytes += view.statistics.bytes_fetched

    def _took(self, done: Restored | Verified) -> None:
        for sums, seconds in (
            (self.seconds, done.stage_seconds),
            (self.seconds_each, done.seconds_each),
        ):
            for stage, took in seconds.items():
                sums[stage] = sums.get(stage, 0.0) + took


def make_plan(
    place: Workplace, spec: DeploySpec, reference: str, job: str
) -> tuple[Plan, Template, TrustedTemplate]:
    """Verify the template's signature and all but its packs, choose the disks, decide.

    Nothing is written.

    Raises PlanRefused with every objection, TrustError, TemplateError, ServerError.
    """
    trusted = trust_template(place, spec.template, reference)
    template = open_template(place.source, trusted.digest)
    check_complete(template)
    drives = target_disks(spec, template.config, place.inventory.disks)
    plan = plan_deploy(place.inventory, template.config, spec, drives, job)
    return plan, template, trusted


def trust_template(place: Workplace, template: str, reference: str) -> TrustedTemplate:
    """Return the manifest that may be deployed as `template`. Raises TrustError."""
    digest = reference
    if not reference.startswith("sha256:"):
        digest = place.source.manifest(reference)[1]
    keys = place.keyring.templates
    return require_signature(place.source, digest, template_name(template), keys)


def render_page(plan: Plan, trusted: TrustedTemplate) -> str:
    """Return the plan as a page, with who vouches for the template."""
    return f"{render_plan(plan).rstrip()}\n\nSignature  {trusted.line}\n"


def deploy(place: Workplace, spec: DeploySpec, reference: str, job: str) -> dict[str, Any]:
    """Put the template that `reference` (a digest) names on the disks that `spec` asks for.

    The plan is reported, and taken by the server, before the first write. Returns the result for
    the job's record. Raises StepFailed, which says how the disk was left, and PlanRefused.
    """
    began = time.monotonic()
    if finished := find_finished(place.inventory.disks, job):
        text = f"{finished.path} holds this job's deployment, complete: nothing is written again"
        place.report(Logged(level=Level.WARNING, message=text))
        return {"disk": finished.identity, "template": reference, "found_complete": True}
    if spec.hardware_raid is not None:
        trust_template(place, spec.template, reference)  # before anything is changed
        place, spec = with_volumes(place, spec)
    plan, template, trusted = make_plan(place, spec, reference, job)
    place.report(PlanMade(text=render_page(plan, trusted), digest=plan.digest))
    serials = {Path(disk.target.path): disk.target.serial for disk in plan.disks}
    source = TemplateSource(place.run, template, serials)
    host = Host(
        run=place.run,
        source=source,
        look=lambda path: look_again(place.run, path),
        inventory=place.inventory,
        network=lambda step: network_files(step, place.inventory.nics),
        confirm_claim=place.confirm_claim,
        keys=luks_keys(plan.layout, spec.keys),
    )
    done = apply(plan, host, place.report)
    return {
        "template": template.digest,
        "signed_by": trusted.signed.key if trusted.signed else None,
        "disk": ", ".join(disk.target.identity for disk in plan.disks),
        "plan": plan.digest,
        "fetched_bytes": source.fetched_bytes,
        "written_bytes": source.written_bytes,
        "kept_bytes": source.kept_bytes,
        "read_back_bytes": source.read_back_bytes + done.read_back_bytes,
        "stage_seconds": {stage: round(took, 2) for stage, took in source.seconds.items()},
        "bottleneck": slowest(source.seconds_each),
        "personal_files": sorted({touched.path for touched in done.touched}),
        "warnings": done.warnings,
        **damage_facts(template.config.holes),
        "seconds": round(time.monotonic() - began, 1),
        "peak_memory_bytes": peak_memory_bytes(),
    }


def with_volumes(place: Workplace, spec: DeploySpec) -> tuple[Workplace, DeploySpec]:
    """Make the volumes of RAID controllers; return place and job with the disks that they are."""
    prepared = prepare_hardware_raid(
        place.run, spec, place.inventory.disks, place.report, place.confirm_claim
    )
    inventory = msgspec.structs.replace(place.inventory, disks=prepared.disks)
    disks = {**(spec.disks or {}), **prepared.roles} or None
    return (
        dataclasses.replace(place, inventory=inventory),
        msgspec.structs.replace(spec, disks=disks),
    )


def sector_of(layout: Layout, volume_id: str) -> int:
    """Return the sector of the device that a volume was captured from: its filesystem may care."""
    disks = layout.disks_of(layout.volume(volume_id).on)
    return max(disk.sector_bytes for disk in disks)


def luks_keys(layout: Layout, keys: Sequence[DiskKey]) -> dict[str, bytes]:
    """Return the key of each LUKS node; those without one are refused when the plan is made."""
    found: dict[str, bytes] = {}
    for node in layout.nodes:
        if isinstance(node, Luks) and (fitting := keys_for(keys, uuid=node.uuid, node=node.id)):
            found[node.id] = fitting[0].secret()
    return found


def find_finished(drives: Sequence[Drive], job: str) -> Drive | None:
    """Return the disk that this very job has already been carried out on, to its end.

    The power may fail between the commit and the report; the machine then boots the agent again.
    """
    for drive in drives:
        record = read_record(Path(drive.path))
        if job != NO_JOB and record and (record.job, record.state) == (job, COMMITTED):
            return drive
    return None


def look_again(run: Runner, path: str) -> Drive:
    """Return what the disk at `path` is now. Raises DiskError if it is gone."""
    for drive in probe_drives(run):
        if drive.path == path:
            return drive
    raise DiskError(f"{path} is gone", hint="is the drive still plugged in?")
