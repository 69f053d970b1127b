"""A system captured and deployed inside a guest, by the real flow and the real executor."""

import hashlib
import os
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from agent.apply import Done, Host, apply
from agent.flows.capture import capture
from agent.flows.deploy import TemplateSource, luks_keys
from agent.flows.workplace import Workplace
from agent.model.filesystems import fstype_of
from agent.model.inventory import Drive
from agent.model.job import CaptureSpec, DeploySpec, DiskHints
from agent.model.keys import DiskKey
from agent.model.plan import Plan
from agent.planning.deploy import plan_deploy
from agent.report import Report, silent
from agent.source.open import opened_system
from agent.store.body import Limits
from agent.store.template import Template, open_template
from agent.system.mount import SOURCE_OPTIONS, Part, mounted_system
from agent.trust.keyring import Keyring
from tests.contracts.fake_registry import FakeRegistry
from tests.contracts.stream_builders import make_client
from tests.guest import workbench
from tests.guest.conftest import sh
from tests.guest.workbench import RUN, Bench, Source, drive_of, fill, mounted_all
from tests.unit.make_plan import make_inventory

KEYS = (DiskKey(passphrase=workbench.KEY),)
PATIENT = Limits(connect_s=20, read_s=60, window_s=60)


def shortened(cases: Iterable[str], short: Container[str]) -> list[ParameterSet]:
    return [pytest.param(case, marks=[] if case in short else pytest.mark.full) for case in cases]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    folder = tmp_path / "disks"
    folder.mkdir()
    made = Bench(folder)
    yield made
    made.close()


@dataclass(frozen=True)
class Captured:
    template: Template
    tree: dict[str, str]


@contextmanager
def captured(
    bench: Bench,
    source: Source,
    where: Path,
    change: Callable[[Path], None] = lambda _where: None,
) -> Iterator[Captured]:
    """Yield a template of `source`, filled; its disks must stay as they are to the last byte.

    `change` is called with the mounted system.
    """
    fill(source, where)
    with mounted_all(source.mounts, where):
        change(where)
    tree = known_files(source_parts(source), where)
    bench.stop()
    before = [digest(disk) for disk in source.disks]
    drives = [drive_of(disk) for disk in source.disks]
    sh("ip", "link", "set", "lo", "up")
    registry = FakeRegistry()
    with registry.serving() as url:
        client = make_client(url, limits=PATIENT)
        place = Workplace(RUN, make_inventory(*drives), silent, client, Keyring())
        spec = CaptureSpec(
            name="demo",
            disks=tuple(DiskHints(name=drive.path) for drive in drives),
            keys=KEYS,
        )
        result = capture(place, spec)
        assert [digest(disk) for disk in source.disks] == before
        yield Captured(open_template(client, result["digest"]), tree)
        client.close()


def source_parts(source: Source) -> list[Part]:
    parts = []
    for mount in source.mounts:
        words = [word.partition("=") for word in mount.options.split(",")]
        subvolume = next((value for name, _, value in words if name == "subvol"), None)
        further = tuple(Path(value) for name, _, value in words if name == "device")
        parts.append(Part(Path(mount.device), mount.where, mount.fstype, subvolume, further))
    return parts


def known_files(parts: list[Part], where: Path) -> dict[str, str]:
    """Return path → facts of all files whose bytes are known, read by the kernel."""
    found: dict[str, str] = {}
    with mounted_system(RUN, where, parts, SOURCE_OPTIONS):
        for top in sorted(where.glob("**/known")):
            for path in sorted(top.rglob("*")):
                state = path.lstat()
                name = str(path.relative_to(where))
                data = hashlib.sha256(path.read_bytes()).hexdigest()
                found[name] = f"{state.st_mode:o} {state.st_uid} {state.st_mtime_ns} {data}"
    return found


def digest(disk: Path) -> str:
    """Return a digest of what the file behind a loop device holds, and of where it holds it."""
    sh("sync", disk)
    file = Path(sh("losetup", "--noheadings", "--output=BACK-FILE", disk).strip())
    said = hashlib.blake2b()
    with file.open("rb") as opened:
        at = 0
        while True:
            try:
                at = os.lseek(opened.fileno(), at, os.SEEK_DATA)
            except OSError:
                return said.hexdigest()
            end = os.lseek(opened.fileno(), at, os.SEEK_HOLE)
            opened.seek(at)
            data = opened.read(end - at)
            if any(data):
                said.update(f"{at} {end}".encode() + data)
            at = end


def deployed(
    template: Template,
    drives: dict[str, Drive],
    spec: DeploySpec,
    where: Path,
    report: Report = silent,
) -> tuple[Plan, Done]:
    inventory = make_inventory(*drives.values(), imsm=True)
    plan = plan_deploy(inventory, template.config, spec, drives)
    host = Host(
        run=RUN,
        source=TemplateSource(RUN, template, {}),
        look=lambda path: drive_of(Path(path)),
        inventory=inventory,
        mount_dir=where,
        efivars=where / "none",
        keys=luks_keys(plan.layout, spec.keys),
    )
    return plan, apply(plan, host, report)


def on_targets(plan: Plan, drives: dict[str, Drive], where: Path) -> dict[str, str]:
    """Return the known files as they are on the target, found there anew."""
    with opened_system(RUN, drives, keys=KEYS) as found:
        assert not found.unfit
        assert not [one.unfit for one in found.contents if one.unfit]
        contents = {one.on: one for one in found.contents}
        uuids = {getattr(one.content, "uuid", None): one for one in found.contents}
        parts = []
        for volume in plan.layout.volumes:
            content = volume.content
            one = contents.get(volume.on) or uuids.get(getattr(content, "uuid", ""))
            if one is None or one.content is None:
                continue
            places = [(volume.mount, None)] if volume.mount else []
            places += [(sub.mount, sub.path) for sub in getattr(content, "subvolumes", ())]
            for place, subvolume in places:
                further = tuple(Path(path) for path in one.others)
                kind = fstype_of(content)
                parts.append(Part(Path(one.path), place or "/", kind, subvolume, further))
        parts.sort(key=lambda part: part.where)
        return known_files(parts, where)
