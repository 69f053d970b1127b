"""May this host run guests on its own processor, or must every instruction be emulated?

A /dev/kvm that opens may still hang an ordinary guest, so only a kernel that really boots counts.
"""

import contextlib
import functools
import os
import subprocess
from pathlib import Path

from tests.harness.cache import cache_dir, key_of, locked

EMULATED = "tcg,thread=multi"
_LIMIT_S = 20
_SIGN_OF_LIFE = b"Kernel panic"  # a kernel without a root filesystem gets that far, and no further


@functools.cache
def accelerator(kernel: Path) -> str:
    """Return the value for QEMU's -accel; $METALCAST_ACCEL decides before any look.

    The answer is kept until the host boots again.
    """
    if named := os.environ.get("METALCAST_ACCEL"):
        return named
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return EMULATED
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known = cache_dir() / "accel"
    with locked(cache_dir() / "accel.lock"):
        if known.exists() and known.read_text().startswith(key_of(boot)):
            return known.read_text().split()[1]
        answer = "kvm" if _boots_with_kvm(kernel) else EMULATED
        known.write_text(f"{key_of(boot)} {answer}\n")
    return answer


def _boots_with_kvm(kernel: Path) -> bool:
    words = "qemu-system-x86_64 -accel kvm -cpu max -machine q35 -m 256 -nodefaults -display none"
    words += " -serial stdio -no-reboot -append"
    guest = subprocess.Popen(
        [*words.split(), "console=ttyS0 panic=-1", "-kernel", str(kernel)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        said, _ = guest.communicate(timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        # A guest stuck in the kernel may not even die at once: never wait for it without a limit.
        guest.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            guest.wait(5)
        return False
    return _SIGN_OF_LIFE in said
