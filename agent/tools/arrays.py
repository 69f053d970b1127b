"""The one door to md arrays: which tool reads, makes and stops one is told by its kind.

mdadm and the kernel do most; Intel's RAID has a container around it, and linear arrays are shown
by device-mapper. Devices are numbered ones, `/dev/md100`: their node is the kernel's own, so
nothing waits for a link that udev makes later.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from agent.errors import AgentError, DiskError
from agent.model.md_size import earlier_offset
from agent.model.nodes import Array, MdLevel, MdMetadata
from agent.system import block
from agent.system.command import Runner
from agent.tools import imsm, md_linear, mdadm

_FIRST_NUMBER: Final = 100


def assemble_read_only(run: Runner, array: Array, devices: Sequence[Path]) -> Path:
    """Start `array` on `devices`, by slot, the spares not among them; return its device.

    The members are write-protected and stay so. It starts with members missing, too.
    Raises CommandFailed if it cannot run.
    """
    for device in devices:
        block.set_read_only(device, True)
    target, container = _free_devices()
    if array.level is MdLevel.LINEAR:
        return md_linear.show(run, target.name, array, devices, read_only=True)
    with _stopped_if_it_fails(run, target, container):
        if array.metadata is MdMetadata.IMSM:
            imsm.assemble_read_only(run, container, target, devices)
        else:
            mdadm.assemble_read_only(run, target, devices)
        block.wait_for_node(target)
        block.set_read_only(target, True)
    return target


def make(
    run: Runner, array: Array, devices: Sequence[Path | None], spares: Sequence[Path] = ()
) -> Path:
    """Make `array` on `devices`, by slot, and return its device. What they held is gone.

    None makes it degraded there; of Intel's RAID and of a linear array all must be given. Its
    copies and parity are right when `wait_for_sync` returns. It holds as many bytes as `array`
    says, or more; raises DiskError if that cannot be.
    """
    target, container = _free_devices()
    present = [device for device in devices if device is not None]
    if array.level is MdLevel.LINEAR:
        return md_linear.make(run, target, array, present)
    with _stopped_if_it_fails(run, target, container):
        if array.metadata is MdMetadata.IMSM:
            imsm.make(run, array, container, target, present)
        else:
            mdadm.make(run, array, target, devices, spares)
        block.wait_for_node(target)
        if (missing := array.size_bytes - block.size_bytes(target)) > 0:
            _make_larger(run, array, target, devices, spares, missing)
    return target


def new_uuids(run: Runner, array: Array, device: Path) -> tuple[str, str] | None:
    """Return the UUIDs that `array`, made as `device`, and its container have got; None: it has
    that of `array`."""
    return imsm.uuids(run, device) if array.metadata is MdMetadata.IMSM else None


def stop(run: Runner, device: Path) -> None:
    """Stop what the other two have started; all that it holds is then on its members."""
    if device.parent == md_linear.MAPPER:
        md_linear.hide(run, device)
        return
    container = imsm.container_of(device)
    mdadm.stop(run, device)
    if container is not None:
        mdadm.stop(run, container)


def _make_larger(
    run: Runner,
    array: Array,
    target: Path,
    devices: Sequence[Path | None],
    spares: Sequence[Path],
    missing: int,
) -> None:
    """Make it once more with its data further in front: mdadm before 3.2.5 left less there."""
    present = [device for device in devices if device is not None]
    at = None
    if made := mdadm.examine(run, present[0]):
        sizes = [block.size_bytes(device) for device in present]
        at = earlier_offset(array, sizes, made.data_offset_bytes, missing)
    if at is not None:
        mdadm.stop(run, target)
        mdadm.make(run, array, target, devices, spares, data_offset_bytes=at)
        block.wait_for_node(target)
        missing = array.size_bytes - block.size_bytes(target)
    if missing > 0:
        raise DiskError(
            f"{array.id} ({array.words}) holds {array.size_bytes - missing} bytes on these disks, "
            f"and {array.size_bytes} are to be put on it",
            hint="take larger disks, or another layout (layout auto)",
        )


@contextmanager
def _stopped_if_it_fails(run: Runner, target: Path, container: Path) -> Iterator[None]:
    """Leave nothing half started that would keep the members busy."""
    try:
        yield
    except BaseException:
        for device in (target, container):
            if Path("/sys/class/block", device.name).exists():
                with suppress(AgentError):
                    mdadm.stop(run, device)
        raise


def _free_devices() -> tuple[Path, Path]:
    """Return two devices that no array has now: for one, and for a container around it."""
    taken = {path.name for path in Path("/sys/class/block").glob("md*")} | md_linear.shown()
    names = (f"md{number}" for number in range(_FIRST_NUMBER, 10000))
    free = (Path("/dev", name) for name in names if name not in taken)
    return next(free), next(free)
