"""What every flow is given: the door to programs, what the machine is, and who listens."""

import resource
from collections.abc import Callable
from dataclasses import dataclass

from agent.errors import ServerError
from agent.model.inventory import Inventory
from agent.report import Report
from agent.store.layout import LayoutFolder
from agent.store.registry import RegistryClient
from agent.store.source import BlobSource
from agent.store.target import FolderTarget, RegistryTarget, Target
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
    def target(self) -> Target:
        """Where a capture writes. Raises ServerError if nothing can be written there."""
        if isinstance(self.source, LayoutFolder):
            return FolderTarget(self.source)
        if isinstance(self.source, RegistryClient):
            return RegistryTarget(self.source)
        raise ServerError(f"{self.source.url} is no registry: nothing can be pushed there")


def peak_memory_bytes() -> int:
    """Return the most memory that this process has had at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KiB
