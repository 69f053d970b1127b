"""Which drive becomes which disk of the layout that a job asks for. Pure."""

from collections.abc import Sequence
from itertools import groupby
from typing import Final

from agent.model.inventory import Drive
from agent.model.job import DeploySpec
from agent.model.layout import Layout
from agent.model.nodes import Array, Disk
from agent.model.storage import DiskAction, Shape, Storage
from agent.model.template import TemplateConfig
from agent.planning.presets import LEAST_DISKS, nearest_shape
from agent.planning.roles import asked_roles, pick_disks
from agent.planning.tables import needs_bytes

_FIRST: Final = "disk0"


def target_disks(
    spec: DeploySpec, template: TemplateConfig, drives: Sequence[Drive]
) -> dict[str, Drive]:
    """Return a drive for each disk that the deployment needs, by its role. Raises PlanRefused.

    For `auto` the template's own disks are tried first, then what `nearest_shape` needs.
    """
    ids, alike, needs = _asked(spec, template)
    if spec.layout is Shape.AUTO and spec.disks is not None and set(spec.disks) != set(ids):
        ids, alike, needs = _named(tuple(spec.disks), template)
    roles = asked_roles(spec.disk, spec.disks, ids)
    # for one disk, what it lacks is said better by the objections of the plan
    return pick_disks(roles, drives, needs=needs if len(ids) > 1 else None, interchangeable=alike)


_Asked = tuple[tuple[str, ...], tuple[frozenset[str], ...], dict[str, int]]


def _asked(spec: DeploySpec, template: TemplateConfig) -> _Asked:
    """Return the roles, which of them are alike, and the bytes that each must have."""
    layout = template.layout
    if isinstance(spec.layout, Storage):
        ids = [one.id for one in spec.layout.config if isinstance(one, DiskAction)]
        return tuple(ids), (), {}
    if spec.layout in (Shape.SAME, Shape.AUTO):
        needs = {disk.id: _needs(layout, disk) for disk in layout.disks}
        if spec.layout is Shape.AUTO:
            needs = {}
        return tuple(disk.id for disk in layout.disks), alike(layout), needs
    if spec.disks is not None:
        return _named(tuple(spec.disks), template)
    count = LEAST_DISKS.get(spec.layout, 1)
    ids = [f"disk{number}" for number in range(count)]
    return tuple(ids), (frozenset(ids),) if count > 1 else (), {}


def _named(ids: tuple[str, ...], template: TemplateConfig) -> _Asked:
    shape = nearest_shape(template.layout, len(ids))
    return ids, (frozenset(ids),) if shape in LEAST_DISKS else (), {}


def _needs(layout: Layout, disk: Disk) -> int:
    parts = layout.partitions(disk.id)
    return needs_bytes(parts, disk.table, disk.sector_bytes) if parts else disk.size_bytes


def alike(layout: Layout) -> tuple[frozenset[str], ...]:
    """Return sets of disks that may change places: the same partitions, all in the same arrays."""

    def shape(disk: Disk) -> tuple[object, ...]:
        parts = [
            (p.number, p.offset_bytes, p.size_bytes, p.type) for p in layout.partitions(disk.id)
        ]
        arrays = sorted(
            node.id
            for node in layout.nodes
            if isinstance(node, Array) and disk in layout.disks_of(node.id)
        )
        return (disk.size_bytes, str(parts), str(arrays)) if arrays else (disk.id,)

    disks = sorted(layout.disks, key=lambda disk: str(shape(disk)))
    groups = [frozenset(d.id for d in found) for _, found in groupby(disks, key=shape)]
    return tuple(group for group in groups if len(group) > 1)
