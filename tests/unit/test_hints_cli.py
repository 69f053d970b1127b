"""Hints for several disks, as options of `metalcast job create`."""

from pathlib import Path

import pytest

from agent.errors import UsageError
from agent.model.job import CaptureSpec, DeploySpec, DiskHints, JobSpec
from agent.model.wipe import WipeMethod
from agent.model.wire import BadDocument
from netboot.cli.jobs import make_spec
from netboot.cli.words import make_parser

MAC = "52-54-00-12-34-56"


def spec_of(kind: str, *words: str) -> JobSpec:
    parser = make_parser(with_images=False)
    return make_spec(parser.parse_args(["job", "create", kind, "--machine", MAC, *words]))


def test_each_role_of_a_deployment_has_its_hints() -> None:
    spec = spec_of(
        "deploy",
        *("--template", "demo", "--disk", "disk1:serial=X=1"),
        *("--disk", "disk0:by-path=pci-0", "--disk", "disk0:rotational=no"),
    )
    assert isinstance(spec, DeploySpec)
    assert spec.disks == {
        "disk0": DiskHints(by_path="pci-0", rotational=False),
        "disk1": DiskHints(serial="X=1"),
    }


def test_the_disks_of_a_capture_come_in_the_order_of_their_roles() -> None:
    spec = spec_of("capture", "--name", "a", "--disk", "disk1:serial=B", "--disk", "disk0:serial=A")
    assert isinstance(spec, CaptureSpec)
    assert spec.disks == (DiskHints(serial="A"), DiskHints(serial="B"))


def test_a_capture_may_be_asked_to_keep_identity() -> None:
    kept = [spec_of("capture", "--name", "a", *words) for words in ((), ("--keep-identity",))]
    assert [isinstance(one, CaptureSpec) and one.keep_identity for one in kept] == [False, True]


def test_a_capture_is_described_by_a_file_and_options_win(tmp_path: Path) -> None:
    file = tmp_path / "capture.yaml"
    file.write_text("name: a\nlevel: 7\ndisks:\n- serial: B\n- serial: A\n")
    spec = spec_of("capture", "--spec", str(file), "--level", "5")
    assert isinstance(spec, CaptureSpec)
    assert (spec.name, spec.level) == ("a", 5)
    assert spec.disks == (DiskHints(serial="B"), DiskHints(serial="A"))
    with pytest.raises(UsageError, match="--name NAME"):
        spec_of("capture")
    file.write_text("kind: wipe\nall_fixed: true\n")
    with pytest.raises(UsageError, match="is for 'wipe', not capture"):
        spec_of("capture", "--spec", str(file))


def test_several_disks_are_wiped_by_name() -> None:
    words = ("--disk", "disk0:serial=A", "--disk", "disk1:serial=B")
    spec = spec_of("wipe", "--method", WipeMethod.ZERO.value, *words)
    assert [hints.serial for hints in spec.disks] == ["A", "B"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--disk", "disk1"), "cannot be read"),
        (("--disk", "disk1:colour=red"), "cannot be read"),
        (("--disk", "disk1:serial="), "cannot be read"),
        (("--disk", "d:serial=A", "--disk", "d:serial=B"), "given twice"),
        (("--disk", "disk1:serial=A", "--disk-name", "sda"), "do not go together"),
    ],
)
def test_what_cannot_be_meant_is_an_error(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        spec_of("deploy", "--template", "demo", *words)


def test_the_roles_of_a_capture_have_no_gap() -> None:
    with pytest.raises(UsageError, match="2 disks are disk0, disk1"):
        spec_of("capture", "--name", "a", "--disk", "disk0:serial=A", "--disk", "disk2:serial=B")


def test_a_turning_hint_that_is_no_yes_or_no() -> None:
    with pytest.raises(BadDocument, match="rotational"):
        spec_of("deploy", "--template", "demo", "--disk", "disk0:rotational=often")
