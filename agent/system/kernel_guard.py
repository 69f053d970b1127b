"""What the kernel takes from a process before it runs a stranger's code: calls, capabilities.

The filter is a program of classic BPF as seccomp(2) reads it, for x86-64 alone.
"""

import ctypes
import os
import struct
from collections.abc import Iterable
from typing import Final

_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_PR_CAPBSET_DROP: Final = 24
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_SECCOMP_MODE_FILTER: Final = 2
_CAPABILITY_V3: Final = 0x20080522
_SYS_CAPSET: Final = 126

CAP_SYS_ADMIN: Final = 21
KEPT_CAPABILITIES: Final = frozenset({0, 1, 3, 4, 5, 6, 7, 18, 31})
"""chown, dac_override, fowner, fsetid, kill, setgid, setuid, sys_chroot, setfcap."""
_MOST_CAPABILITY: Final = 63

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_EPERM: Final = 0x00050001
_ENOSYS: Final = 0x00050026
_X86_64: Final = 0xC000003E
_X32_BIT: Final = 0x40000000
_NUMBER_AT, _ARCH_AT, _FLAGS_AT, _REQUEST_AT = 0, 4, 16, 24
_NEW_NAMESPACES: Final = 0x7E020080  # CLONE_NEW*: ns, cgroup, uts, ipc, user, pid, net, time

_SYS_IOCTL: Final = 16
_SYS_CLONE: Final = 56
_SYS_CLONE3: Final = 435
DENIED_CALLS: Final = (
    *(101, 103, 134, 135, 139),  # ptrace syslog uselib personality sysfs
    *(153, 154, 155, 156),  # vhangup modify_ldt pivot_root _sysctl
    *(159, 163, 164, 165, 166),  # adjtimex acct settimeofday mount umount2
    *(167, 168, 169, 170, 171),  # swapon swapoff reboot sethostname setdomainname
    *(172, 173, 174, 175, 176),  # iopl ioperm create_module init_module delete_module
    *(177, 178, 179, 180),  # get_kernel_syms query_module quotactl nfsservctl
    *(212, 227, 246, 248, 249, 250),  # lookup_dcookie clock_settime kexec_load and three of keys
    *(272, 279, 298, 300, 301),  # unshare move_pages perf_event_open fanotify: init, mark
    *(303, 304, 305, 308),  # name_to_handle_at open_by_handle_at clock_adjtime setns
    *(310, 311, 312, 313),  # process_vm_readv process_vm_writev kcmp finit_module
    *(320, 321, 323),  # kexec_file_load bpf userfaultfd
    *(425, 426, 427),  # io_uring: what it does, no filter sees
    *(428, 429, 430, 431, 432, 433),  # open_tree move_mount fsopen fsconfig fsmount fspick
    *(434, 438, 440, 442, 443),  # pidfd_open pidfd_getfd process_madvise mount_setattr quotactl_fd
)
_DM_TYPE, _MD_TYPE = 0xFD, 0x09
DM_READS: Final = (0, 2, 7, 11, 12, 13, 17)
"""version, list devices, status, dependencies, table, versions, target version."""
_MD_FIRST_WRITE: Final = 0x20
_TERMINAL_INPUT: Final = 0x5412  # TIOCSTI
_BLKROSET: Final = 0x125D

Instruction = tuple[int, int, int, int]


def filter_program() -> bytes:
    """Return the filter: calls that change the machine fail, device-mapper can only be read."""
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_EQUAL, 1, 0, _X86_64),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, _KILL),
        # C libraries fall back from clone3, whose flags lie in memory, to clone
        (_EQUAL, 0, 1, _SYS_CLONE3),
        (_RETURN, 0, 0, _ENOSYS),
        (_EQUAL, 0, 4, _SYS_CLONE),
        (_LOAD, 0, 0, _FLAGS_AT),
        (_ANY_BIT, 0, 1, _NEW_NAMESPACES),
        (_RETURN, 0, 0, _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    for number in DENIED_CALLS:
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _EPERM)]
    program += [(_EQUAL, 1, 0, _SYS_IOCTL), (_RETURN, 0, 0, _ALLOW), *_about_requests()]
    return b"".join(struct.pack("<HBBI", *one) for one in program)


def _about_requests() -> Iterable[Instruction]:
    """Yield what decides an ioctl by its request: bits 8-15 are a type, 0-7 a number in it."""
    for request in (_TERMINAL_INPUT, _BLKROSET):
        yield from ((_LOAD, 0, 0, _REQUEST_AT), (_EQUAL, 0, 1, request), (_RETURN, 0, 0, _EPERM))
    yield from ((_LOAD, 0, 0, _REQUEST_AT), (_AND, 0, 0, 0xFFFF))
    first, last = _DM_TYPE << 8, (_DM_TYPE << 8) + 0xFF
    for read in DM_READS:
        yield from ((_EQUAL, 0, 1, first + read), (_RETURN, 0, 0, _ALLOW))
    yield from _refuse_between(first, last)
    yield from _refuse_between((_MD_TYPE << 8) + _MD_FIRST_WRITE, (_MD_TYPE << 8) + 0xFF)
    yield (_RETURN, 0, 0, _ALLOW)


def _refuse_between(first: int, last: int) -> Iterable[Instruction]:
    yield from ((_AT_LEAST, 0, 2, first), (_AT_LEAST, 1, 0, last + 1), (_RETURN, 0, 0, _EPERM))


def drop_capabilities(kept: frozenset[int]) -> None:
    """Keep only `kept`, for this process and all it starts. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    for number in range(_MOST_CAPABILITY + 1):
        if number not in kept:
            # the kernel refuses numbers that it has no capability for
            libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    mask = sum(1 << number for number in kept)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    head = struct.pack("Ii", _CAPABILITY_V3, 0)
    data = struct.pack("6I", low, low, 0, high, high, 0)
    if libc.syscall(_SYS_CAPSET, ctypes.c_char_p(head), ctypes.c_char_p(data)) != 0:
        raise _last_error("drop capabilities")


def install_filter() -> None:
    """Put the filter on this process and all it starts; neither can be undone."""
    libc = ctypes.CDLL(None, use_errno=True)
    program = ctypes.create_string_buffer(filter_program())
    count = (len(program) - 1) // 8
    # struct sock_fprog: a short, padding, a pointer
    head = struct.pack("<HxxxxxxQ", count, ctypes.addressof(program))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise _last_error("give up new privileges")
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_char_p(head), 0, 0) != 0:
        raise _last_error("install the filter")


def _last_error(action: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"could not {action}: {os.strerror(number)}")
