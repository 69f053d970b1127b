"""The devices of a layout while it is being made: disks, partitions, arrays, LUKS, volumes."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from agent.errors import AgentError, DiskError
from agent.model.layout import Layout
from agent.model.nodes import Array, Disk, LogicalVolume, Luks, Partition, VolumeGroup
from agent.model.steps import MakeArray, MakeGroup, MakeLogical, MakeLuks
from agent.system import block
from agent.system.command import Runner
from agent.system.hold import locked
from agent.tools import arrays, cryptsetup, lvm

Making = MakeArray | MakeLuks | MakeGroup | MakeLogical


def partition_node(disk: Path, number: int) -> Path:
    """Return where the kernel shows a partition."""
    return Path(block.partition_path(disk, number))


@dataclass(slots=True)
class Devices:
    """Where each node of `layout` is. What stands above partitions appears as it is made."""

    run: Runner
    layout: Layout
    paths: dict[str, Path]
    """The disks to begin with."""
    partition: Callable[[Path, int], Path] = partition_node
    keys: Mapping[str, bytes] = field(default_factory=dict)
    """The key of each LUKS node."""
    locks: dict[str, ExitStack] = field(default_factory=dict)
    """What keeps udevd away from arrays with a table, as from the disks."""

    def path(self, node_id: str) -> Path:
        """Return the device of a node, with nothing stale in the kernel's cache of it.

        A partition's cache is not the disk's: what was written to the disk, it may have missed.
        Raises DiskError for what is not there yet.
        """
        node = self.layout.node(node_id)
        if isinstance(node, Partition):
            path = self.partition(self.paths[node.on], node.number)
        elif node_id in self.paths:
            path = self.paths[node_id]
        else:
            raise DiskError(f"{node_id} has not been made yet")
        block.flush(path)
        return path

    def make(self, step: Making) -> None:
        """Make what `step` names on what it stands on."""
        match step:
            case MakeArray(array=array):
                made = arrays.make(
                    self.run,
                    array,
                    [self.path(member) if member else None for member in array.members],
                    [self.path(spare) for spare in array.spares],
                )
                self.paths[array.id] = made
                if array.table is not None:
                    self.locks[array.id] = ExitStack()
                    self.locks[array.id].enter_context(locked(made))
            case MakeLuks(luks=luks):
                below = self.path(luks.on)
                key = self.keys[luks.id]
                cryptsetup.make_luks(self.run, luks, below, key)
                self.paths[luks.id] = cryptsetup.open_luks(
                    self.run, below, f"metalcast-{luks.id}", key
                )
            case MakeGroup(group=group):
                members = self._members(group)
                for one in group.physical:
                    lvm.make_physical(self.run, members[one.on], one.uuid)
                lvm.make_group(self.run, group, members)
            case MakeLogical(group=group, lv=lv, pool=pool):
                self.paths[lv.id] = lvm.make_logical(
                    self.run, group, lv, pool, self._members(group)
                )

    def new_uuids(self) -> dict[str, tuple[str, str]]:
        """Return, by the old UUID of each array that could not keep it, that which it has got and
        that of its container."""
        made = [node for node in self.layout.nodes if isinstance(node, Array)]
        found = {
            array.uuid: arrays.new_uuids(self.run, array, self.paths[array.id])
            for array in made
            if array.id in self.paths
        }
        return {old: new for old, new in found.items() if new is not None}

    def close(self, node_id: str) -> None:
        """Stop an array, LUKS or group, so that all it holds is on the disks."""
        node = self.layout.node(node_id)
        match node:
            case VolumeGroup():
                members = self._members(node)
                lvm.deactivate(self.run, node, members)
                volumes = [lv for lv in self.layout.above(node_id) if lv.id in self.paths]
                for lv in volumes:
                    del self.paths[lv.id]
                lvm.keep_uuids(
                    self.run,
                    node,
                    [lv for lv in volumes if isinstance(lv, LogicalVolume)],
                    members,
                )
            case Luks() if node_id in self.paths:
                cryptsetup.close_luks(self.run, self.paths.pop(node_id).name)
            case Array() if node_id in self.paths:
                if node_id in self.locks:
                    self.locks.pop(node_id).close()
                arrays.stop(self.run, self.paths[node_id])
                del self.paths[node_id]
            case _:
                pass

    def _members(self, group: VolumeGroup) -> dict[str, Path]:
        return {one.on: self.path(one.on) for one in group.physical}

    def close_all(self) -> tuple[str, ...]:
        """Stop whatever was made, after a failure. Returns what could not be; never raises."""
        complaints = []
        for node in reversed(self.layout.nodes):
            made = node.id in self.paths or (
                isinstance(node, VolumeGroup)
                and any(isinstance(lv, LogicalVolume) for lv in self.layout.above(node.id))
            )
            if made and not isinstance(node, Disk | Partition | LogicalVolume):
                try:
                    self.close(node.id)
                except (AgentError, OSError) as error:
                    complaints.append(f"{node.id}: {error}")
        return tuple(complaints)
