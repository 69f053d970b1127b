"""What every flow is given: the door to programs, what the machine is, and who listens."""

import resource
from collections.abc import Callable
from dataclasses import dataclass

from agent.model.inventory import Inventory
from agent.report import Report
from agent.store.registry import RegistryClient
from agent.system.command import Runner
from agent.units import KiB


@dataclass(frozen=True, slots=True)
class Workplace:
    run: Runner
    inventory: Inventory
    report: Report
    registry: RegistryClient
    """The one repository that this job reads or writes."""
    confirm_claim: Callable[[], None] = lambda: None
    """Raises ClaimRefused unless the job is still ours."""
    boot_mac: str | None = None


def peak_memory_bytes() -> int:
    """Return the most memory that this process has had at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KiB
