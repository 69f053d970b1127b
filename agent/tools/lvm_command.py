"""How a command of lvm(8) is called: it sees the devices that it is given, and no others.

No devices file, no filter and no cache of another time decides what a command sees, and nothing is
written outside of the devices: no backups, no archives. Nothing watches the volumes.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from agent.system.command import Output, Runner, Word

_CONFIG: Final = (
    'devices { hints="none" scan_lvs=1 external_device_info_source="none" '
    'filter=["a|.*|"] global_filter=["a|.*|"] } '
    "backup { backup=0 archive=0 } "
    "activation { monitoring=0 } "
    # The image has none of these programs: the kernel itself refuses damaged thin metadata.
    'global { event_activation=0 thin_check_executable="" thin_dump_executable="" '
    'thin_repair_executable="" use_lvmlockd=0 }'
)
_TIMEOUT_S: Final = 300.0


def lvm(
    run: Runner,
    words: Sequence[Word],
    devices: Iterable[Path],
    more: str = "",
    ok: Sequence[int] = (0,),
) -> Output:
    """Run a command of LVM that sees only `devices`; `more` adds to its configuration."""
    seen = [word for device in devices for word in ("--devices", device)]
    program, *rest = words
    config = f"{_CONFIG} {more}".strip()
    return run(["lvm", program, *seen, "--config", config, *rest], timeout_s=_TIMEOUT_S, ok=ok)
