"""What a copy to another layout keeps, says and finds out, with a system that makes it hard."""

import os
from pathlib import Path
from typing import Any

import pytest

import agent.reshape
from agent.apply import Done
from agent.errors import StepFailed
from agent.model.event import Happening, Logged, Progressed
from agent.model.job import DeploySpec, Identity, Verify
from agent.model.layout import Btrfs
from agent.model.plan import Plan
from agent.model.storage import Shape
from agent.store.template import Template
from agent.system.mount import Part, mounted_system
from agent.tools import copy_files
from agent.tools.copy_files import Copied
from tests.guest import layouts
from tests.guest.conftest import sh
from tests.guest.whole_way import KEYS, bench, captured, deployed, on_targets
from tests.guest.workbench import RUN, Bench, drive_of

__all__ = ["bench"]
ETC = b"system_u:object_r:etc_t:s0\0"
LOCKED = ("etc/hostname", "etc/fstab", "boot/grub/grub.cfg", "known/f1")


def flags_of(path: Path) -> set[str]:
    return set(sh("lsattr", "-d", path).split(" ")[0]) - set("-eI")


def make_hard(where: Path) -> None:
    """chattr's flags on what a deployment changes; SELinux."""
    (where / "etc/selinux").mkdir()
    (where / "etc/selinux/config").write_text("SELINUX=enforcing\n")
    (where / "usr/sbin/fixfiles").touch()
    for name in ("etc", "etc/hostname"):
        os.setxattr(where / name, "security.selinux", ETC)
    sh("chattr", "+i", *(where / name for name in LOCKED))
    sh("chattr", "+a", where / "etc")


def deploy_to_one(
    template: Template, disk: Path, where: Path, heard: list[Happening], verify: Verify
) -> tuple[Plan, Done]:
    drives = {"disk0": drive_of(disk)}
    spec = DeploySpec(
        template="demo:latest",
        layout=Shape.SINGLE,
        verify=verify,
        keys=KEYS,
        identity=Identity(hostname="web1"),
    )
    return deployed(template, drives, spec, where, heard.append)


def test_flags_labels_and_contents(bench: Bench, tmp_path: Path) -> None:
    where = tmp_path / "mnt"
    with captured(bench, layouts.gpt()(bench), where, make_hard) as taken:
        disk = bench.disk(300)
        heard: list[Happening] = []
        plan, done = deploy_to_one(taken.template, disk, where, heard, Verify.FULL)
    bench.stop()
    assert on_targets(plan, {"disk0": drive_of(disk)}, where) == taken.tree
    assert done.read_back_bytes > 1_000_000
    assert any(isinstance(one, Progressed) and one.progress.what == "read back /" for one in heard)
    said = "\n".join(one.message for one in heard if isinstance(one, Logged))
    assert "/etc/hostname (+i)" in said
    assert "/boot/grub/grub.cfg (+i)" in said
    assert "/etc (+a)" in said
    root = next(volume for volume in plan.layout.volumes if volume.mount == "/")
    (part,) = [node for node in plan.layout.partitions("disk0") if node.id == root.on]
    with mounted_system(RUN, where, [Part(Path(f"{disk}p{part.number}"), "/")], "rw"):
        assert (where / "etc/hostname").read_text() == "web1\n"
        assert [flags_of(where / name) for name in LOCKED] == [{"i"}] * len(LOCKED)
        assert flags_of(where / "etc") == {"a"}
        assert (where / "boot/grub/grub.cfg").read_text() == (where / "etc/fstab").read_text()
        assert (where / ".autorelabel").exists()
        assert os.getxattr(where / "etc/hostname", "security.selinux") == ETC


@pytest.mark.parametrize(
    "verify", [pytest.param(Verify.FULL, marks=pytest.mark.full), Verify.SAMPLE]
)
def test_a_copy_that_went_bad_is_named(
    verify: Verify, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = tmp_path / "mnt"
    copy_tree = copy_files.copy_tree
    name = "known/f1" if verify is Verify.FULL else "boot/grub/grub.cfg"

    def spoilt(run: Any, source: Path, target: Path, *more: Any, **named: Any) -> Copied:
        copied = copy_tree(run, source, target, *more, **named)
        with (target / name).open("r+b") as file:
            file.seek(0)
            file.write(b"!")
        return copied

    def grub(where: Path) -> None:
        (where / "boot/grub/grub.cfg").write_text("menu\n")

    monkeypatch.setattr(agent.reshape, "copy_tree", spoilt)
    with (
        captured(bench, layouts.gpt()(bench), where, grub) as taken,
        pytest.raises(StepFailed) as failed,
    ):
        deploy_to_one(taken.template, bench.disk(300), where, [], verify)
    assert "read back" in str(failed.value)
    assert f"{name} does not come back as it was copied" in str(failed.value.__cause__)


def test_subvolumes_that_nobody_mounts_are_said(bench: Bench, tmp_path: Path) -> None:
    where = tmp_path / "mnt"

    def snapshots(where: Path) -> None:
        (where / "var/lib").mkdir(parents=True)
        sh("btrfs", "subvolume", "create", where / "var/lib/machines")
        sh("btrfs", "subvolume", "snapshot", "-r", where / "srv", where / "srv/.snap")

    with captured(bench, layouts.btrfs_subvolumes(bench), where, snapshots) as taken:
        (content,) = [
            volume.content
            for volume in taken.template.config.layout.volumes
            if isinstance(volume.content, Btrfs)
        ]
        assert content.unmounted == ("@rootfs/var/lib/machines", "@srv/.snap")
        plan, _ = deploy_to_one(taken.template, bench.disk(350), where, [], Verify.SAMPLE)
    for path in content.unmounted:
        line = f"the subvolume {path} of root is not mounted by fstab and left behind"
        assert line in plan.notes
