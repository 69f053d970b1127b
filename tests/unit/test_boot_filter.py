"""The filter of system calls, read by a small machine for classic BPF."""

import struct
from pathlib import Path

import pytest

from agent.system.kernel_guard import DENIED_CALLS, DM_READS, filter_program
from agent.system.sandbox import known_arrays, memory_bound, quoted

X86_64, I386 = 0xC000003E, 0x40000003
ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000


def judge(number: int, *arguments: int, arch: int = X86_64) -> int:
    """Return what the filter says to one call."""
    six = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, arch, 0, *six)
    program = list(struct.iter_unpack("<HBBI", filter_program()))
    at = accumulator = 0
    while True:
        code, yes, no, value = program[at]
        at += 1
        match code:
            case 0x20:
                accumulator = struct.unpack_from("<I", data, value)[0]
            case 0x15:
                at += yes if accumulator == value else no
            case 0x35:
                at += yes if accumulator >= value else no
            case 0x45:
                at += yes if accumulator & value else no
            case 0x54:
                accumulator &= value
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(f"not an instruction of ours: {code:#x}")


def test_plain_work_is_allowed() -> None:
    for number in (0, 1, 2, 9, 59, 257, 262, 61, 57, 133, 161):  # read write open … mknod chroot
        assert judge(number) == ALLOW


@pytest.mark.parametrize("number", DENIED_CALLS)
def test_calls_that_change_the_machine_fail(number: int) -> None:
    assert judge(number) == EPERM


def test_other_tables_of_calls_end_the_process() -> None:
    assert judge(0, arch=I386) == KILL
    assert judge(0x40000000 | 165) == KILL


def test_no_namespace_is_made() -> None:
    assert judge(56, 17) == ALLOW  # SIGCHLD: a plain fork
    for flag in (0x00020000, 0x10000000, 0x20000000, 0x40000000, 0x02000000, 0x80):
        assert judge(56, flag | 17) == EPERM
    assert judge(435) == ENOSYS


def test_device_mapper_and_md_are_only_read() -> None:
    for number in range(32):
        request = 0xC138FD00 + number
        assert judge(16, 3, request) == (ALLOW if number in DM_READS else EPERM)
    assert judge(16, 3, 0x80480911) == ALLOW  # GET_ARRAY_INFO
    assert judge(16, 3, 0x80140912) == ALLOW  # GET_DISK_INFO
    for write in (0x40140921, 0x40480923, 0x400C0930, 0x00000932, 0x40140928):
        assert judge(16, 3, write) == EPERM
    assert judge(16, 3, 0x5401) == ALLOW  # TCGETS
    assert judge(16, 0, 0x5412) == EPERM  # TIOCSTI
    assert judge(16, 3, 0x125D) == EPERM  # BLKROSET


def test_three_quarters_of_what_is_free_may_be_used() -> None:
    assert memory_bound("MemTotal: 9 kB\nMemAvailable:    2097152 kB\n") == 1536 * 1024 * 1024
    assert memory_bound("MemAvailable: 1 kB\n") == memory_bound("")


def test_what_a_program_said_is_quoted_without_signs_for_a_terminal() -> None:
    assert quoted("one\n\n\x1b[2Jtwo\n") == ": one | ?[2Jtwo"
    assert quoted("") == ""
    assert quoted("\n".join(map(str, range(20)))).startswith(": 12 | 13")


def test_mdadm_is_told_of_its_own_arrays_alone(tmp_path: Path) -> None:
    path = tmp_path / "map"
    # as mdadm 4.4 keeps it in /run/mdadm
    ours = "md127 1.2 11112222:33334444:55556666:77778888 /dev/md/metalcast-md0\n"
    path.write_text(ours + "md126 1.2 99992222:33334444:55556666:77778888 /dev/md/other\n")
    assert known_arrays(path, {"vda", "vda1", "md127"}) == ours
    assert known_arrays(path, {"vda"}) == ""
    assert known_arrays(tmp_path / "none", {"md127"}) == ""
