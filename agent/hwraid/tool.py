"""What a vendor's tool must be able to do. Each implementation is one file beside this one."""

from typing import Protocol

from agent.model.hwraid import Initialization, NewVolume, RaidCard


class RaidTool(Protocol):
    """Controllers of one family, by their vendor's program. All raise CommandFailed."""

    def cards(self) -> tuple[RaidCard, ...]:
        """Return every controller with its drives and volumes; none if there is none."""

    def delete(self, controller: int, volume: int) -> None:
        """Delete a volume, whatever is on it. Its drives are free afterwards."""

    def create(self, controller: int, volume: NewVolume) -> None:
        """Make a volume. Its number is what `cards` says afterwards."""

    def initialize(self, controller: int, volume: int, kind: Initialization) -> None:
        """Begin to fill a volume with zeros; all of it, or both ends."""

    def progress(self, controller: int, volume: int) -> int | None:
        """Return how many percent are initialized; None if nothing is in progress."""
