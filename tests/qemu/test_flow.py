"""One working server becomes two: the demo's flow, each of its proofs a test, on both firmwares."""

from collections.abc import Callable
from typing import get_args

import pytest

from tests.harness.machine import Firmware
from tests.harness.proofs import PROOFS
from tests.qemu.conftest import Flown

pytestmark = pytest.mark.qemu


@pytest.mark.parametrize("name", PROOFS)
@pytest.mark.parametrize("firmware", get_args(Firmware))
def test_the_flow_proves(firmware: Firmware, name: str, flown: Callable[[Firmware], Flown]) -> None:
    result = flown(firmware)
    found = [proof for proof in result.flow.proofs if proof.name == name]
    if not found:
        raise AssertionError(f"not reached: {PROOFS[name]}") from result.stopped
    assert found[0].holds, f"{PROOFS[name]}: {found[0].seen}"


@pytest.mark.parametrize("firmware", get_args(Firmware))
def test_the_flow_ends(firmware: Firmware, flown: Callable[[Firmware], Flown]) -> None:
    if stopped := flown(firmware).stopped:
        raise stopped
