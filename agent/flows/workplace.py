"""What every flow is given: the door to programs, what the machine is, and who listens."""

import resource
from collections.abc import Callable
from dataclasses import dataclass

from agent.errors import ServerError
from agent.model.inventory import Inventory
from agent.report import Report
from agent.store.registry import RegistryClient
from agent.store.source import BlobSource
from agent.system.command import Runner
from agent.trust.keyring import Keyring
from agent.units import KiB


@dataclass(frozen=True, slots=True)
class Workplace:
    run: Runner
    inventory: Inventory
    report: Report
    source: BlobSource
    """What this job reads its template from; a capture writes there."""
    keyring: Keyring
    """Who may vouch for a template."""
    confirm_claim: Callable[[], None] = lambda: None
    """Raises ClaimRefused unless the job is still ours."""
    boot_mac: str | None = None

    @property
    def registry(self) -> RegistryClient:
        """The one repository that a capture writes to. Raises ServerError if it is none."""
        if not isinstance(self.source, RegistryClient):
            raise ServerError(f"{self.source.url} is no registry: nothing can be pushed there")
        return self.source


def peak_memory_bytes() -> int:
    """Return the most memory that this process has had at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KiB
