"""Every order in which a disk may take its writes: what boots is complete."""

import shutil
from pathlib import Path

import pytest

from agent.apply import apply
from agent.model.plan import Plan
from tests.harness.disks import make_dirty_disk
from tests.harness.powercut import recorded, states
from tests.loop.oracle import boots_from
from tests.loop.small import BLOCK, BOOT_CODE, TARGET_BYTES, small

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("needs_daemon")]


def blocks_of(plan: Plan, final: Path, number: int) -> list[tuple[int, bytes]]:
    """Return the blocks of a finished partition that hold anything."""
    part = plan.table.partition(number)
    with final.open("rb") as file:
        file.seek(part.offset_bytes)
        data = file.read(part.size_bytes)
    pieces = [(at, data[at : at + BLOCK]) for at in range(0, len(data), BLOCK)]
    return [(part.offset_bytes + at, piece) for at, piece in pieces if any(piece)]


def test_no_power_cut_leaves_a_disk_that_boots_and_is_not_complete(tmp_path: Path) -> None:
    base = make_dirty_disk(tmp_path / "base.img", TARGET_BYTES)
    with small(tmp_path, base) as it:
        apply(it.plan, it.host)  # a whole old system, that boots until the first flush
        old = [*blocks_of(it.plan, base, 2), *blocks_of(it.plan, base, 3)]
    before = tmp_path / "before.img"
    shutil.copyfile(base, before)
    log, node = tmp_path / "log.img", tmp_path / "disk.img"
    with recorded(base, log, node), small(tmp_path, node) as it:
        plan = it.plan
        apply(plan, it.host)
        it.loops.close()
    new = [*blocks_of(plan, base, 2), *blocks_of(plan, base, 3)]
    assert len(new) > 50
    seen: dict[str, int] = {}
    for state in states(before, log):
        modes = boots_from(state.read, state.size_bytes)
        key = "+".join(sorted(modes)) or "nothing"
        seen[key] = seen.get(key, 0) + 1
        if not modes:
            continue
        wanted = old if state.epoch == 0 else new
        wrong = [at for at, piece in wanted if state.read(at, len(piece)) != piece]
        assert not wrong, f"{state.name} boots by {key}, but differs at {wrong[:3]}"
        if "bios" in modes:
            assert state.read(0, 440) == BOOT_CODE
    assert seen["nothing"] > 50, seen
    assert seen["bios+uefi"] > 1, seen
    assert seen["uefi"] > 1, seen
