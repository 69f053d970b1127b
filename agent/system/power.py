"""Reboot and power off: everything synced first, no service to stop."""

import ctypes
import os
import time
from collections.abc import Callable
from typing import Final

from agent.model.job import Finish

_RESTART: Final = 0x01234567
_POWER_OFF: Final = 0x4321FEDC


def finish_machine(finish: Finish, say: Callable[[str], None]) -> None:
    """Reboot or power off, as `finish` says; return at once if the machine is to stay.

    reboot(2) as the kernel's <linux/reboot.h> numbers it. Does not return otherwise.
    """
    if finish is Finish.STAY:
        return
    say("rebooting" if finish is Finish.REBOOT else "powering off")
    time.sleep(1)  # the words reach a slow console
    os.sync()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.reboot(_RESTART if finish is Finish.REBOOT else _POWER_OFF)
    raise OSError(ctypes.get_errno(), "reboot(2) came back")
