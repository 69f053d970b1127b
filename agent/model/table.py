"""A partition table as it will be written."""

from typing import Annotated

import msgspec

from agent.model.nodes import (
    MBR_EXTENDED_TYPES,
    Bytes,
    PartitionType,
    PartitionUuid,
    SectorBytes,
    Table,
)
from agent.model.wire import Value
from agent.units import Extent


class PlannedPartition(Value, frozen=True, kw_only=True):
    """One partition as it will be written."""

    number: Annotated[int, msgspec.Meta(ge=1, le=128)]
    offset_bytes: Bytes
    size_bytes: Annotated[int, msgspec.Meta(gt=0, le=2**63 - 1)]
    type: PartitionType
    uuid: PartitionUuid
    name: Annotated[str, msgspec.Meta(max_length=36)] = ""
    attributes: tuple[str, ...] = ()

    @property
    def extent(self) -> Extent:
        return Extent(self.offset_bytes, self.size_bytes)

    @property
    def is_extended(self) -> bool:
        """It holds no data of its own, but the logical partitions of an MBR."""
        return self.type in MBR_EXTENDED_TYPES


class PlannedTable(Value, frozen=True, kw_only=True):
    """A partition table, GPT or MBR, with all of its partitions."""

    table: Table
    sector_bytes: SectorBytes
    partitions: tuple[PlannedPartition, ...]

    def partition(self, number: int) -> PlannedPartition:
        return next(part for part in self.partitions if part.number == number)
