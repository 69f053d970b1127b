"""Which drive becomes which disk of the template's layout. Pure."""

from collections.abc import Sequence

from agent.model.inventory import Drive
from agent.model.job import DeploySpec
from agent.model.layout import Layout
from agent.planning.hints import pick_disk


def target_disks(spec: DeploySpec, layout: Layout, drives: Sequence[Drive]) -> dict[str, Drive]:
    """Return a drive for each disk of `layout`. Raises PlanRefused."""
    ids = [disk.id for disk in layout.disks]
    return {ids[0]: pick_disk(spec.disk, drives)}
