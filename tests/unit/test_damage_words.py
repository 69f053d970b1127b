"""A damaged template is told of wherever it appears, and goes nowhere without consent."""

from argparse import Namespace

import msgspec
import pytest

from agent.bootargs import parse_bootargs
from agent.cli import parser
from agent.errors import PlanRefused
from agent.flows.by_hand import receipt
from agent.model.job import CaptureSpec
from agent.model.result import result_line
from agent.model.template import Hole
from agent.planning.capture import plan_capture
from agent.planning.damage import damage_facts, damage_lines
from agent.planning.deploy import plan_deploy
from agent.planning.review import render_capture, render_plan
from agent.units import KiB
from netboot.cli.jobs import make_spec as make_spec_of_job
from tests.unit.make_plan import JOB, make_drive, make_inventory, make_spec, make_template
from tests.unit.test_plan_capture import make_found, make_survey

HOLES = (
    Hole(volume="root", offset=40960, size=4 * KiB),
    Hole(volume="boot", offset=512, size=512),
    *(Hole(volume="root", offset=81920 + n * 8192, size=512) for n in range(5)),
)


def test_each_volume_has_a_line_and_a_long_list_is_cut() -> None:
    assert list(damage_lines(HOLES)) == [
        "boot: 512 B in 1 run could not be read on the source and are zeros, at 512",
        "root: 6.5 KiB in 6 runs could not be read on the source and are zeros, "
        "at 40960, 81920, 90112, 98304 and 2 more",
    ]
    assert list(damage_lines(())) == []


def test_results_say_it_in_lines_and_in_bytes() -> None:
    facts = damage_facts(HOLES)
    assert facts == {"damage": list(damage_lines(HOLES)), "lost_bytes": 4 * KiB + 6 * 512}
    assert result_line(facts) == "7.0 KiB unreadable"
    assert damage_facts(()) == {"damage": [], "lost_bytes": 0}


def test_a_deploy_needs_consent_and_its_page_says_what_is_lost() -> None:
    drive, template = make_drive(), make_template(holes=HOLES)
    inventory = make_inventory(drive)
    with pytest.raises(PlanRefused) as caught:
        plan_deploy(inventory, template, make_spec(consent=("LVM2_member",)), {"disk0": drive}, JOB)
    assert len(caught.value.objections) == 2, "one for each volume"
    plan = plan_deploy(inventory, template, make_spec(consent=("damage",)), {"disk0": drive}, JOB)
    page = render_plan(plan)
    for line in damage_lines(HOLES):
        assert f"the template is damaged, by consent: {line}" in page
    sound = plan_deploy(
        inventory, make_template(), make_spec(consent=("damage",)), {"disk0": drive}, JOB
    )
    assert "damage" not in render_plan(sound)


def test_a_capture_that_may_lose_something_says_so_beforehand() -> None:
    drive = make_drive()
    pages = [
        render_capture(
            plan_capture(
                make_inventory(drive),
                make_found(),
                make_survey(),
                CaptureSpec(name="demo", damaged=damaged),
                (drive,),
            )
        )
        for damaged in (False, True)
    ]
    assert ["cannot be read on the disk is stored as zeros" in page for page in pages] == [
        False,
        True,
    ]


def test_the_receipt_and_the_line_of_a_result_name_it() -> None:
    result = {
        "name": "web",
        "digest": "sha256:" + "ab" * 32,
        "disk": "SN-1",
        "raw_bytes": 10**9,
        "used_bytes": 10**6,
        "stored_bytes": 10**5,
        "lost_bytes": 6656,
        "seconds": 3,
        "left_out": [],
        "damage": list(damage_lines(HOLES)),
    }
    assert "DAMAGED    root: 6.5 KiB in 6 runs" in receipt(result)
    assert "DAMAGED" not in receipt({**result, "damage": []})
    assert "6.5 KiB unreadable" in str(result_line(result))
    assert "unreadable" not in str(result_line({**result, "lost_bytes": 0}))


def test_consent_is_never_the_default() -> None:
    assert not CaptureSpec(name="demo").damaged
    words = ["capture", "--server", "http://h", "--name", "demo"]
    assert parser().parse_args(words).accept_damage is False
    assert parser().parse_args([*words, "--accept-damage"]).accept_damage is True
    assert msgspec.json.decode(b'{"kind":"capture","name":"demo"}', type=CaptureSpec).damaged is (
        False
    )
    assert parse_bootargs("metalcast.accept_damage=yes").accept_damage
    assert not parse_bootargs("").accept_damage
    asked = Namespace(kind="capture", name="demo", damaged=None)
    assert make_spec_of_job(asked) == CaptureSpec(name="demo")
    asked.damaged = True
    assert make_spec_of_job(asked) == CaptureSpec(name="demo", damaged=True)
